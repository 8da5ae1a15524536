"""What a shim makes of the daemon's answers about leaving and arriving, and of their absence."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from architect.settings import PodIdentity
from architect.ttrpc import node_v1
from architect.ttrpc.server import Code, Method, RpcError, Server
from shim import node
from shim.node import NodeDaemon, Unheard

WHO = NodeDaemon(PodIdentity("sandbox", "default", "web-1", "uid-1", "app"), "c1")


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    where = str(tmp_path / "node.sock")
    monkeypatch.setattr(node_v1, "SOCKET", where)
    monkeypatch.setattr(node, "_PAUSE_SECONDS", 0.01)
    return where


@asynccontextmanager
async def daemon(path: str, **answers: Callable[[Any], Any]) -> AsyncIterator[list[Any]]:
    """A daemon with these answers; what it was asked."""
    asked: list[Any] = []

    def method(name: str) -> Method[Any, Any]:
        async def handle(request: Any) -> Any:
            asked.append(request)
            answer = answers[name](len(asked))
            return await answer if asyncio.iscoroutine(answer) else answer

        return Method(node_v1.METHODS[name][0], handle)

    server = Server({node_v1.SERVICE: {name: method(name) for name in answers}})
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(8)
    await server.start(listener)
    try:
        yield asked
    finally:
        await server.close()


async def test_without_a_daemon_nobody_leaves_and_nobody_comes() -> None:
    leaves = await WHO.leaves(asleep=False, image="/images/1")
    arrives = await WHO.arrives()
    assert (leaves.moves, arrives.expected) == (False, False)
    assert "no daemon of this node" in leaves.reason
    with pytest.raises(Unheard) as unheard:
        await WHO.left(node_v1.LeftRequest(), 0)
    assert not unheard.value.doubtful


@pytest.mark.parametrize("ends", ["before it was asked", "while it was asked"])
async def test_a_daemon_that_was_killed_is_asked_when_it_is_back(path: str, ends: str) -> None:
    hanging = asyncio.Event()

    async def hang(_: int) -> None:
        hanging.set()
        await asyncio.Event().wait()

    if ends == "before it was asked":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        leaving = asyncio.create_task(WHO.leaves(asleep=False, image="/images/1"))
    else:
        async with daemon(path, Leaves=hang):
            leaving = asyncio.create_task(WHO.leaves(asleep=False, image="/images/1"))
            await hanging.wait()
    answers = {
        "Leaves": lambda _: node_v1.LeavesResponse(True, "drained", 25),
        "Arrives": lambda _: node_v1.ArrivesResponse(True, "one comes", 60),
    }
    async with daemon(path, **answers):
        assert (await leaving).moves
        assert (await WHO.arrives()).expected


async def test_a_daemon_that_was_promised_is_awaited(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promise = tmp_path / "moves"
    promise.touch()
    monkeypatch.setattr(node_v1, "PROMISE", str(promise))
    waits = asyncio.Event()
    monkeypatch.setattr(node.log, "info", lambda *_: waits.set())
    arriving = asyncio.create_task(WHO.arrives())
    await waits.wait()
    async with daemon(path, Arrives=lambda _: node_v1.ArrivesResponse(True, "one comes", 60)):
        assert (await arriving).expected


async def test_a_daemon_that_does_not_come_back_keeps_nobody(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LEAVES_AWAY_SECONDS", "ARRIVES_AWAY_SECONDS"):
        monkeypatch.setattr(node, name, 0.1)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with pytest.raises(Unheard):
        await WHO.arrives()
    leaves = await WHO.leaves(asleep=False, image="/images/1")
    assert (leaves.moves, "is not there" in leaves.reason) == (False, True)
    with pytest.raises(Unheard) as unheard:
        await WHO.left(node_v1.LeftRequest(), 0.1)
    assert not unheard.value.doubtful


async def test_the_daemon_is_told_who_it_is_and_its_answer_counts(path: str) -> None:
    async with daemon(path, Leaves=lambda _: node_v1.LeavesResponse(True, "drained", 25)) as asked:
        answer = await WHO.leaves(asleep=True, image="/images/1")
    assert (answer.moves, answer.reason, answer.seconds) == (True, "drained", 25)
    (request,) = asked
    who = node_v1.Container("sandbox", "default", "web-1", "uid-1", "c1", "app")
    assert request == node_v1.LeavesRequest(who, asleep=True, image="/images/1")


async def test_an_error_means_that_it_does_not_move(path: str) -> None:
    def refuse(_: int) -> None:
        raise RpcError(Code.UNAVAILABLE, "no control plane")

    async with daemon(path, Leaves=refuse, Arrives=refuse):
        assert "no control plane" in (await WHO.leaves(asleep=False, image="")).reason
        assert not (await WHO.arrives()).expected


async def test_what_a_daemon_says_it_has_not_taken_is_ours(path: str) -> None:
    def refuse(_: int) -> None:
        raise RpcError(Code.RESOURCE_EXHAUSTED, "the disk is full")

    async with daemon(path, Left=refuse) as asked:
        with pytest.raises(Unheard, match="the disk is full") as unheard:
            await WHO.left(node_v1.LeftRequest(), 60)
    assert (unheard.value.doubtful, len(asked)) == (False, 1)


async def test_a_daemon_that_ends_in_the_middle_is_asked_again_when_it_is_back(path: str) -> None:
    hanging = asyncio.Event()

    async def hang(_: int = 0) -> None:
        hanging.set()
        await asyncio.Event().wait()

    async with daemon(path, Left=hang):
        leaving = asyncio.create_task(WHO.left(node_v1.LeftRequest(asleep=True), 60))
        await hanging.wait()
    async with daemon(path, Left=lambda _: node_v1.LeftResponse()) as asked:
        await leaving
    assert asked[0].asleep


async def test_one_that_never_comes_back_leaves_a_doubt(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "LEFT_SECONDS", 0.2)
    hanging = asyncio.Event()

    async def hang(_: int = 0) -> None:
        hanging.set()
        await asyncio.Event().wait()

    async with daemon(path, Left=hang):
        leaving = asyncio.create_task(WHO.left(node_v1.LeftRequest(), 0.2))
        await hanging.wait()
    with pytest.raises(Unheard) as unheard:
        await leaving
    assert unheard.value.doubtful


async def test_an_arrival_is_asked_for_until_it_is_known(path: str) -> None:
    def arrival(turn: int) -> node_v1.ArrivalResponse:
        if turn == 1:
            return node_v1.ArrivalResponse(node_v1.State.WAITING)
        if turn == 2:
            raise RpcError(Code.UNAVAILABLE, "the daemon ends")
        return node_v1.ArrivalResponse(node_v1.State.HERE, image="/arriving/1")

    async with daemon(path, Arrival=arrival) as asked:
        assert (await WHO.arrival()).image == "/arriving/1"
    assert len(asked) == 3


async def test_what_became_of_it_is_told_until_it_is_heard(path: str) -> None:
    def settled(turn: int) -> node_v1.SettledResponse:
        if turn == 1:
            raise RpcError(Code.UNAVAILABLE, "not now")
        return node_v1.SettledResponse()

    async with daemon(path, Settled=settled) as asked:
        await WHO.settled(here=True, reason="", restore_us=5)
    assert [(each.here, each.restore_us) for each in asked] == [(True, 5), (True, 5)]
