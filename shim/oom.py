"""Out-of-memory kills of a container, as the kernel tells of them: an event to containerd for each.

The cgroup lives on through sleep, so one watch serves any number of wakes. cgroup v1 signals an eventfd
(Documentation/admin-guide/cgroup-v1/memory.rst, section 10); on v2 `memory.events` is modified and counts.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from architect.engine.cgroup import Cgroup
from architect.inotify import MODIFY, Inotify

log = logging.getLogger(__name__)


def watch(cgroup: Cgroup, killed: Callable[[], None]) -> asyncio.Task[None] | None:
    """Calls `killed` whenever the kernel kills in `cgroup` for want of memory, until the task is cancelled.

    None where this node does not count memory by cgroup.
    """
    directory = cgroup.paths.get("" if cgroup.unified else "memory")
    name = "memory.events" if cgroup.unified else "memory.oom_control"
    if directory is None or not os.path.exists(f"{directory}/{name}"):
        return None
    work = _watch_v2(directory, killed) if cgroup.unified else _watch_v1(directory, killed)
    return asyncio.create_task(_until_gone(directory, work), name=f"oom {directory}")


async def _until_gone(directory: str, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except OSError as error:
        if os.path.exists(directory):
            log.warning("out-of-memory kills in %s will not be reported: %s", directory, error)


async def _watch_v1(directory: str, killed: Callable[[], None]) -> None:
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()
    try:
        control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            Path(directory, "cgroup.event_control").write_text(f"{event} {control}")
        finally:
            os.close(control)
        loop.add_reader(event, signalled.set)
        while True:
            await signalled.wait()
            signalled.clear()
            os.eventfd_read(event)
            if not os.path.exists(directory):
                return  # removing the cgroup signals, too
            killed()
    finally:
        loop.remove_reader(event)
        os.close(event)


async def _watch_v2(directory: str, killed: Callable[[], None]) -> None:
    path = f"{directory}/memory.events"
    seen = _kills(path)
    with Inotify(path, MODIFY) as changes:
        while True:
            await changes.next()
            now = _kills(path)
            if now > seen:
                killed()
            seen = now


def _kills(path: str) -> int:
    """The counter `oom_kill` of a memory.events file."""
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return 0
