"""What the programs of Architect have in common: how they begin, and how they end."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable

from architect.journal import log_as_json


class Unable(Exception):
    """The program cannot serve; the message says why, and what to do."""


def serve(name: str, log_level: str, run: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs until SIGTERM or SIGINT sets the event that `run` is given. Ends the process with status 1, and
    the reason in its log, when `run` raises Unable.
    """
    log_as_json(log_level)
    try:
        asyncio.run(_until_told(run))
    except Unable as error:
        logging.getLogger(name).error("cannot serve", extra={"reason": str(error)})  # noqa: TRY400
        sys.exit(1)


async def _until_told(run: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(stop)
