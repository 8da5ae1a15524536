"""A limit on bytes per second that any number of threads share."""

from __future__ import annotations

import threading
import time
from typing import Final

_BURST_SECONDS: Final = 0.25


class Pace:
    """So many bytes per second, at most a quarter of a second's worth of them at once; 0 is no limit."""

    def __init__(self, bytes_per_second: int = 0) -> None:
        if bytes_per_second < 0:
            raise ValueError(f"{bytes_per_second} bytes per second is no limit")
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._paid_until = 0.0

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self._rate > 0

    def wait(self, count: int, stopped: threading.Event) -> None:
        """Returns when `count` more bytes may be sent, or it is `stopped`."""
        with self._lock:
            now = time.monotonic()
            self._paid_until = max(self._paid_until, now - _BURST_SECONDS) + count / self._rate
            seconds = self._paid_until - now
        if seconds > 0:
            stopped.wait(seconds)
