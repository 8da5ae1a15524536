"""Waiting for something in the cluster: a collection is followed until what it holds is an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from architect.kube import Client
from architect.kube.following import Following

Object = dict[str, Any]


class _Seen[T]:
    """All objects of a collection as they are now; `answer`: what `said` first makes of them that is true."""

    def __init__(self, said: Callable[[list[Object]], T | None]) -> None:
        self.answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._said = said
        self._objects: dict[str, Object] = {}

    def listed(self, items: list[Object]) -> None:
        self._objects = {item["metadata"]["uid"]: item for item in items}
        self._look()

    def changed(self, item: Object) -> None:
        self._objects[item["metadata"]["uid"]] = item
        self._look()

    def deleted(self, item: Object) -> None:
        self._objects.pop(item["metadata"]["uid"], None)
        self._look()

    def lost(self, reason: str) -> None:
        """It is followed again, sooner or later; who waits has a deadline."""

    def _look(self) -> None:
        found = self._said(list(self._objects.values()))
        if found and not self.answer.done():
            self.answer.set_result(found)


async def until[T](
    client: Client, path: str, said: Callable[[list[Object]], T | None], *, only: str = ""
) -> T:
    """What `said` makes of the objects at `path`, or of the one called `only`, once that is true.

    Goes on through every failure of the API server: whoever waits sets a deadline.
    """
    seen = _Seen(said)
    query: dict[str, Any] = {"fieldSelector": f"metadata.name={only}"} if only else {}
    following = asyncio.create_task(Following(client, path, seen, lambda item: item, **query).run())
    following.add_done_callback(lambda task: _fail(seen.answer, task))
    try:
        return await seen.answer
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def _fail(answer: asyncio.Future[Any], task: asyncio.Task[None]) -> None:
    """Following ends only by a mistake of ours, which must not be waited out."""
    if not task.cancelled() and (error := task.exception()) is not None and not answer.done():
        answer.set_exception(error)
