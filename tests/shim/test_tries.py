"""A restore that fails is tried again for a while: not for too long, not too often, never in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from shim.tries import LEAST, PATIENCE_SECONDS, Tries


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time passes only when told."""

    now = 0.0

    def time(self) -> float:
        return self.now


async def _turn() -> None:
    """Lets what is due run."""
    for _ in range(3):
        await asyncio.sleep(0)


def in_no_time(story: Coroutine[None, None, None]) -> None:
    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(story)


def clock() -> Clock:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Clock)
    return loop


def test_it_is_tried_with_growing_pauses_and_given_up_after_enough_tries_and_time() -> None:
    async def story() -> None:
        began: list[float] = []
        tries = Tries(lambda: began.append(clock().now))
        for attempt in range(1, 100):
            if not tries.failed():
                break
            tries.later()
            while len(began) < attempt:
                clock().now += 0.5
                await _turn()
        pauses = [later - earlier for earlier, later in zip([0.0, *began], began, strict=False)]
        assert pauses == [2.0**number for number in range(len(pauses))]
        assert len(began) + 1 >= LEAST
        assert PATIENCE_SECONDS <= clock().now < 3 * PATIENCE_SECONDS

    in_no_time(story())


def test_a_flood_of_requests_does_not_use_the_patience_up() -> None:
    async def story() -> None:
        tries = Tries(lambda: None)
        assert all(tries.failed() for _ in range(1000))

    in_no_time(story())


def test_two_requests_that_fail_an_hour_apart_are_not_enough() -> None:
    async def story() -> None:
        tries = Tries(lambda: None)
        assert tries.failed()
        clock().now += 3600
        assert tries.failed()

    in_no_time(story())


@pytest.mark.parametrize("again", [False, True])
def test_nothing_is_planned_any_more_once_the_sleep_is_over(again: bool) -> None:
    async def story() -> None:
        began: list[float] = []
        tries = Tries(lambda: began.append(clock().now))
        tries.failed()
        tries.later()
        tries.over()
        clock().now += 1000
        await _turn()
        assert began == []
        if again:  # and the next sleep begins anew
            assert all(tries.failed() for _ in range(LEAST))

    in_no_time(story())
