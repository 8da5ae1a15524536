"""Waiting for what is kept in memory to change: by key, and for anything at all."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final

ANY: Final = object()


class Listeners:
    """Who waits for what. An event stays set until its owner clears it, so that no change is missed."""

    def __init__(self) -> None:
        self._events: dict[Hashable, set[asyncio.Event]] = defaultdict(set)

    @contextmanager
    def to(self, key: Hashable) -> Iterator[asyncio.Event]:
        """An event that is set whenever `key` is rung."""
        event = asyncio.Event()
        self._events[key].add(event)
        try:
            yield event
        finally:
            self._events[key].discard(event)
            if not self._events[key]:
                del self._events[key]

    def ring(self, key: Hashable) -> None:
        """It has changed."""
        for each in (key, ANY):
            for event in self._events.get(each, ()):
                event.set()

    def ring_all(self) -> None:
        """Everything may have changed."""
        for events in self._events.values():
            for event in events:
                event.set()

    async def until(self, key: Hashable, condition: Callable[[], bool]) -> None:
        """Returns when `condition` holds; it is looked at whenever `key` is rung."""
        with self.to(key) as event:
            while not condition():
                await event.wait()
                event.clear()
