"""Open connections outlive the sleep in `packets` mode and prevent it in `connections` mode."""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import select
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from architect.gate import sockets
from architect.ttrpc.client import Code, RpcError
from hack.control import SECONDS, Daemon, await_phase, await_true, hibernate, status, wake
from hack.cri import Container
from tests.node.asking import explain
from tests.node.conftest import MakePod, Run, managed
from tests.node.test_packets import (
    ANOTHER_HOST,
    FAMILIES,
    HTTP,
    LOOPBACK,
    NODE,
    UDP,
    Family,
    Http,
    hibernate_when_quiet,
    places,
)

HOLDER = 7000
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27  # include/uapi/asm-generic/socket.h
_BULK_BYTES = 8 << 20
any_family = pytest.mark.parametrize("family", FAMILIES, ids=["IPv4", "IPv6"])

RELUCTANT = f"""
import signal, socket, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
datagrams.bind(("::", {UDP}))
listener = socket.create_server(("::", {HOLDER}), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening", flush=True)
connection = listener.accept()[0] if sys.argv[1] == "bytes" else None
print("waiting", flush=True)
signal.sigwait([signal.SIGUSR1])
while sys.argv[1] == "datagrams":
    data, sender = datagrams.recvfrom(100)
    datagrams.sendto(data, sender)
connection = connection or listener.accept()[0]
while data := connection.recv(100):
    connection.sendall(data)
signal.sigwait([signal.SIGTERM])
"""
"""Echoes, but takes nothing (of the kind its argument names) before SIGUSR1."""

BULK = f"""
import random, socket
listener = socket.create_server(("::", {HOLDER}), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening", flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(random.Random(1).randbytes({_BULK_BYTES}))
    connection.close()
"""
"""Sends more than any socket buffers, as fast as the client takes it."""


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    """Closes what is entered into it after the test."""
    with ExitStack() as stack:
        yield stack


@any_family
def test_a_kept_connection_wakes_with_its_next_request(
    run: Run, make_pod: MakePod, ends: ExitStack, family: Family
) -> None:
    app = run()
    ways = places(app, make_pod).values()
    kept = [ends.enter_context(closing(Http(place.connect(family, HTTP)))) for place in ways]
    assert [client.get() for client in kept] == ["1", "2", "3"]
    for count, client in enumerate([*kept, *reversed(kept)], 4):
        hibernate_when_quiet(app)
        assert client.get() == str(count)
        assert client.sees_us()
    assert status(app).wakes == 6


@any_family
def test_the_rest_of_a_request_may_come_after_the_sleep(run: Run, make_pod: MakePod, family: Family) -> None:
    app = run()
    with places(app, make_pod)[ANOTHER_HOST].connect(family, HTTP) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHo")
        await_true(lambda: _waiting(app) is None, "the server has read what came")
        hibernate_when_quiet(app)
        client.sendall(b"st: pod\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")


@any_family
@pytest.mark.parametrize("origin", [ANOTHER_HOST, NODE, LOOPBACK])
def test_a_byte_from_the_far_end_wakes_who_opened_the_connection(
    run: Run, make_pod: MakePod, origin: str, family: Family
) -> None:
    app = run()
    place = places(app, make_pod)[origin]
    with place.connect(family, 9, socket.SOCK_DGRAM) as guide:  # sends nothing
        address = guide.getsockname()[0]
    with place.open(family) as listener, closing(Http(place.connect(family, HTTP))) as client:
        listener.bind((address, 0))
        listener.listen()
        own_port = int(client.get(f"/connect?host={address}&port={listener.getsockname()[1]}"))
        far, (_, from_port, *_) = listener.accept()
        assert from_port == own_port
        with far:
            far.settimeout(SECONDS)
            for byte in (b"a", b"b"):
                hibernate_when_quiet(app)
                far.sendall(byte)
                assert far.recv(100) == byte
    after = status(app)
    assert (after.wakes, after.last_wake_cause) == (2, "packet")


