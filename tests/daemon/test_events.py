"""Events, against a client that plays an API server, and a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from architect.kube import ApiError, Client, Conflict, NotFound, Refused, Unreachable
from daemon.containers import Pod
from daemon.kubernetes.events import FIRST_INTERVAL_SECONDS, Events
from daemon.kubernetes.happenings import Happening
from tests.daemon.conftest import until

POD = Pod("s", "default", "web", "uid", "")
SLEPT = Happening("ScaleDownCompleted", "Container app sleeps")


class Recorder:
    """Takes Events; `errors` are raised first, one each."""

    def __init__(self) -> None:
        self.written: list[tuple[str, int]] = []
        self.errors: list[ApiError] = []
        self.asked = 0
        self.unheard = False
        """The answer to what is created next gets lost."""
        self.made: list[str] = []

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self._fail()
        name = body["metadata"]["name"]
        if name in self.made:
            raise Conflict("it is there")
        self.made.append(name)
        self.written.append(("create", body["count"]))
        if self.unheard:
            self.unheard = False
            raise Unreachable("it did not answer in time")
        return {"metadata": {"name": f"event-{len(self.written)}"}}

    async def patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self._fail()
        self.written.append((path.rsplit("/", 1)[1], body["count"]))
        return {}

    def _fail(self) -> None:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Story:
    def __init__(self, kept: int = 1024) -> None:
        self.server, self.clock = Recorder(), Clock()
        self.events = Events(cast("Client", self.server), "node-1", clock=self.clock, kept=kept)

    @asynccontextmanager
    async def running(self) -> Any:
        task = asyncio.create_task(self.events.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def happens(self, times: int = 1) -> None:
        for _ in range(times):
            self.events.happened(POD, "app", SLEPT)
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
def story() -> Story:
    return Story()


async def test_the_first_is_written_at_once_and_more_are_counted_at_growing_intervals(story: Story) -> None:
    async with story.running():
        await story.happens()
        assert story.server.written == [("create", 1)]
        await story.happens(9)
        assert len(story.server.written) == 1
        story.clock.now += FIRST_INTERVAL_SECONDS
        await story.happens()
        assert story.server.written[1:] == [("event-1", 11)]
        story.clock.now += FIRST_INTERVAL_SECONDS
        await story.happens()
        assert len(story.server.written) == 2, "the interval has doubled"
        story.clock.now += FIRST_INTERVAL_SECONDS
        await story.happens()
        assert story.server.written[2:] == [("event-1", 13)]


async def test_a_day_of_flapping_is_a_few_requests(story: Story) -> None:
    async with story.running():
        for _ in range(24 * 60):
            story.clock.now += 60
            await story.happens(10)
    assert story.server.asked < 24 * 14
    assert story.server.written[-1][1] > 24 * 60 * 10 - 70, "and no count is lost"


async def test_after_a_quiet_time_it_is_a_new_event(story: Story) -> None:
    async with story.running():
        await story.happens()
        story.clock.now += 3600
        await story.happens()
    assert story.server.written == [("create", 1), ("create", 1)]


async def test_an_event_that_has_expired_is_written_anew(story: Story) -> None:
    async with story.running():
        await story.happens()
        story.server.errors = [NotFound("gone")]
        story.clock.now += FIRST_INTERVAL_SECONDS
        await story.happens()
    assert story.server.written == [("create", 1), ("create", 2)]


async def test_an_event_that_is_invalid_holds_up_no_other(story: Story) -> None:
    story.server.errors = [Refused("invalid", status=422)]
    async with story.running():
        await story.happens()
        story.events.happened(POD, "other", SLEPT)
        await until(lambda: story.server.written)
    assert story.events.dropped == 1


async def test_rights_that_come_later_are_waited_for(story: Story) -> None:
    story.server.errors = [Refused("forbidden", status=403)]
    async with story.running():
        await story.happens()
        story.clock.now += FIRST_INTERVAL_SECONDS
        await story.happens()
    assert story.server.written == [("create", 2)]
    assert story.events.dropped == 0


async def test_what_waits_for_the_api_server_goes_as_soon_as_that_is_heard_of(story: Story) -> None:
    story.server.errors = [Unreachable("no answer") for _ in range(4)]
    async with story.running():
        await story.happens()
        for attempts in range(1, 5):
            assert story.server.asked == attempts, "it pauses"
            story.events.reachable()
            for _ in range(20):
                await asyncio.sleep(0)
    assert story.server.written == [("create", 1)]
    assert story.events.dropped == 0


async def test_only_so_many_are_kept_and_the_oldest_go_first() -> None:
    story = Story(kept=10)
    for number in range(15):
        story.events.happened(POD, f"app-{number}", SLEPT)
    assert story.events.dropped == 5
    async with story.running():
        await until(lambda: len(story.server.written) == 10)


async def test_what_was_written_without_an_answer_is_not_written_twice(story: Story) -> None:
    story.server.unheard = True
    async with story.running():
        await story.happens()
        await until(lambda: len(story.server.written) == 2)
    [name] = story.server.made
    assert story.server.written == [("create", 1), (name, 1)]
