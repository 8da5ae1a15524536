"""The shim's log: lines to containerd through the bundle's `log` FIFO, without ever waiting for it."""

from __future__ import annotations

import logging
import os
import time


class FifoHandler(logging.Handler):
    """Writes lines as containerd's own shims do; a line that the FIFO has no room for is dropped."""

    def __init__(self, path: str) -> None:
        super().__init__()
        # Read-write: opening does not wait for containerd, and its end does not break the pipe.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Formats and writes one record."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        if not quoted.isprintable():  # a client's words may hold what moves a terminal's cursor
            quoted = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in quoted)
        line = f'time="{stamp}" level={record.levelname.lower()} msg="{quoted}" from={record.name}\n'
        try:
            os.write(self._fd, line.encode())
        except BlockingIOError:
            return


def log_to_containerd(path: str, *, debug: bool) -> None:
    """Sends the log of this process to the FIFO at `path`; with none there, nowhere."""
    root = logging.getLogger()
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    try:
        root.addHandler(FifoHandler(path))
    except OSError:
        root.addHandler(logging.NullHandler())
