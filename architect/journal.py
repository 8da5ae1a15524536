"""A process's log: JSON lines on standard error, a constant sentence and fields in each."""

from __future__ import annotations

import logging
import sys
from typing import Final

from pythonjsonlogger.json import JsonFormatter

_NAMES: Final = {"asctime": "time", "levelname": "level", "name": "logger"}


def log_as_json(level: str) -> None:
    """Sends everything logged in this process, from `level` on, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter("{asctime}{levelname}{name}{message}", style="{", rename_fields=_NAMES)
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
