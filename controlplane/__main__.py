"""The program: reads its arguments, sets up its log, serves until SIGTERM."""

import asyncio
import logging
import signal
import sys

from architect.journal import log_as_json
from controlplane.arguments import Settings, parse
from controlplane.program import Unable, run


def main() -> None:
    """Run the control plane; the exit status is 1 when it cannot serve, with the reason in its log."""
    settings = parse(sys.argv[1:])
    log_as_json(settings.log_level)
    try:
        asyncio.run(_until_told(settings))
    except Unable as error:
        logging.getLogger("controlplane").error("cannot serve", extra={"reason": str(error)})  # noqa: TRY400
        sys.exit(1)


async def _until_told(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(settings, stop)


if __name__ == "__main__":
    main()
