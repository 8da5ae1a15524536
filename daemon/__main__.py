"""The program `architectd`: reads its arguments, serves until SIGTERM."""

import sys

from architect.program import serve
from daemon.arguments import parse
from daemon.kernel import NetnsKernel, adopt
from daemon.service import run


def main() -> None:
    """Run the daemon."""
    settings = parse(sys.argv[1:])
    serve("daemon", settings.log_level, lambda stop: run(settings, stop, kernel=NetnsKernel(), adopt=adopt))


if __name__ == "__main__":
    main()
