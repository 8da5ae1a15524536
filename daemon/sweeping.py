"""What containers that are gone have left on this node's disk is removed, a day later.

A day: so long it can be looked at, and put back by hand. An hour after the daemon's start at the earliest:
after a boot, sleepers' images wait for their containers to be started. Nothing here decides what is live but
the claims of shims and what all of them say.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Final

from architect import images
from daemon.node import Node

PAUSE_SECONDS: Final = 3600.0
KEPT_SECONDS: Final = 86_400.0

log = logging.getLogger(__name__)


class Sweeping:
    """Sweeps the images in `root`; `shims` is the directory of the shims' sockets."""

    def __init__(self, node: Node, shims: str, root: str = images.ROOT) -> None:
        self._node = node
        self._shims = shims
        self._root = root

    async def run(self) -> None:
        """Sweeps once an hour, until it is cancelled."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            await self.sweep(time.time() - KEPT_SECONDS)

    async def sweep(self, before: float) -> list[str]:
        """Removes what nobody has used since `before` (seconds since the epoch); the paths removed.

        Nothing while a shim is not heard: those of older releases claim nothing.
        """
        sockets = sum(name.endswith(".sock") for name in os.listdir(self._shims))
        if len(self._node.shims) < sockets:
            log.info("nothing is swept while a shim does not answer")
            return []
        live = {shim.pod.uid for shim in self._node.shims}
        removed: list[str] = []
        try:
            removed = await asyncio.to_thread(images.sweep, self._root, live, before)
        except* OSError as errors:
            for error in errors.exceptions:
                log.warning("an image is left behind", extra={"reason": str(error)})
        for path in removed:
            log.info("what a container has left was removed", extra={"path": path})
        return removed
