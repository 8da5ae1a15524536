"""A client and a server, and what goes wrong between them."""

import asyncio
import logging
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from architect.ttrpc import frames
from architect.ttrpc.client import Client
from architect.ttrpc.codec import decode, encode
from architect.ttrpc.containerd import Empty, StateRequest, StateResponse
from architect.ttrpc.rpc import Code, Request, Response, RpcError
from architect.ttrpc.server import Method, Server, Services, Stream
from architect.ttrpc.shim_v1 import ContainerStatus, WatchEvent, WatchRequest
from tests.ttrpc.conftest import DEADLINE, Serve

ECHO = "test.Echo"


class Handlers:
    """Handlers whose progress a test can see and steer."""

    def __init__(self) -> None:
        self.started = asyncio.Semaphore(0)
        self.go = asyncio.Event()
        self.finished = asyncio.Event()
        self.produced = 0
        self.stream_closed = asyncio.Event()

    async def echo(self, request: StateRequest) -> StateResponse:
        return StateResponse(id=request.id, bundle=request.exec_id)

    async def blocked(self, request: StateRequest) -> StateResponse:
        self.started.release()
        await self.go.wait()
        self.finished.set()
        return StateResponse(id=request.id)

    async def fail(self, request: StateRequest) -> Empty:
        if request.id == "rpc":
            raise RpcError(Code.NOT_FOUND, "no such container: \udcff")
        if request.id == "cancelled":
            lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            lost.cancel()
            await lost
        if request.id == "timeout":
            raise TimeoutError("runc was too slow")
        raise ValueError("a bug")

    async def wrong(self, _request: StateRequest) -> StateResponse:
        return StateResponse(pid=-5)

    async def huge(self, _request: StateRequest) -> StateResponse:
        return StateResponse(id="x" * frames.MAX_PAYLOAD)

    async def count(self, _request: StateRequest) -> AsyncIterator[StateResponse]:
        for pid in range(1, 4):
            yield StateResponse(pid=pid)

    async def endless(self, request: StateRequest) -> AsyncIterator[StateResponse]:
        try:
            while True:
                self.produced += 1
                yield StateResponse(id=request.id, pid=self.produced)
        finally:
            self.stream_closed.set()

    async def broken(self, _request: StateRequest) -> AsyncIterator[StateResponse]:
        yield StateResponse(pid=1)
        raise RpcError(Code.ABORTED, "enough")

    def services(self) -> Services:
        unary = {
            name: Method(StateRequest, getattr(self, name))
            for name in ("echo", "blocked", "fail", "wrong", "huge")
        }
        streams = {name: Stream(StateRequest, getattr(self, name)) for name in ("count", "endless", "broken")}
        return {ECHO: {**unary, **streams}}


async def _call(
    client: Client, method: str, request: StateRequest, timeout: float = DEADLINE
) -> StateResponse:
    return await client.call(ECHO, method, request, StateResponse, timeout=timeout)


async def _error(client: Client, method: str, name: str = "") -> RpcError:
    with pytest.raises(RpcError) as caught:
        await _call(client, method, StateRequest(name))
    return caught.value


async def test_a_call_is_answered(serve: Serve) -> None:
    client = await (await serve(Handlers().services())).client()
    assert await _call(client, "echo", StateRequest("a", "b")) == StateResponse(id="a", bundle="b")


async def test_the_answer_on_the_wire_is_a_response_on_the_same_stream(serve: Serve) -> None:
    raw = await (await serve(Handlers().services())).raw()
    await raw.send(
        bytes.fromhex("0000001c 00000005 01 00 0a09") + b"test.Echo" + bytes.fromhex("1204") + b"echo"
        + bytes.fromhex("1a03 0a0178 20 80a8d6b907")
    )  # fmt: skip
    assert await raw.frame() == frames.Frame(5, frames.RESPONSE, 0, bytes.fromhex("0a00 1203 0a0178"))


async def test_quick_calls_overtake_slow_ones_on_the_same_connection(serve: Serve) -> None:
    handlers = Handlers()
    client = await (await serve(handlers.services())).client()
    slow = [asyncio.create_task(_call(client, "blocked", StateRequest(str(n)))) for n in range(100)]
    for _ in slow:
        await handlers.started.acquire()
    quick = await asyncio.gather(*(_call(client, "echo", StateRequest(str(n))) for n in range(500)))
    assert [answer.id for answer in quick] == [str(n) for n in range(500)]
    assert not any(task.done() for task in slow)
    handlers.go.set()
    assert [answer.id for answer in await asyncio.gather(*slow)] == [str(n) for n in range(100)]


