from __future__ import annotations

import asyncio

from daemon.kubernetes.rounds import Rounds
from daemon.supervision import Tasks
from tests.daemon.conftest import until


async def test_however_often_it_is_asked_for_one_round_runs_and_one_waits() -> None:
    tasks, began, go = Tasks(), asyncio.Event(), asyncio.Event()
    done: list[str] = []
    running: set[str] = set()

    async def work(key: str) -> float | None:
        assert key not in running, "one at a time for each key"
        running.add(key)
        began.set()
        await go.wait()
        running.discard(key)
        done.append(key)
        return None

    rounds = Rounds(tasks, work)
    for _ in range(5):
        rounds.ask("a")
    async with asyncio.timeout(20):
        await began.wait()
    for _ in range(5):
        rounds.ask("a")
        rounds.ask("b")
    go.set()
    await until(lambda: len(rounds) == 0)
    assert sorted(done) == ["a", "a", "b"]
    await tasks.close()


async def test_a_round_that_says_when_comes_again_and_one_that_is_forgotten_does_not() -> None:
    tasks = Tasks()
    done: list[str] = []

    async def work(key: str) -> float | None:
        done.append(key)
        return 0.01 if key == "again" else 3600

    rounds = Rounds(tasks, work)
    rounds.ask("again")
    rounds.ask("late")
    await until(lambda: done.count("again") > 1)
    rounds.forget("late")
    rounds.forget("again")
    rounds.close()
    await tasks.close()
    assert done.count("late") == 1
