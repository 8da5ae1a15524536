"""A container that has started afresh while packets are held for it: when it can answer them.

Released before it listens, they would be refused: its clients would see a closed port where there was a
service.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from architect import images
from architect.engine.cgroup import Cgroup
from architect.engine.children import Ended
from architect.gate import GateError, sockets
from architect.settings import Port

if TYPE_CHECKING:
    from shim.container import Container

_SECONDS: Final = 30.0
_TICK_SECONDS: Final = 0.02  # the kernel tells nobody when a socket begins to listen

log = logging.getLogger(__name__)


def aside(path: str, reason: str) -> str:
    """Keeps the image at `path`, if there is one, for diagnosis: the container must run all the same. What
    became of it, as a sentence.
    """
    try:
        image = images.ImageDir.at(path)
        if not os.path.isdir(image.path):
            return "there is no image of its memory"
        return f"its memory is kept in {images.quarantine(image, reason)}"
    except ValueError:
        return "there is no image of its memory"
    except OSError as error:
        return f"its memory is not put aside ({error})"


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


async def start_afresh(
    container: Container, listened: Collection[Port], *, made: bool = False
) -> asyncio.Future[Ended]:
    """Starts the container anew, making it first unless it was `made` already; its first process's end.

    Returns when it listens, or when it has not done so for long. Raises EngineError, OSError.
    """
    if made:
        await container.runc.start()
        end = container.init_end
    else:
        await container.recreate()
        end = container.children.ended(container.init.pid)
    assert container.cgroup is not None  # runc has made it
    try:
        if not await listens_again(container.cgroup, listened, end, _SECONDS):
            log.warning("container %s started fresh and does not listen", container.id)
    except GateError as error:
        log.warning("whether container %s listens is unknown: %s", container.id, error)
    return end