async def test_large_messages_pass_and_larger_ones_are_refused_by_either_end(serve: Serve) -> None:
    client = await (await serve(Handlers().services())).client()
    big = "x" * (frames.MAX_PAYLOAD - 200)
    answers = await asyncio.gather(*(_call(client, "echo", StateRequest(big)) for _ in range(4)))
    assert all(answer.id == big for answer in answers)
    assert (await _error(client, "echo", "x" * frames.MAX_PAYLOAD)).code == Code.RESOURCE_EXHAUSTED
    assert (await _error(client, "huge")).code == Code.RESOURCE_EXHAUSTED
    assert (await _call(client, "echo", StateRequest("still there"))).id == "still there"


async def test_an_error_keeps_its_code_and_its_sentence(serve: Serve) -> None:
    client = await (await serve(Handlers().services())).client()
    error = await _error(client, "fail", "rpc")
    assert (error.code, error.message) == (Code.NOT_FOUND, "no such container: \\udcff")


async def test_a_bug_in_a_handler_is_logged_and_answered_as_unknown(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    client = await (await serve(Handlers().services())).client()
    error = await _error(client, "fail")
    assert (error.code, error.message) == (Code.UNKNOWN, "ValueError: a bug")
    assert any(record.levelno == logging.ERROR and record.exc_info for record in caplog.records)


@pytest.mark.parametrize(
    ("name", "code"), [("timeout", Code.UNKNOWN), ("cancelled", Code.CANCELLED)], ids=["timeout", "cancelled"]
)
async def test_a_handler_that_ends_by_others_time_or_will_is_still_answered(
    serve: Serve, name: str, code: Code
) -> None:
    client = await (await serve(Handlers().services())).client()
    assert (await _error(client, "fail", name)).code == code


async def test_an_answer_that_its_message_cannot_hold_is_an_internal_error(serve: Serve) -> None:
    client = await (await serve(Handlers().services())).client()
    error = await _error(client, "wrong")
    assert error.code == Code.INTERNAL
    assert "StateResponse.pid" in error.message


async def test_unknown_services_and_methods_are_unimplemented(serve: Serve) -> None:
    client = await (await serve(Handlers().services())).client()
    assert (await _error(client, "nothing")).code == Code.UNIMPLEMENTED
    with pytest.raises(RpcError, match="UNIMPLEMENTED"):
        await client.call("test.Other", "echo", StateRequest(), StateResponse, timeout=DEADLINE)


async def test_a_malformed_request_is_answered_and_the_connection_goes_on(serve: Serve) -> None:
    raw = await (await serve(Handlers().services())).raw()
    await raw.send(frames.pack(1, frames.REQUEST, 0, b"\xff"))
    await raw.send(frames.pack(3, frames.REQUEST, 0, encode(Request(ECHO, "echo", b"\x0a\x05"))))
    await raw.request(4, ECHO, "echo", StateRequest())
    await raw.request(3, ECHO, "echo", StateRequest())
    await raw.send(frames.pack(99, frames.DATA, 0, b""))
    await raw.send(frames.pack(3, frames.DATA, frames.REMOTE_CLOSED, b""))
    await raw.send(frames.pack(101, 77, 0, b"of a later version"))
    await raw.request(5, ECHO, "echo", StateRequest("fine"))
    for stream in (1, 3, 4, 3, 99):
        number, response = await raw.response()
        assert number == stream
        assert response.status is not None
        assert response.status.code == Code.INVALID_ARGUMENT
    number, response = await raw.response()
    assert (number, decode(StateResponse, response.payload).id) == (5, "fine")


async def test_random_bytes_close_one_connection_and_nothing_else(serve: Serve) -> None:
    node = await serve(Handlers().services())
    client = await node.client()

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.binary(min_size=1, max_size=300))
    def check(data: bytes) -> None:
        seen.append(data)

    seen: list[bytes] = []
    check()
    for data in [*seen, b"\xff" * 10, b"GET / HTTP/1.1\r\n\r\n"]:
        raw = await node.raw()
        await raw.send(data)
        raw.writer.write_eof()
        async with asyncio.timeout(DEADLINE):
            try:
                await raw.reader.read()
            except ConnectionResetError:
                pass  # hung up on before all was read
        assert (await _call(client, "echo", StateRequest("x"))).id == "x"