@any_family
def test_a_client_that_hangs_up_on_a_sleeper_is_noticed(run: Run, make_pod: MakePod, family: Family) -> None:
    app = run()
    client = Http(places(app, make_pod)[ANOTHER_HOST].connect(family, HTTP))
    assert client.get() == "1"
    hibernate_when_quiet(app)
    client.close()
    assert await_phase(app, "RUNNING").last_wake_cause == "packet"
    await_true(lambda: not sockets.snapshot([status(app).pid]).connections(), "the server has closed its end")


@any_family
def test_a_transfer_that_nobody_takes_goes_on_after_the_sleep(
    run: Run, make_pod: MakePod, family: Family
) -> None:
    app = run(command=["/usr/bin/python3", "-c", BULK], ports=[HOLDER])
    with places(app, make_pod)[ANOTHER_HOST].connect(family, HOLDER) as client:
        received = bytearray(client.recv(1))
        hibernate_when_quiet(app)
        while data := client.recv(1 << 16):
            received += data
    wanted = random.Random(1).randbytes(_BULK_BYTES)
    assert (len(received), hashlib.sha256(received).digest()) == (
        _BULK_BYTES,
        hashlib.sha256(wanted).digest(),
    )
    assert status(app).wakes == 1


# ---- what has come and has not been taken when the container is frozen


def _waiting(app: Container) -> str | None:
    """What lies unread in a container, in words."""
    return sockets.snapshot([status(app).pid]).unread()


def _reluctant(run: Run, what: str) -> Container:
    return run(
        command=["/usr/bin/python3", "-c", RELUCTANT, what],
        ports=[HOLDER, (UDP, "UDP")],
        line="listening" if what == "bytes" else "waiting",
    )


def _stays_awake(app: Container, because: str) -> None:
    await_true(lambda: because in (_waiting(app) or ""), because)
    with pytest.raises(RpcError, match=because) as refused:
        hibernate(app)
    assert refused.value.code is Code.ABORTED
    after = status(app)
    assert (after.phase, after.sleeps, after.failures) == ("RUNNING", 0, [])


def _is_answered_and_sleeps_again(app: Container, client: socket.socket) -> None:
    os.kill(status(app).pid, signal.SIGUSR1)
    assert client.recv(100) == b"waiting"
    hibernate_when_quiet(app)
    client.send(b"asleep")
    assert client.recv(100) == b"asleep"
    assert status(app).wakes == 1


@any_family
def test_a_datagram_not_read_keeps_it_awake_and_is_answered(
    run: Run, make_pod: MakePod, family: Family
) -> None:
    app = _reluctant(run, "datagrams")
    with places(app, make_pod)[ANOTHER_HOST].connect(family, UDP, socket.SOCK_DGRAM) as client:
        client.send(b"waiting")
        _stays_awake(app, "a datagram lies unread")
        _is_answered_and_sleeps_again(app, client)


@any_family
def test_a_connection_not_accepted_keeps_it_awake_and_is_answered(
    run: Run, make_pod: MakePod, family: Family
) -> None:
    app = _reluctant(run, "connections")
    with places(app, make_pod)[ANOTHER_HOST].connect(family, HOLDER) as client:
        _stays_awake(app, "has not been accepted")
        client.send(b"waiting")
        _is_answered_and_sleeps_again(app, client)


@any_family
def test_bytes_not_read_keep_it_awake_and_are_answered(run: Run, make_pod: MakePod, family: Family) -> None:
    app = _reluctant(run, "bytes")
    with places(app, make_pod)[ANOTHER_HOST].connect(family, HOLDER) as client:
        app.await_line("waiting")
        client.send(b"waiting")
        _stays_awake(app, "7 bytes from")
        _is_answered_and_sleeps_again(app, client)


@any_family
def test_a_half_open_connection_keeps_it_awake_and_is_answered(
    run: Run, make_pod: MakePod, family: Family
) -> None:
    app = _reluctant(run, "connections")
    place = places(app, make_pod)[ANOTHER_HOST]
    with place.open(family) as client:
        _deafen(client)
        client.setblocking(False)
        assert client.connect_ex((place.targets[family], HOLDER)) != 0
        _stays_awake(app, "is half open")
        client.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        assert select.select([], [client], [], SECONDS)[1]
        client.settimeout(SECONDS)
        client.send(b"waiting")
        _is_answered_and_sleeps_again(app, client)


