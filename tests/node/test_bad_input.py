"""Nonsense in annotations and on sockets: a clear message, and nothing dies of it."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from architect.ttrpc.client import Code, RpcError
from hack.control import API, Daemon, await_phase, await_true, describe, hibernate, shim_socket, status
from hack.cri import Container
from tests.node.asking import CONTAINERD_LOG, ask, explain, get, metric
from tests.node.conftest import PREFIX, Run

SEED = 20_260_117


@pytest.mark.same_everywhere
@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("managed-containers", '["app"', "JSON"),
        ("managed-containers", '{"app": true}', "list"),
        ("managed-containers", '["App!"]', "no container name"),
        ("managed-containers", '["app", "app"]', "twice"),
        ("scaledown-durations", '{"app": "soon"}', "no duration"),
        ("scaledown-durations", '{"app": 5}', "string"),
        ("scaledown-durations", '"1s"', "object"),
        ("scaledown-durations", '{"app": "-5s"}', "negative"),
        ("scaledown-durations", '{"app": "999999999h"}', "ten years"),
        ("scaledown-durations", '{"app": "1s", "Other!": "1s"}', "no container name"),
        ("initial-scaledown-delays", '{"app": "1 fortnight"}', "no duration"),
        ("network-monitor", '{"app": "everything"}', "no mode"),
        ("network-monitor", "packets", "JSON"),
    ],
)
def test_a_refused_annotation_is_named_and_its_container_runs_unmanaged(
    run: Run, daemon: Daemon, key: str, value: str, why: str
) -> None:
    app = run(idle="1s", extra={PREFIX + key: value})
    assert get(app) == "1"
    found = status(app)
    assert (found.managed, found.phase) == (False, "RUNNING")
    assert found.settings_error.startswith(PREFIX + key), found.settings_error
    assert why in found.settings_error, found.settings_error
    await_true(lambda: bool(explain(app)), "the daemon knows it")
    told = explain(app)
    assert told["settings_error"] == found.settings_error
    assert (told["eligible"], told["managed"]) == (False, False)
    assert PREFIX + key in told["sentences"][0]
    assert f"container {app.id} runs unmanaged: {PREFIX}{key}" in CONTAINERD_LOG.read_text()
    with pytest.raises(RpcError) as refused:
        hibernate(app)
    assert refused.value.code is Code.FAILED_PRECONDITION
    code, body = ask(f"/v1/containers/{app.id}/hibernate", "POST")
    assert code == 409
    assert PREFIX + key in body["error"], body
    assert app.exec("/usr/bin/python3", "-c", "print(1)").stdout == b"1\n"
    assert get(app) == "2"


def test_a_container_that_the_annotation_does_not_name_runs_unmanaged_and_explain_names_the_key(
    run: Run, daemon: Daemon
) -> None:
    app = run(idle="1s", extra={PREFIX + "managed-containers": '["ap"]'})
    assert get(app) == "1"
    await_true(lambda: bool(explain(app)), "the daemon knows it")
    told = explain(app)
    assert (told["managed"], told["eligible"]) == (False, False)
    assert "managed-containers" in told["sentences"][0]
    with pytest.raises(RpcError, match="managed-containers"):
        hibernate(app)
    assert get(app) == "2"


def test_an_unknown_container_is_not_found_and_the_message_names_it(daemon: Daemon) -> None:
    for method, verb in (("GET", "explain"), ("POST", "hibernate"), ("POST", "wake")):
        code, body = ask(f"/v1/containers/default/nobody/ghost/{verb}", method)
        assert code == 404
        assert "ghost" in body["error"]


# ---- random bytes


def nonsense() -> Iterator[bytes]:
    """Random bytes, and bytes that look like ttrpc as far as they go; the same in every run."""
    chance = random.Random(SEED)
    for size in (0, 1, 9, 10, 11, 100, 4096, 100_000):
        yield chance.randbytes(size)
    header = struct.Struct(">IIBB")
    for kind in range(6):
        for flags in (0, 1, 2, 4, 255):
            body = chance.randbytes(chance.randrange(200))
            yield header.pack(len(body), chance.randrange(1 << 32), kind, flags) + body
    yield header.pack(0xFFFFFFFF, 1, 1, 0) + bytes(1000)  # more than there may be
    yield header.pack(1000, 1, 1, 0) + bytes(10)  # less than it says
    yield header.pack(0, 1, 1, 0) * 500


def throw(path: str, data: bytes, kind: socket.SocketKind = socket.SOCK_STREAM) -> bytes:
    """Sends data and hangs up its half; what came back until the other side hung up or there was no more."""
    answer = b""
    with socket.socket(socket.AF_UNIX, kind) as line:
        line.settimeout(5)
        line.connect(path)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            line.sendall(data)
            line.shutdown(socket.SHUT_WR)
            while more := line.recv(65536):
                answer += more
    return answer


def still_serves(app: Container, shim_pid: int, expected: int) -> None:
    assert describe(app.pod).shim_pid == shim_pid
    if status(app).phase != "SCALED_DOWN":
        hibernate(app)
    assert get(app) == str(expected)


def test_random_bytes_on_the_shims_socket_end_only_their_own_connection(run: Run, daemon: Daemon) -> None:
    app = run()
    assert get(app) == "1"
    shim_pid = describe(app.pod).shim_pid
    path = shim_socket(app.pod)
    for data in nonsense():
        throw(path, data)
    still_serves(app, shim_pid, 2)
    hibernate(app)
    for data in nonsense():
        throw(path, data)
    assert status(app).phase == "SCALED_DOWN"
    still_serves(app, shim_pid, 3)
    await_true(lambda: explain(app).get("wakes") == 2, "the daemon still follows it")


def test_a_hundred_half_said_requests_keep_nobody_else_from_being_answered(run: Run) -> None:
    app = run()
    lines = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    try:
        for line in lines:
            line.connect(shim_socket(app.pod))
            line.send(struct.pack(">IIBB", 4000, 1, 1, 0) + b"half")
        hibernate(app)
        assert get(app) == "1"
    finally:
        for line in lines:
            line.close()
    assert get(app) == "2"


@pytest.mark.parametrize("with_daemon", [False, True], ids=["alone", "beside a daemon"])
def test_random_bytes_on_the_gate_socket_do_not_keep_packets_from_waking(run: Run, with_daemon: bool) -> None:
    app = run()
    assert get(app) == "1"
    shim_pid = describe(app.pod).shim_pid
    gate = shim_socket(app.pod).removesuffix(".sock") + ".gate"
    chance = random.Random(SEED)
    with Daemon() if with_daemon else contextlib.nullcontext():
        if with_daemon:
            await_true(lambda: bool(explain(app)), "the daemon knows it")
        for expected in (2, 3):
            for size in (1, 10, 4096, 60_000):
                throw(gate, chance.randbytes(size), socket.SOCK_SEQPACKET)
            still_serves(app, shim_pid, expected)
        hibernate(app)
        for size in (1, 10, 4096, 60_000):
            throw(gate, chance.randbytes(size), socket.SOCK_SEQPACKET)
        assert get(app) == "4"
        assert status(app).last_wake_cause == "packet"
        if with_daemon:
            hibernate(app)
            await_true(lambda: metric("architect_gates_closed") == 1, "the daemon reads the gate again")
            assert get(app) == "5"


def test_a_silent_stranger_on_the_gate_socket_is_replaced_by_the_daemon(run: Run) -> None:
    app = run()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.connect(shim_socket(app.pod).removesuffix(".sock") + ".gate")
        with Daemon():
            hibernate(app)
            await_true(lambda: metric("architect_gates_closed") == 1, "the daemon reads the gate")
            assert get(app) == "1"


HTTP: list[Callable[[random.Random], bytes]] = [
    lambda chance: chance.randbytes(1000),
    lambda _: b"GET /v1/containers HTTP/9.9\r\n\r\n",
    lambda _: b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    lambda _: b"GET /v1/health HTTP/1.1\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
    lambda _: b"POST /v1/containers/x/wake HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nx",
    lambda _: b"POST /v1/containers/x/wake HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    lambda _: b"GET /v1/containers/%00%ff%2e%2e%2f/explain HTTP/1.1\r\nHost: x\r\n\r\n",
    lambda _: b"DELETE /v1/containers HTTP/1.1\r\nHost: x\r\n\r\n",
    lambda _: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
    lambda _: b"",
]


def test_random_bytes_on_the_daemons_socket_are_refused_and_it_goes_on(
    run: Run, start_daemon: Callable[[], Daemon]
) -> None:
    app = run(idle="500ms")
    daemon = start_daemon()
    chance = random.Random(SEED)
    for make in HTTP:
        answer = throw(API, make(chance))
        assert not answer.startswith(b"HTTP/1.1 2"), answer[:200]
        assert not answer.startswith(b"HTTP/1.1 5"), answer[:200]
        assert b"Traceback" not in answer
    for data in nonsense():
        throw(API, data)
    assert ask("/v1/health")[1]["status"] == "ok"
    await_phase(app, "SCALED_DOWN")
    assert get(app) == "1"
    assert "a request failed" not in daemon.log()
    assert "a task failed" not in daemon.log()