async def test_a_frame_of_impossible_length_is_hung_up_on(serve: Serve) -> None:
    raw = await (await serve(Handlers().services())).raw()
    await raw.send(b"\x00\x40\x00\x01" + bytes(6))
    await raw.ended()


async def test_the_callers_deadline_ends_the_handler(serve: Serve) -> None:
    handlers = Handlers()
    raw = await (await serve(handlers.services())).raw()
    body = encode(Request(ECHO, "blocked", b"", timeout_nano=1_000_000))
    await raw.send(frames.pack(1, frames.REQUEST, 0, body))
    _, response = await raw.response()
    assert response.status is not None
    assert response.status.code == Code.DEADLINE_EXCEEDED
    assert not handlers.finished.is_set()


async def test_a_client_gives_up_after_its_deadline_and_can_call_again(serve: Serve) -> None:
    client = await (await serve(Handlers().services())).client()
    with pytest.raises(RpcError) as caught:
        await _call(client, "blocked", StateRequest(), timeout=0.01)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    assert (await _call(client, "echo", StateRequest("x"))).id == "x"


async def test_a_client_gives_up_on_a_server_that_never_answers(tmp_path: object) -> None:
    path = os.path.join(str(tmp_path), "mute.sock")
    accepted: list[asyncio.StreamWriter] = []
    mute = await asyncio.start_unix_server(lambda _, writer: accepted.append(writer), path)
    client = await Client.connect(path, timeout=DEADLINE)
    with pytest.raises(RpcError, match="DEADLINE_EXCEEDED"):
        await _call(client, "echo", StateRequest(), timeout=0.01)
    await client.close()
    for writer in accepted:
        writer.close()
    mute.close()


async def test_a_call_goes_on_when_its_client_goes_away(serve: Serve) -> None:
    handlers = Handlers()
    node = await serve(handlers.services())
    raw = await node.raw()
    await raw.request(1, ECHO, "blocked", StateRequest())
    await handlers.started.acquire()
    raw.writer.transport.abort()
    await _call(await node.client(), "echo", StateRequest())
    handlers.go.set()
    async with asyncio.timeout(DEADLINE):
        await handlers.finished.wait()


async def test_calls_fail_when_the_server_goes_away(serve: Serve) -> None:
    handlers = Handlers()
    node = await serve(handlers.services())
    client = await node.client()
    call = asyncio.create_task(_call(client, "blocked", StateRequest()))
    await handlers.started.acquire()
    assert not client.closed.is_set()
    await node.server.close()
    with pytest.raises((ConnectionError, RpcError)):
        await call
    async with asyncio.timeout(DEADLINE):
        await client.closed.wait()
    with pytest.raises(ConnectionError):
        await _call(client, "echo", StateRequest())
    with pytest.raises(OSError):
        await Client.connect(node.path, timeout=DEADLINE)


async def test_closing_the_server_delivers_what_was_answered_and_leaves_the_socket_file(serve: Serve) -> None:
    node = await serve(Handlers().services())
    raw = await node.raw()
    await raw.request(1, ECHO, "echo", StateRequest("x" * 3_000_000))
    async with asyncio.timeout(DEADLINE):
        header = await raw.reader.readexactly(
            10
        )  # so the call is answered, and most of the answer still to come
        closing = asyncio.create_task(node.server.close())
        answer = decode(Response, await raw.reader.readexactly(int.from_bytes(header[:4], "big")))
        await closing
    assert decode(StateResponse, answer.payload).id == "x" * 3_000_000
    await raw.ended()
    assert os.path.exists(node.path)


async def test_a_stream_is_iterated_to_its_end(serve: Serve) -> None:
    client = await (await serve(Handlers().services())).client()
    pids = [answer.pid async for answer in client.stream(ECHO, "count", StateRequest(), StateResponse)]
    assert pids == [1, 2, 3]


