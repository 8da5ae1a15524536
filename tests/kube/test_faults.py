"""The client and an API server that misbehaves: a small one of our own, which plays what it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from architect.kube import Access, Busy, Client, Expired, Refused, Unreachable
from architect.kube.execution import PROTOCOLS, run_in_pod
from architect.kube.following import Backoff, Following
from tests.kube.apiserver import until
from tests.kube.test_client import Heard

Play = Callable[[web.Request], Any]
PODS = "/api/v1/pods"


class Faulty:
    """Answers each request with the next play; the last one goes on for ever."""

    def __init__(self) -> None:
        self.plays: list[Play] = []
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        play = self.plays.pop(0) if len(self.plays) > 1 else self.plays[0]
        found = play(request)
        answer = await found if asyncio.iscoroutine(found) else found
        assert isinstance(answer, web.StreamResponse)
        return answer


@pytest.fixture
async def faulty() -> AsyncIterator[tuple[Faulty, Client]]:
    faults = Faulty()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", faults.answer)
    async with (
        TestServer(app) as server,
        Client(Access(str(server.make_url("")).rstrip("/")), timeout=5) as client,
    ):
        yield faults, client


def status(code: int, message: str, **headers: str) -> Play:
    body = {"kind": "Status", "code": code, "message": message, "reason": "Because"}
    return lambda _: web.json_response(body, status=code, headers=headers)


def listed(*names: str, version: str = "5") -> Play:
    items = [{"metadata": {"name": name, "resourceVersion": "4"}} for name in names]
    return lambda _: web.json_response({"metadata": {"resourceVersion": version}, "items": items})


def watched(*lines: object, cut: bool = False) -> Play:
    async def play(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for line in lines:
            await answer.write(json.dumps(line).encode() + b"\n")
        if cut and request.transport is not None:
            request.transport.abort()
        return answer

    return play


def event(kind: str, name: str, version: str = "6") -> dict[str, Any]:
    return {"type": kind, "object": {"metadata": {"name": name, "resourceVersion": version}}}


def name_of(item: dict[str, Any]) -> tuple[str, str]:
    return item["metadata"]["name"], ""


async def test_too_many_requests_says_how_long_to_wait(faulty: tuple[Faulty, Client]) -> None:
    faults, client = faulty
    faults.plays = [status(429, "slow down", **{"Retry-After": "7"})]
    with pytest.raises(Busy, match="slow down") as busy:
        await client.get(PODS)
    assert busy.value.after == 7


@pytest.mark.parametrize(
    ("play", "kind", "sentence"),
    [
        pytest.param(status(500, "etcd is away"), Unreachable, "etcd is away", id="a server in trouble"),
        pytest.param(status(422, "x" * 9999), Refused, "x{500}$", id="a long sentence is cut"),
        pytest.param(
            lambda _: web.Response(status=502, text="<html>token: secret"),
            Unreachable,
            "status 502$",
            id="a proxy",
        ),
        pytest.param(lambda _: web.Response(text="<html>"), Unreachable, "no API server", id="no JSON"),
        pytest.param(lambda _: web.json_response([]), Unreachable, "no object", id="no object"),
        pytest.param(
            lambda _: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
            Unreachable,
            "status 302",
            id="it sends us elsewhere, and our token is not for there",
        ),
    ],
)
async def test_odd_answers_are_errors(
    faulty: tuple[Faulty, Client], play: Play, kind: type[Exception], sentence: str
) -> None:
    faults, client = faulty
    faults.plays = [play]
    with pytest.raises(kind, match=sentence):
        await client.get(PODS)
    assert len(faults.asked) == 1


async def follow(client: Client, heard: Heard, condition: Callable[[], object]) -> None:
    following = Following(client, PODS, heard, name_of, backoff=Backoff(0.01, 0.02))
    task = asyncio.create_task(following.run())
    try:
        await until(condition)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_watch_that_ends_goes_on_where_it_was(faulty: tuple[Faulty, Client]) -> None:
    faults, client = faulty
    faults.plays = [
        listed("a"),
        watched(event("ADDED", "b", "6"), event("BOOKMARK", "", "9")),
        watched(event("DELETED", "a", "10")),
        watched(),
    ]
    heard = Heard()
    await follow(client, heard, lambda: heard.all == {"b": ""} and len(faults.asked) > 3)
    assert heard.lists == 1
    assert "resourceVersion=5" in faults.asked[1]
    assert "resourceVersion=9" in faults.asked[2]
    assert "resourceVersion=10" in faults.asked[3]


@pytest.mark.parametrize("way", ["answer", "event"])
async def test_a_version_that_is_forgotten_lists_anew_and_nothing_is_lost(
    faulty: tuple[Faulty, Client], way: str
) -> None:
    faults, client = faulty
    gone = {"kind": "Status", "code": 410, "message": "too old resource version"}
    expired = status(410, "too old") if way == "answer" else watched({"type": "ERROR", "object": gone})
    faults.plays = [listed("a"), expired, listed("b"), watched()]
    heard = Heard()
    await follow(client, heard, lambda: heard.all == {"b": ""})
    assert not heard.reasons, "that is no loss"


async def test_a_list_that_takes_too_long_is_begun_anew(faulty: tuple[Faulty, Client]) -> None:
    faults, client = faulty
    half = {"metadata": {"resourceVersion": "5", "continue": "more"}, "items": []}
    faults.plays = [lambda _: web.json_response(half), status(410, "continue token expired")]
    with pytest.raises(Expired):
        async for _ in client.pages(PODS):
            pass


async def test_a_connection_that_breaks_is_said_once_and_made_again(faulty: tuple[Faulty, Client]) -> None:
    faults, client = faulty
    away = status(503, "away")
    faults.plays = [
        listed("a"),
        watched(event("ADDED", "b"), cut=True),
        away,
        away,
        away,
        listed("c"),
        watched(),
    ]
    heard = Heard()
    await follow(client, heard, lambda: heard.all == {"c": ""})
    assert len(heard.reasons) == 1


def test_pauses_grow_scatter_and_end_at_a_bound() -> None:
    backoff = Backoff(1, 10, chance=lambda: 1)
    assert [backoff.pause() for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    backoff.reset()
    backoff.chance = lambda: 0
    assert [backoff.pause() for _ in range(3)] == [0.5, 1, 2]
    assert backoff.pause(at_least=7) == 7
    assert backoff.pause(at_least=9999) == 10, "a server is not believed everything"


def command(*messages: bytes) -> Play:
    async def play(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=PROTOCOLS)
        await socket.prepare(request)
        for message in messages:
            await socket.send_bytes(message)
        await socket.close()
        return socket

    return play


async def test_a_command_in_a_pod_says_how_it_ended(faulty: tuple[Faulty, Client]) -> None:
    faults, client = faulty
    cause = {"reason": "ExitCode", "message": "3"}
    ended = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [cause]}}
    faults.plays = [
        command(b"\x01he", b"\x02oh", b"\x01llo", b"\x01", b'\x03{"status":"Success"}'),
        command(b"\x03" + json.dumps(ended).encode()),
        command(b'\x03{"status":"Failure","message":"no such container","code":400}'),
        command(b"\x01half"),
        status(403, "no"),
    ]
    ran = await run_in_pod(client, "n", "p", ["echo", "a b"], container="c", timeout=10)
    assert (ran.status, ran.stdout, ran.stderr) == (0, b"hello", b"oh")
    assert faults.asked[0].endswith(
        "/n/pods/p/exec?stdout=true&stderr=true&command=echo&command=a+b&container=c"
    )
    assert (await run_in_pod(client, "n", "p", ["false"], timeout=10)).status == 3
    with pytest.raises(Refused, match="no such container"):
        await run_in_pod(client, "n", "p", ["x"], timeout=10)
    with pytest.raises(Unreachable, match="ended before"):
        await run_in_pod(client, "n", "p", ["x"], timeout=10)
    with pytest.raises(Refused):
        await run_in_pod(client, "n", "p", ["x"], timeout=10)
