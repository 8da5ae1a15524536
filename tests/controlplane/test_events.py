"""Events of migrations, against a client that plays an API server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from architect.kube import ApiError, Client, Conflict, NotFound, Unreachable
from controlplane.events import Events, Happening
from tests.kube.apiserver import until

MOVES = Happening("shop", "web-1", "u-1", "app", "MigrationStarted", "its memory moves")
FAILED = Happening("shop", "web-1", "u-1", "app", "MigrationFailed", "it did not move", warning=True)


class Recorder:
    """Takes Events by their names; `errors` are raised after so many were taken, one each."""

    def __init__(self, *errors: ApiError) -> None:
        self.taken: dict[str, str] = {}
        self.errors = list(errors)

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        name = body["metadata"]["name"]
        if name in self.taken:
            raise Conflict("it is there")
        self.taken[name] = f"{path}: {body['type']} {body['reason']}"
        if self.errors:
            raise self.errors.pop(0)
        return {}


@asynccontextmanager
async def writing(server: Recorder) -> Any:
    events = Events(cast("Client", server))
    task = asyncio.create_task(events.run())
    try:
        yield events
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until_told(server: Recorder, last: str) -> list[str]:
    await until(lambda: any(last in each for each in server.taken.values()))
    return list(server.taken.values())


async def test_what_was_taken_without_an_answer_is_not_told_twice() -> None:
    server = Recorder(Unreachable("it did not answer in time"))
    async with writing(server) as events:
        events.tell(MOVES)
        events.tell(FAILED)
        told = await until_told(server, "MigrationFailed")
    assert told == [
        "/api/v1/namespaces/shop/events: Normal MigrationStarted",
        "/api/v1/namespaces/shop/events: Warning MigrationFailed",
    ]


async def test_what_is_not_taken_holds_nothing_up() -> None:
    server = Recorder(NotFound("its namespace is gone"))
    async with writing(server) as events:
        events.tell(MOVES)
        events.tell(FAILED)
        assert len(await until_told(server, "MigrationFailed")) == 2
