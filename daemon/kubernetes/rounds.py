"""One round of work at a time for each key, and at most one more to come, however often it is asked for.

The work looks at how things are when its round comes, so nothing is lost by asking twice or late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from daemon.supervision import Tasks

TOGETHER: Final = 4
"""Rounds at the same time."""
SETTLE_SECONDS: Final = 0.1
"""From the first asking to the round: what comes together is done together."""
APART_SECONDS: Final = 1.0
"""From one round of a key to its next."""


class Rounds:
    """`work(key)` for each key that is asked for. It answers in how many seconds to come again, or None."""

    def __init__(self, tasks: Tasks, work: Callable[[str], Awaitable[float | None]]) -> None:
        self._tasks = tasks
        self._work = work
        self._slots = asyncio.Semaphore(TOGETHER)
        self._asked: set[str] = set()
        self._running: set[str] = set()
        self._later: dict[str, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._asked | self._running)

    def ask(self, key: str) -> None:
        """A round for `key` is due."""
        self._asked.add(key)
        if key not in self._running:
            self._running.add(key)
            self._tasks.start(f"report {key}", self._run(key))

    def forget(self, key: str) -> None:
        """Nothing is to be done for `key` any more; a round under way ends by itself."""
        self._asked.discard(key)
        if timer := self._later.pop(key, None):
            timer.cancel()

    def close(self) -> None:
        """Takes the timers away; the tasks are their owner's."""
        for key in list(self._later):
            self.forget(key)

    async def _run(self, key: str) -> None:
        try:
            while key in self._asked:
                await asyncio.sleep(SETTLE_SECONDS)
                async with self._slots:
                    self.forget(key)
                    after = await self._work(key)
                if after is not None:
                    self._later[key] = asyncio.get_running_loop().call_later(after, self._again, key)
                await asyncio.sleep(APART_SECONDS)
        finally:
            self._running.discard(key)

    def _again(self, key: str) -> None:
        self._later.pop(key, None)
        self.ask(key)
