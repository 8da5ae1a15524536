"""The program: reads its arguments, serves until SIGTERM."""

import sys

from architect.program import serve
from controlplane.arguments import parse
from controlplane.program import run


def main() -> None:
    """Run the control plane."""
    settings = parse(sys.argv[1:])
    serve("controlplane", settings.log_level, lambda stop: run(settings, stop))


if __name__ == "__main__":
    main()
