"""A container that has started afresh while packets are held for it: when it can answer them.

Released before it listens, they would be refused: its clients would see a closed port where there was a
service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

from architect.engine.cgroup import Cgroup
from architect.engine.children import Ended
from architect.gate import sockets
from architect.settings import Port

_TICK_SECONDS: Final = 0.02  # the kernel tells nobody when a socket begins to listen


def awaited(declared: Collection[Port], listening: Collection[Port]) -> set[Port]:
    """Which ports a fresh start waits for: of those that were `listening`, the declared ones; where none was
    declared, the TCP ones. (A bound UDP port may be a resolver's, another one each time.)
    """
    return set(declared) & set(listening) or {port for port in listening if port.protocol == "TCP"}


async def listens_again(
    cgroup: Cgroup, ports: Collection[Port], end: asyncio.Future[Ended], seconds: float
) -> bool:
    """Waits until the container listens on all `ports`. False when it has ended, or after `seconds`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not set(ports) <= set(sockets.snapshot(cgroup.pids()).listening()):
        if end.done() or loop.time() > deadline:
            return False
        await asyncio.wait({end}, timeout=_TICK_SECONDS)
    return True
