"""`python3 -m architect.cli`: the command `architect` where it is not installed."""

from architect.cli import main

if __name__ == "__main__":
    main()