def _deafen(endpoint: socket.socket) -> None:
    """Everything that comes for this socket is dropped by a filter of one instruction: take 0 bytes."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    endpoint.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HxxxxxxQ", 1, ctypes.addressof(program))
    )


# ---- the modes, and pods of several containers


@any_family
def test_connections_mode_does_not_sleep_while_one_is_open(
    run: Run, make_pod: MakePod, start_daemon: Callable[[], Daemon], ends: ExitStack, family: Family
) -> None:
    idle = "300ms"
    app = run(idle=idle, monitor="connections")
    witness = run(idle=idle)  # tells when idle times have passed
    start_daemon()
    away, beside = (places(each, make_pod)[ANOTHER_HOST] for each in (app, witness))
    client, other = (ends.enter_context(closing(Http(each.connect(family, HTTP)))) for each in (away, beside))
    assert (client.get(), other.get()) == ("1", "1")
    sleeps = status(app).sleeps  # before there was a connection
    for count in range(2, 5):
        await_phase(witness, "SCALED_DOWN")
        assert other.get() == str(count)
    await_phase(witness, "SCALED_DOWN")
    assert (status(app).phase, status(app).sleeps) == ("RUNNING", sleeps)
    assert explain(app)["waiting_for"] == "a TCP connection is open"
    assert client.get() == "2"
    assert client.sees_us()

    client.close()
    await_phase(app, "SCALED_DOWN")
    with closing(Http(away.connect(family, HTTP))) as client:
        assert client.get() == "3"
        assert status(app).last_wake_cause == "packet"


def test_one_container_of_a_pod_sleeps_while_the_other_serves(make_pod: MakePod, ends: ExitStack) -> None:
    pod = make_pod(annotations=managed("web", "holder"))
    web = pod.start("web", "web", ports=[HTTP])
    holder = pod.start("holder", "holder", ports=[HOLDER])
    for each in (web, holder):
        each.await_line("listening")
    place = places(web, make_pod)[ANOTHER_HOST]
    page = ends.enter_context(closing(Http(place.connect(socket.AF_INET, HTTP))))
    lines = ends.enter_context(place.connect(socket.AF_INET6, HOLDER))
    assert page.get() == "1"
    lines.sendall(b"a\n")
    assert lines.recv(100) == b"1 a\n"

    hibernate_when_quiet(web)
    lines.sendall(b"b\n")
    assert lines.recv(100) == b"2 b\n"
    with place.connect(socket.AF_INET, HOLDER) as another:
        another.sendall(b"c\n")
        assert another.recv(100) == b"1 c\n"
    assert (status(web).phase, status(holder).phase) == ("SCALED_DOWN", "RUNNING")

    hibernate_when_quiet(holder)
    assert page.get() == "2"
    assert (status(web).phase, status(holder).phase) == ("RUNNING", "SCALED_DOWN")
    lines.sendall(b"d\n")
    assert lines.recv(100) == b"3 d\n"
    assert (status(web).wakes, status(holder).wakes) == (1, 1)


def test_a_connection_between_two_sleepers_of_a_pod_survives(make_pod: MakePod) -> None:
    pod = make_pod(annotations=managed("web", "holder"))
    web = pod.start("web", "web", ports=[HTTP])
    holder = pod.start("holder", "holder", ports=[HOLDER])
    for each in (web, holder):
        each.await_line("listening")
    with closing(Http(places(web, make_pod)[NODE].connect(socket.AF_INET, HTTP))) as page:
        page.get(f"/connect?host=127.0.0.1&port={HOLDER}")
        kept = set(sockets.snapshot([status(holder).pid]).connections())
        assert len(kept) == 1
        hibernate_when_quiet(web)
        hibernate_when_quiet(holder)
        assert page.get() == "1"
        wake(holder)
        assert set(sockets.snapshot([status(holder).pid]).connections()) == kept
        assert {(far, near) for near, far in kept} <= set(sockets.snapshot([status(web).pid]).connections())
