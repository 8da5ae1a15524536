"""A question that is passed on is answered, also when the container is about to sleep."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim import passage
from shim.passage import Passage, Plain
from shim.turns import Alternating, Streams, Turns

SECONDS = 30.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END = 0x1


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + struct.pack(">BBI", kind, flags, stream) + payload


CALL = frame(HEADERS, 0x4, 1, b"whatever") + frame(DATA, END, 1, b"\0" * 5)
ANSWER = frame(HEADERS, 0x4, 1, b"\x88") + frame(DATA, 0, 1, b"SERVING") + frame(HEADERS, END, 1, b"ok")


@dataclass
class Both:
    """A passage, and the far ends of its two connections."""

    passage: Passage
    client: socket.socket
    app: socket.socket

    async def say(self, by: socket.socket, data: bytes) -> None:
        """Says it, and waits until the other side has it."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(by, data)
        got = b""
        async with asyncio.timeout(SECONDS):
            while len(got) < len(data):
                got += await loop.sock_recv(self.app if by is self.client else self.client, 1 << 16)
        assert got == data

    def hang_up(self) -> None:
        """As the doors do when a visit is over."""
        self.passage._client.close()

    async def rest(self) -> bytes:
        """All that the client still gets."""
        loop, got = asyncio.get_running_loop(), b""
        async with asyncio.timeout(SECONDS):
            while data := await loop.sock_recv(self.client, 1 << 16):
                got += data
        return got


@pytest.fixture
def both() -> Iterator[Callable[[Turns], Both]]:
    with ExitStack() as stack:

        def connect(turns: Turns) -> Both:
            client, ours, theirs, app = (*socket.socketpair(), *socket.socketpair())
            for each in (client, ours, theirs, app):
                stack.enter_context(each)
                each.setblocking(False)
            return Both(Passage(Plain(ours), Plain(theirs), turns), client, app)

        yield connect


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks nothing has no time at all."""
    monkeypatch.setattr(passage, "_STOCK_SECONDS", 0.0)


async def begin(ends: Both, first: bytes) -> asyncio.Task[bytes]:
    task = asyncio.create_task(ends.passage.run(first))
    async with asyncio.timeout(SECONDS):
        assert await asyncio.get_running_loop().sock_recv(ends.app, 1 << 16) == first
    return task


async def test_a_grpc_client_that_greets_before_it_asks_is_waited_for(both: Callable[[Turns], Both]) -> None:
    ends = both(Streams())
    task = await begin(ends, PREFACE + frame(SETTINGS))
    await ends.say(ends.app, frame(SETTINGS) + frame(SETTINGS, END))
    ends.passage.leave()
    await ends.say(ends.client, frame(SETTINGS, END))
    ends.passage.leave()
    await ends.say(ends.client, CALL)
    ends.passage.leave()
    await ends.say(ends.app, ANSWER)
    ends.passage.leave()
    async with asyncio.timeout(SECONDS):
        assert await asyncio.get_running_loop().sock_recv(ends.app, 1) == b""
    ends.app.close()
    assert await task == b""
    ends.hang_up()
    assert await ends.rest() == frame(GOAWAY, 0, 0, struct.pack(">II", 1, 0))


async def test_a_second_grpc_call_that_comes_too_late_is_sent_elsewhere(
    both: Callable[[Turns], Both],
) -> None:
    ends = both(Streams())
    task = await begin(ends, PREFACE + frame(SETTINGS) + CALL)
    ends.passage.leave()
    await ends.say(ends.app, frame(SETTINGS) + ANSWER)
    await asyncio.get_running_loop().sock_sendall(ends.client, frame(HEADERS, 0x4 | END, 3, b"again"))
    async with asyncio.timeout(SECONDS):
        assert await asyncio.get_running_loop().sock_recv(ends.app, 1) == b""
    ends.app.close()
    assert await task == b""
    ends.hang_up()
    assert await ends.rest() == frame(GOAWAY, 0, 0, struct.pack(">II", 1, 0))


async def test_a_second_http_request_that_comes_too_late_is_handed_back(
    both: Callable[[Turns], Both],
) -> None:
    ends = both(Alternating())
    task = await begin(ends, b"GET /1 HTTP/1.1\r\n\r\n")
    await ends.say(ends.app, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    ends.passage._leaving = True
    await asyncio.get_running_loop().sock_sendall(ends.client, b"GET /2 HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(SECONDS):
        assert await asyncio.get_running_loop().sock_recv(ends.app, 1) == b""
    ends.app.close()
    assert await task == b"GET /2 HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize("end", [frame(RST_STREAM, 0, 1, b"\0" * 4), frame(HEADERS, END, 1)])
def test_a_call_is_over_when_it_is_ended_or_reset(end: bytes) -> None:
    turns = Streams()
    turns.said(PREFACE + CALL, by_client=True)
    assert turns.waiting
    turns.said(end, by_client=False)
    assert not turns.waiting


@given(st.lists(st.tuples(st.binary(max_size=100), st.booleans()), max_size=30))
def test_whatever_is_said_costs_little(said: list[tuple[bytes, bool]]) -> None:
    turns = Streams()
    for data, by_client in said:
        turns.said(data, by_client=by_client)
    assert len(turns._open) <= 256


@given(st.integers(1, 60), st.integers(1, 60))
def test_frames_are_read_wherever_they_are_cut(one: int, other: int) -> None:
    turns = Streams()
    for data, by_client, step in ((PREFACE + CALL, True, one), (ANSWER, False, other)):
        for at in range(0, len(data), step):
            assert turns.waiting
            turns.said(data[at : at + step], by_client=by_client)
    assert not turns.waiting


def test_a_client_that_asks_without_end_is_let_go() -> None:
    turns = Streams()
    turns.said(PREFACE, by_client=True)
    with pytest.raises(ConnectionError, match="at once"):
        turns.said(b"".join(frame(HEADERS, 0x4, 2 * n + 1) for n in range(300)), by_client=True)
