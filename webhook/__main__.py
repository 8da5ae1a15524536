"""The program: reads its arguments, serves until SIGTERM."""

import sys

from architect.program import serve
from webhook.arguments import parse
from webhook.service import run


def main() -> None:
    """Run the webhook."""
    settings = parse(sys.argv[1:])
    serve("webhook", settings.log_level, lambda stop: run(settings, stop))


if __name__ == "__main__":
    main()
