"""How often a restore that fails is tried again, before the container is started with empty memory instead.

What fails is mostly the node (memory, descriptors, a CRIU that is being replaced), not the image: as long as
there is hope, a container that sleeps on and refuses is worth more than one that has forgotten everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

LEAST: Final = 6
PATIENCE_SECONDS: Final = 30.0
_FIRST_PAUSE: Final = 1.0


class Tries:
    """The failed wakes of one sleep. `again` is called for another one, after a pause that doubles."""

    def __init__(self, again: Callable[[], None]) -> None:
        self._again = again
        self._count = 0
        self._since = 0.0
        self._pause = _FIRST_PAUSE
        self._timer: asyncio.TimerHandle | None = None

    def failed(self) -> bool:
        """Counts a failed wake. Whether to try again; False after `LEAST` in at least `PATIENCE_SECONDS`."""
        now = asyncio.get_running_loop().time()
        self._count += 1
        if self._count == 1:
            self._since = now
        return self._count < LEAST or now - self._since < PATIENCE_SECONDS

    def later(self) -> None:
        """Plans the next one, unless it is planned already."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._fire)
            self._pause *= 2

    def _fire(self) -> None:
        self._timer = None
        self._again()

    def over(self) -> None:
        """The sleep has ended: the next one begins without failures."""
        if self._timer is not None:
            self._timer.cancel()
        self._count, self._pause, self._timer = 0, _FIRST_PAUSE, None
