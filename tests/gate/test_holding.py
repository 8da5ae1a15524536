"""Packets to a closed gate are held, all of them, and go on in order when it opens."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from architect.gate import Endpoint, GateError, HeldQueue, PodGate, Port, nftables
from architect.gate.netlink import Conversation
from architect.gate.netns import read_in, socket_in
from architect.gate.queue import MAX_HELD
from tests.gate.conftest import (
    CONTAINER,
    DEADLINE,
    POD,
    Namespace,
    Wire,
    begin_connect,
    closed,
    finish_connect,
    readable,
)

pytestmark = pytest.mark.root

HTTP = Port(8080, "TCP")
DNS = Port(5353, "UDP")
FOUR, SIX = socket.AF_INET, socket.AF_INET6


@pytest.mark.parametrize(
    ("family", "address", "from_pod"),
    [
        pytest.param(FOUR, POD[0], False, id="IPv4"),
        pytest.param(SIX, POD[1], False, id="IPv6"),
        pytest.param(FOUR, "127.0.0.1", True, id="IPv4 loopback"),
        pytest.param(SIX, "::1", True, id="IPv6 loopback"),
        pytest.param(FOUR, POD[0], True, id="the pod to its own address"),
    ],
)
def test_a_connection_is_held_and_opens_without_a_retransmit(
    wire: Wire, family: socket.AddressFamily, address: str, from_pod: bool
) -> None:
    side = wire.pod if from_pod else wire.client
    server, sock = wire.pod.listener(8080, family), side.open(socket.SOCK_STREAM, family)
    with closed(wire.gate, HTTP) as queue:
        begin_connect(sock, (address, 8080))
        assert readable(queue)
        assert queue.drain() == 1
        assert queue.stats().held == 1
        wire.gate.open(CONTAINER, queue)
        finish_connect(sock)
    accepted = wire.pod.keep(server.accept()[0])
    sock.sendall(b"hello")
    assert accepted.recv(5) == b"hello"
    assert side.counter("Tcp", "RetransSegs") == 0


@pytest.mark.parametrize(("family", "address"), [(FOUR, POD[0]), (SIX, POD[1])], ids=["IPv4", "IPv6"])
def test_datagrams_are_held(wire: Wire, family: socket.AddressFamily, address: str) -> None:
    server, sock = wire.pod.open(socket.SOCK_DGRAM, family), wire.client.open(socket.SOCK_DGRAM, family)
    server.bind(("", 5353))
    with closed(wire.gate, DNS) as queue:
        sock.sendto(b"question", (address, 5353))
        assert readable(queue)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(100)
        wire.gate.open(CONTAINER, queue)
        assert readable(server)
    assert server.recv(100) == b"question"


def test_a_connection_to_nobody_waits_for_whoever_comes_to_listen(wire: Wire) -> None:
    sock = wire.client.open(socket.SOCK_STREAM)
    with closed(wire.gate, HTTP) as queue:
        begin_connect(sock, (POD[0], 8080))
        assert readable(queue)
        wire.pod.listener(8080)
        wire.gate.open(CONTAINER, queue)
        finish_connect(sock)


def test_other_ports_and_the_same_port_of_the_other_protocol_stay_open(wire: Wire) -> None:
    wire.pod.listener(8081)
    datagrams = wire.pod.open(socket.SOCK_DGRAM)
    datagrams.bind(("", 8080))
    with closed(wire.gate, HTTP) as queue:
        wire.client.open(socket.SOCK_STREAM).connect((POD[0], 8081))
        wire.client.open(socket.SOCK_DGRAM).sendto(b"x", (POD[0], 8080))
        assert datagrams.recv(10) == b"x"
        assert queue.stats().id_sequence == 0
        wire.gate.open(CONTAINER, queue)


def test_twelve_thousand_datagrams_that_nobody_reads_are_released_in_order(wire: Wire) -> None:
    count = 12_000
    server, sock = wire.pod.open(socket.SOCK_DGRAM), wire.client.open(socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    server.bind(("", 5353))
    sock.setsockopt(socket.SOL_SOCKET, 32, 64 << 20)
    with closed(wire.gate, DNS) as queue:
        for index in range(count):
            sock.sendto(index.to_bytes(4, "big") + bytes(1000), (POD[0], 5353))
        stats = queue.stats()
        assert (stats.held, stats.id_sequence, stats.dropped) == (count, count, 0)
        wire.gate.open(CONTAINER, queue)
        assert queue.stats().held == 0
        seen = [int.from_bytes(server.recv(2000)[:4], "big") for _ in range(count)]
        read = 0
        while got := queue.drain():
            read += got
    assert seen == list(range(count))
    assert read == count, "a notice of every packet waited for a reader"


def test_a_flood_is_read_in_portions(wire: Wire) -> None:
    sock = wire.client.open(socket.SOCK_DGRAM)
    with closed(wire.gate, DNS) as queue:
        for _ in range(1500):
            sock.sendto(b"x", (POD[0], 5353))
        assert queue.drain() == 1024
        assert queue.drain() == 476
        wire.gate.open(CONTAINER, queue)


def test_what_no_queue_can_hold_is_dropped_and_counted_not_let_through(wire: Wire) -> None:
    server, sock = wire.pod.open(socket.SOCK_DGRAM), wire.client.open(socket.SOCK_DGRAM)
    server.bind(("", 5353))
    with closed(wire.gate, DNS) as queue:
        for _ in range(MAX_HELD + 100):
            sock.sendto(b"x", (POD[0], 5353))
        assert queue.stats() == (MAX_HELD, MAX_HELD, 100)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(1)
        wire.gate.open(CONTAINER, queue)


def test_a_datagram_in_fragments_arrives_whole(wire: Wire) -> None:
    server, sock = wire.pod.open(socket.SOCK_DGRAM), wire.client.open(socket.SOCK_DGRAM)
    server.bind(("", 5353))
    data = os.urandom(5000)
    with closed(wire.gate, DNS) as queue:
        sock.sendto(data, (POD[0], 5353))
        assert readable(queue)
        wire.gate.open(CONTAINER, queue)
        assert server.recv(6000) == data


def test_a_large_upload_is_held_whole_and_goes_on(wire: Wire) -> None:
    # Through veth a segment is up to 64 KiB, not cut before the queue (NFQA_CFG_F_GSO).
    server, sock = wire.pod.listener(8080), wire.client.open(socket.SOCK_STREAM)
    sock.connect((POD[0], 8080))
    accepted = wire.pod.keep(server.accept()[0])
    data = os.urandom(60_000)
    with closed(wire.gate, HTTP) as queue:
        data = data[: sock.send(data)]  # a kernel takes as much as its send buffer has room for
        assert readable(queue)
        assert queue.stats().id_sequence < 10, "ten segments at once came as fewer packets"
        wire.gate.open(CONTAINER, queue)
        received = b""
        while len(received) < len(data):
            received += accepted.recv(1 << 16)
    assert received == data


def test_taking_the_rules_away_drops_nothing_that_is_held(wire: Wire) -> None:
    wire.pod.listener(8080)
    sock = wire.client.open(socket.SOCK_STREAM)
    with closed(wire.gate, HTTP) as queue:
        begin_connect(sock, (POD[0], 8080))
        assert readable(queue)
        wire.gate.open(CONTAINER)  # the rules only
        assert queue.stats().held == 1
        queue.release()
        finish_connect(sock)
    assert wire.client.counter("Tcp", "RetransSegs") == 0


def test_a_late_packet_is_released_when_the_queue_closes(wire: Wire) -> None:
    # What a processor carried past the rule as it went arrives after `open`: here with the rule still
    # standing.
    wire.pod.listener(8080)
    sock = wire.client.open(socket.SOCK_STREAM)
    with closed(wire.gate, HTTP) as queue:
        queue.release()
        begin_connect(sock, (POD[0], 8080))
        assert readable(queue)
    wire.gate.open(CONTAINER)
    finish_connect(sock)
    assert wire.client.counter("Tcp", "RetransSegs") == 0


def test_two_containers_of_a_pod_have_two_gates(wire: Wire) -> None:
    wire.pod.listener(8080)
    wire.pod.listener(9090)
    one, two = (wire.client.open(socket.SOCK_STREAM) for _ in range(2))
    other = Port(9090, "TCP")
    with closed(wire.gate, HTTP) as first, closed(wire.gate, other, container="other", number=2) as second:
        begin_connect(one, (POD[0], 8080))
        begin_connect(two, (POD[0], 9090))
        assert readable(first)
        assert readable(second)
        wire.gate.open("other", second)
        finish_connect(two)
        assert first.stats().held == 1
        wire.gate.open(CONTAINER, first)
        finish_connect(one)


# ---- connections that were there before


@pytest.mark.parametrize(("family", "index"), [(FOUR, 0), (SIX, 1)], ids=["IPv4", "IPv6"])
def test_packets_of_a_connection_that_the_pod_opened_are_held(
    wire: Wire, family: socket.AddressFamily, index: int
) -> None:
    server = wire.client.listener(7000, family)
    ours = wire.pod.open(socket.SOCK_STREAM, family)
    other = wire.pod.open(socket.SOCK_STREAM, family)
    address = ("10.77.0.1", "fd77::1")[index]
    for sock in (ours, other):
        sock.connect((address, 7000))
    theirs, others = (wire.client.keep(server.accept()[0]) for _ in range(2))
    local, remote = (Endpoint(*name[:2]) for name in (ours.getsockname(), ours.getpeername()))
    with closed(wire.gate) as queue:
        wire.gate.extend(CONTAINER, [(local, remote)], queue.number)
        others.sendall(b"for another container")
        assert other.recv(100) == b"for another container"
        assert queue.stats().id_sequence == 0
        theirs.sendall(b"news")
        assert readable(queue)
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(100)
        wire.gate.open(CONTAINER, queue)
        assert readable(ours)
    assert ours.recv(100) == b"news"


def test_a_gate_is_extended_by_ports_and_by_many_connections(wire: Wire) -> None:
    many = [(Endpoint(POD[0], 40000), Endpoint(f"10.77.{n >> 8}.{n & 255}", 443)) for n in range(2000)]
    sock = wire.client.open(socket.SOCK_STREAM)
    with closed(wire.gate) as queue:
        wire.gate.extend(CONTAINER, many, queue.number, [HTTP])
        begin_connect(sock, (POD[0], 8080))
        assert readable(queue)
        wire.gate.open(CONTAINER, queue)
    assert wire.gate.activity(CONTAINER).rules == 0
    assert _rules(wire.pod) == []


def test_a_connection_to_a_gated_port_needs_no_rule_of_its_own(wire: Wire) -> None:
    with closed(wire.gate, HTTP) as queue:
        before = _rules(wire.pod)
        connection = (Endpoint(POD[0], 8080), Endpoint("10.77.0.1", 40000))
        wire.gate.extend(CONTAINER, [connection], queue.number, [HTTP])
        assert _rules(wire.pod) == before
        wire.gate.open(CONTAINER, queue)


# ---- processes come and go


CLOSER = """
import socket, sys
from architect.gate import PodGate, Port
gate = PodGate(sys.argv[1])
queue = gate.close(sys.argv[2], [Port(8080, "TCP")], 1)
lender = socket.socket(fileno=int(sys.argv[3]))
socket.send_fds(lender, [b"x"], [queue.fileno()])
lender.recv(1)
"""


def test_held_packets_outlive_the_process_that_closed_the_gate(wire: Wire) -> None:
    server, sock = wire.pod.listener(8080), wire.client.open(socket.SOCK_STREAM)
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    here.settimeout(DEADLINE)
    root = str(Path(__file__).parents[2])
    arguments = [sys.executable, "-c", CLOSER, wire.pod.path, CONTAINER, str(there.fileno())]
    with (
        here,
        there,
        subprocess.Popen(arguments, pass_fds=[there.fileno()], env={"PYTHONPATH": root}) as closer,
    ):
        there.close()
        _, fds, _, _ = socket.recv_fds(here, 10, 1)
        queue = HeldQueue.from_fd(fds[0])
        try:
            assert queue.number == 1
            begin_connect(sock, (POD[0], 8080))
            assert readable(queue)
            closer.send_signal(signal.SIGKILL)
            assert closer.wait() == -signal.SIGKILL
            assert queue.drain() == 1
            assert queue.stats().held == 1
            wire.gate.open(CONTAINER, queue)
            finish_connect(sock)
        finally:
            queue.close()
    server.accept()[0].close()
    assert wire.client.counter("Tcp", "RetransSegs") == 0


def test_a_duplicate_reads_and_its_end_changes_nothing(wire: Wire) -> None:
    wire.pod.listener(8080)
    sock = wire.client.open(socket.SOCK_STREAM)
    with closed(wire.gate, HTTP) as queue:
        lent = HeldQueue.from_fd(os.dup(queue.fileno()))
        begin_connect(sock, (POD[0], 8080))
        assert readable(lent)
        assert lent.drain() == 1
        lent.close()
        assert queue.stats() == (1, 1, 0)
        wire.gate.open(CONTAINER, queue)
        finish_connect(sock)


def test_a_queue_that_was_unbound_is_no_more_for_its_duplicates(wire: Wire) -> None:
    queue = wire.gate.close(CONTAINER, [HTTP], 1)
    lent = HeldQueue.from_fd(os.dup(queue.fileno()))
    try:
        wire.gate.open(CONTAINER, queue)
        queue.close()
        queue.close()
        with pytest.raises(GateError) as raised:
            lent.stats()
        assert raised.value.errno == errno.ENOENT
        with closed(wire.gate, HTTP, number=1) as again:
            wire.gate.open(CONTAINER, again)
    finally:
        lent.close()


def test_closing_again_replaces_what_a_killed_process_left(wire: Wire) -> None:
    wire.pod.listener(8080)
    sock = wire.client.open(socket.SOCK_STREAM)
    # A process that is killed leaves rules, and no queue.
    abandoned = wire.gate.close(CONTAINER, [HTTP, DNS], 1)
    abandoned.close()
    with closed(wire.gate, HTTP, number=3) as queue:
        assert len(_rules(wire.pod)) == len(nftables.probe().families)
        begin_connect(sock, (POD[0], 8080))
        assert readable(queue)
        wire.gate.open(CONTAINER, queue)
        wire.gate.open(CONTAINER, queue)
        finish_connect(sock)
    assert _rules(wire.pod) == []


def test_a_number_that_is_taken_is_refused_and_leaves_nothing(wire: Wire) -> None:
    with closed(wire.gate, HTTP, number=5) as queue:
        before = _rules(wire.pod)
        with pytest.raises(GateError, match="packet queue 5") as raised:
            wire.gate.close("other", [DNS], 5)
        assert raised.value.errno == errno.EBUSY
        assert _rules(wire.pod) == before
        wire.gate.open(CONTAINER, queue)


def test_no_socket_is_left_to_keep_the_namespace_alive(wire: Wire) -> None:
    descriptors = set(os.listdir("/proc/self/fd"))
    queue = wire.gate.close(CONTAINER, [HTTP], 1)
    wire.gate.extend(CONTAINER, [(Endpoint(POD[0], 1), Endpoint("10.77.0.1", 2))], 1)
    wire.gate.watch(CONTAINER, [HTTP])
    wire.gate.activity(CONTAINER)
    queue.stats()
    wire.gate.open(CONTAINER, queue)
    queue.close()
    assert set(os.listdir("/proc/self/fd")) == descriptors


# ---- what cannot be


@pytest.mark.parametrize(
    ("path", "code"),
    [
        pytest.param("/proc/self/ns/net", errno.EINVAL, id="the node's own namespace"),
        pytest.param("", errno.ENOENT, id="none"),
        pytest.param("/proc/self/ns/mnt", errno.EINVAL, id="a namespace of another kind"),
        pytest.param("/dev/null", errno.EINVAL, id="no namespace"),
    ],
)
def test_a_namespace_that_is_no_pods_is_refused(path: str, code: int) -> None:
    gate = PodGate(path)
    for call in (lambda: gate.close("c", [HTTP], 1), lambda: gate.open("c"), lambda: gate.activity("c")):
        with pytest.raises(GateError) as raised:
            call()
        assert raised.value.errno == code


@pytest.mark.parametrize("name", ["", "a:b", "x" * 101, "a\n", "ä", ".."])
def test_what_is_no_container_id_is_refused(wire: Wire, name: str) -> None:
    with pytest.raises(GateError) as raised:
        wire.gate.close(name, [HTTP], 1)
    assert raised.value.errno == errno.EINVAL


def test_a_descriptor_that_is_no_queue_is_refused() -> None:
    one, two = socket.socketpair()
    two.close()
    with pytest.raises(GateError):
        HeldQueue.from_fd(one.detach())


def test_a_netfilter_socket_without_a_queue_is_refused(pod: Namespace) -> None:
    sock = socket_in(pod.path, socket.AF_NETLINK, socket.SOCK_RAW, 12)
    with pytest.raises(GateError) as raised:
        HeldQueue.from_fd(sock.detach())
    assert raised.value.errno == errno.ENOENT


def test_an_error_inside_a_namespace_ends_in_our_own(pod: Namespace) -> None:
    before = os.stat("/proc/thread-self/ns/net").st_ino
    with pytest.raises(GateError):
        read_in(pod.path, "no/such/file")
    with pytest.raises(GateError):
        socket_in(pod.path, 4711, socket.SOCK_RAW)
    assert os.stat("/proc/thread-self/ns/net").st_ino == before


def _rules(pod: Namespace) -> list[str]:
    with closing(Conversation(socket_in(pod.path, socket.AF_NETLINK, socket.SOCK_RAW, 12))) as conversation:
        found = nftables.rules(conversation, "reading the rules", nftables.probe().families)
    return [rule.tag for rule in found]