async def test_a_stream_on_the_wire_ends_with_a_frame_without_data(serve: Serve) -> None:
    raw = await (await serve(Handlers().services())).raw()
    await raw.request(1, ECHO, "count", StateRequest(), frames.REMOTE_CLOSED)
    got = [await raw.frame() for _ in range(4)]
    assert [frame.kind for frame in got] == [frames.DATA] * 4
    assert [frame.flags for frame in got] == [0, 0, 0, frames.REMOTE_CLOSED | frames.NO_DATA]
    assert got[0].payload == b"\x18\x01"


async def test_a_stream_ends_with_the_error_of_its_handler(serve: Serve) -> None:
    client = await (await serve(Handlers().services())).client()
    answers = client.stream(ECHO, "broken", StateRequest(), StateResponse)
    assert (await anext(answers)).pid == 1
    with pytest.raises(RpcError, match="ABORTED: enough"):
        await anext(answers)


async def test_a_stream_waits_for_a_slow_reader_and_stops_when_it_leaves(serve: Serve) -> None:
    handlers = Handlers()
    node = await serve(handlers.services())
    raw = await node.raw()
    await raw.request(1, ECHO, "endless", StateRequest("x" * 10_000), frames.REMOTE_CLOSED)
    await raw.frame()
    other = await node.client()
    for _ in range(100):  # turns of the server's loop in which it could produce more
        await _call(other, "echo", StateRequest())
    before = handlers.produced
    for _ in range(100):
        await _call(other, "echo", StateRequest())
    assert handlers.produced == before
    raw.writer.transport.abort()
    async with asyncio.timeout(DEADLINE):
        await handlers.stream_closed.wait()


async def test_a_stream_read_slowly_by_a_client_is_bounded_and_does_not_block_its_calls(serve: Serve) -> None:
    handlers = Handlers()
    client = await (await serve(handlers.services())).client()
    seen = 0
    async for answer in client.stream(ECHO, "endless", StateRequest("x" * 10_000), StateResponse):
        seen += 1
        assert answer.pid == seen
        assert (await _call(client, "echo", StateRequest("y"))).id == "y"
        if seen == 20:
            break
    await client.close()
    async with asyncio.timeout(DEADLINE):
        await handlers.stream_closed.wait()


async def test_a_stream_that_nobody_reads_halts_until_a_call_needs_the_connection(serve: Serve) -> None:
    handlers = Handlers()
    node = await serve(handlers.services())
    client, other = await node.client(), await node.client()
    answers = client.stream(ECHO, "endless", StateRequest("x" * 10_000), StateResponse)
    assert (await anext(answers)).pid == 1
    before = -1
    async with asyncio.timeout(DEADLINE):
        while before != handlers.produced:
            before = handlers.produced
            for _ in range(50):  # turns of the loop in which it could go on
                await _call(other, "echo", StateRequest())
    assert (await _call(client, "echo", StateRequest("y"))).id == "y"
    assert (await anext(answers)).pid == 2


async def test_a_client_that_sends_more_into_a_stream_is_cut_off(serve: Serve) -> None:
    handlers = Handlers()
    node = await serve({ECHO: {"watch": Stream(WatchRequest, _watch_for(handlers))}})
    raw = await node.raw()
    await raw.request(1, ECHO, "watch", WatchRequest(), frames.REMOTE_OPEN)
    assert (await raw.frame()).kind == frames.DATA
    await raw.send(frames.pack(1, frames.DATA, frames.REMOTE_CLOSED | frames.NO_DATA, b""))
    await raw.send(frames.pack(1, frames.DATA, 0, b"\x0a\x00"))
    _, response = await raw.response()
    assert response.status is not None
    assert response.status.code == Code.CANCELLED


def _watch_for(handlers: Handlers) -> Callable[[WatchRequest], AsyncIterator[WatchEvent]]:
    async def watch(_request: WatchRequest) -> AsyncIterator[WatchEvent]:
        yield WatchEvent(status=ContainerStatus(id="c", phase="RUNNING"))
        await handlers.go.wait()

    return watch


