"""What containers that are gone have left on this node's disk is removed, when a day long nobody wanted it.

The day is counted from when this daemon saw it first, by a clock that nobody sets. The age of the files says
nothing: a sleeper may have slept for weeks before its node went down, or its shim was killed just now, and
its container is not started yet. What serves it, or will, are shims, and no other is asked.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from typing import Final

from architect import images
from daemon.node import Node

PAUSE_SECONDS: Final = 3600.0
KEPT_SECONDS: Final = 86_400.0

log = logging.getLogger(__name__)


class Sweeping:
    """Sweeps the images in `root`; `shims` is the directory of the shims' sockets."""

    def __init__(
        self,
        node: Node,
        shims: str,
        root: str = images.ROOT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._shims = shims
        self._root = root
        self._clock = clock
        self._since: dict[tuple[str, int], float] = {}
        """Since when something has been seen unserved, and unchanged."""

    async def run(self) -> None:
        """Sweeps once an hour, until it is cancelled."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            await self.sweep()

    async def sweep(self) -> list[str]:
        """Removes what nobody has served or changed for a day; the paths removed.

        Nothing while a shim is not heard: those of older releases claim nothing.
        """
        try:
            sockets = sum(name.endswith(".sock") for name in os.listdir(self._shims))
            if len(self._node.shims) < sockets:
                log.info("nothing is swept while a shim does not answer")
                return []
            live = {shim.pod.uid for shim in self._node.shims}
            found = await asyncio.to_thread(images.unserved, self._root, live)
        except OSError as error:
            log.warning("nothing is swept", extra={"reason": str(error)})
            return []
        now = self._clock()
        self._since = {each: self._since.get(each, now) for each in found.items()}
        overdue = [each for each, since in self._since.items() if now - since >= KEPT_SECONDS]
        return [path for path, changed_ns in overdue if await self._remove(path, changed_ns)]

    async def _remove(self, path: str, changed_ns: int) -> bool:
        try:
            removed = await asyncio.to_thread(images.sweep, path, changed_ns)
        except OSError as error:
            log.warning("an image is left behind", extra={"path": path, "reason": str(error)})
            return False
        if removed:
            log.info("what a container has left was removed", extra={"path": path})
        return removed
