"""Every task has a name and an owner, and none ends unheard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Tasks:
    """Tasks of one owner. One that fails is logged with its evidence and disturbs no other."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[Any], None] = {}  # in the order of their start
        self._closed = False

    def start[R](self, name: str, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Runs `work` as a task called `name` until it ends or its owner closes."""
        task = asyncio.create_task(work, name=name)
        self._running[task] = None
        task.add_done_callback(self._ended)
        if self._closed:  # started by what is being ended: it ends, too
            task.cancel()
        return task

    async def close(self) -> None:
        """Cancels what runs, the youngest first, and waits until all of it has ended."""
        self._closed = True
        while self._running:
            tasks = list(self._running)
            for task in reversed(tasks):
                task.cancel()
            await asyncio.wait(tasks)
            await asyncio.sleep(0)  # lets the callbacks run that take them out

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task failed", extra={"task": task.get_name()}, exc_info=error)
