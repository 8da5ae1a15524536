"""Follows a collection for as long as anybody lives: lists it, watches it, lists again when it has to.

The listener hears the whole as it is, then every change; after a gap, however long, the whole again. It hears
nothing twice that it could not hear twice: whoever acts on the state, not on the change, is right in the end.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from architect.kube.client import Client
from architect.kube.errors import ApiError, Expired

WATCH_SECONDS: Final = 300
FIRST_PAUSE_SECONDS: Final = 0.25
LONGEST_PAUSE_SECONDS: Final = 30.0
_SHORT_SECONDS: Final = 1.0

log = logging.getLogger(__name__)
Object = dict[str, Any]


class Listener[T](Protocol):
    """Who hears of a collection, in objects of its own liking."""

    def listed(self, items: list[T]) -> None:
        """All there is."""

    def changed(self, item: T) -> None:
        """One is new, or is so now."""

    def deleted(self, item: T) -> None:
        """One is gone; so it was last."""

    def lost(self, reason: str) -> None:
        """Nothing is heard at the moment. Said once a gap."""


@dataclass(slots=True)
class Backoff:
    """Pauses between attempts: doubled with each, up to a bound, and scattered, so that the nodes of a
    cluster do not all come back in the same instant.
    """

    first: float = FIRST_PAUSE_SECONDS
    longest: float = LONGEST_PAUSE_SECONDS
    chance: Callable[[], float] = random.random  # from 0 to 1
    _next: float = field(default=0.0, init=False)

    def pause(self, at_least: float = 0.0) -> float:
        """Seconds to wait now; `at_least` is what a server asked for, believed up to `longest`."""
        self._next = min(2 * self._next or self.first, self.longest)
        return max(min(at_least, self.longest), self._next * (0.5 + self.chance() / 2))

    def reset(self) -> None:
        """It went well."""
        self._next = 0.0


class Following[T]:
    """One collection at `path`, narrowed down by `query` (selectors).

    `reduce` keeps of each object what is needed.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        listener: Listener[T],
        reduce: Callable[[Object], T],
        *,
        backoff: Backoff | None = None,
        **query: str,
    ) -> None:
        self._client = client
        self._path = path
        self._listener = listener
        self._reduce = reduce
        self._query = query
        self._backoff = backoff or Backoff()

    async def run(self) -> None:
        """Follows until it is cancelled."""
        lost = False
        while True:
            try:
                version = await self._list()
                lost = False
                while True:
                    began = time.monotonic()
                    version = await self._watch(version)
                    if time.monotonic() - began < _SHORT_SECONDS:  # it ends watches as soon as they begin
                        await asyncio.sleep(self._backoff.pause())
            except Expired as error:
                log.debug("a collection is listed anew", extra={"path": self._path, "reason": str(error)})
                await asyncio.sleep(self._backoff.pause(error.after))
            except ApiError as error:
                if not lost:
                    lost = True
                    self._listener.lost(str(error))
                await asyncio.sleep(self._backoff.pause(error.after))

    async def _list(self) -> str:
        """Tells all there is; answers the version it was in."""
        found: list[T] = []
        version = ""
        async for items, version in self._client.pages(self._path, **self._query):  # noqa: B007  the last counts
            found.extend(self._reduce(item) for item in items)
        self._listener.listed(found)
        return version

    async def _watch(self, version: str) -> str:
        """Tells every change until the server ends the watch; answers the version to go on from."""
        # Scattered, so that the watches of many nodes do not all end together.
        seconds = int(WATCH_SECONDS * (1 + random.random()))  # noqa: S311  nothing secret
        async with self._client.watch(self._path, version=version, seconds=seconds, **self._query) as events:
            async for kind, item in events:
                self._backoff.reset()
                version = str((item.get("metadata") or {}).get("resourceVersion") or version)
                if kind == "DELETED":
                    self._listener.deleted(self._reduce(item))
                elif kind in ("ADDED", "MODIFIED"):
                    self._listener.changed(self._reduce(item))
        return version