async def test_a_stream_fails_when_the_server_goes_away(serve: Serve) -> None:
    handlers = Handlers()
    node = await serve({ECHO: {"watch": Stream(WatchRequest, _watch_for(handlers))}})
    client = await node.client()
    events = client.stream(ECHO, "watch", WatchRequest(), WatchEvent)
    first = await anext(events)
    assert first.status is not None
    assert first.status.phase == "RUNNING"
    await node.server.close()
    with pytest.raises((ConnectionError, RpcError)):
        await anext(events)


@pytest.mark.parametrize("answer", [b"\xff" * 10, frames.pack(1, frames.RESPONSE, 0, b"\xff")])
async def test_a_server_that_sends_nonsense_ends_the_connection(tmp_path: object, answer: bytes) -> None:
    path = os.path.join(str(tmp_path), "mad.sock")

    async def mad(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(answer)
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(mad, path)
    client = await Client.connect(path, timeout=DEADLINE)
    with pytest.raises(ConnectionError, match="no answer"):
        await _call(client, "echo", StateRequest())
    async with asyncio.timeout(DEADLINE):
        await client.closed.wait()
    server.close()


async def test_an_answer_of_another_kind_is_an_error_of_that_call(tmp_path: object) -> None:
    path = os.path.join(str(tmp_path), "odd.sock")

    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(frames.pack(1, frames.RESPONSE, 0, encode(Response(payload=b"\x0a\x05"))))
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(odd, path)
    client = await Client.connect(path, timeout=DEADLINE)
    assert (await _error(client, "echo")).code == Code.INTERNAL
    await client.close()
    server.close()


async def test_connecting_to_nobody_fails(tmp_path: object) -> None:
    with pytest.raises(OSError):
        await Client.connect(os.path.join(str(tmp_path), "none.sock"), timeout=DEADLINE)


def test_the_package_needs_neither_ssl_nor_anything_installed() -> None:
    program = (
        "import sys; sys.modules['ssl'] = None; sys.path.insert(0, sys.argv[1]);"
        "from architect.ttrpc import client, server, containerd, cgroup1, cgroup2, shim_v1, runtime_info;"
        "foreign = {'google', 'hypothesis', 'pytest'} & set(sys.modules); assert not foreign, foreign"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    subprocess.run([sys.executable, "-I", "-S", "-c", program, root], check=True, timeout=DEADLINE)


@pytest.mark.parametrize("turns", range(5))
async def test_who_connects_while_the_server_closes_is_hung_up_on(tmp_path: object, turns: int) -> None:
    path = os.path.join(str(tmp_path), "server.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        server = Server({})
        await server.start(listener)
        client.connect(path)
        for _ in range(turns):  # of the event loop: where the connection is on its way to being served
            await asyncio.sleep(0)
        await server.close()
        client.settimeout(DEADLINE)
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""
        assert not server.connections


async def test_a_server_without_descriptors_serves_again_when_there_are_some(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await serve({})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = socket.socket(socket.AF_UNIX)
    lowest = waiting.fileno() + 1
    monkeypatch.setattr("architect.ttrpc.server._RETRY_SECONDS", 0.0)
    refused = asyncio.Event()
    monkeypatch.setattr(logging.getLogger("architect.ttrpc.server"), "error", lambda *_: refused.set())
    with waiting:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            waiting.connect(node.path)
            await asyncio.wait_for(refused.wait(), DEADLINE)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        client = await node.client()
        with pytest.raises(RpcError) as unknown:
            await client.call("test.Nobody", "Nothing", StateRequest(), StateResponse, timeout=DEADLINE)
    assert unknown.value.code is Code.UNIMPLEMENTED


async def test_a_server_can_be_closed_before_and_after_it_served() -> None:
    server = Server({})
    await server.close()
    await server.close()


async def test_a_client_that_asks_and_never_listens_is_not_listened_to_either(serve: Serve) -> None:
    handlers = Handlers()
    node = await serve(handlers.services())
    raw, other = await node.raw(), await node.client()
    calls = 300

    async def ask() -> None:
        for number in range(calls):
            await raw.request(2 * number + 1, ECHO, "echo", StateRequest("x" * 100_000))

    asking = asyncio.create_task(ask())
    for _ in range(1000):  # turns of the loop in which the server could go on reading
        await _call(other, "echo", StateRequest())
    assert not asking.done()
    answered = {(await raw.response())[0] for _ in range(calls)}
    await asking
    assert answered == set(range(1, 2 * calls, 2))
