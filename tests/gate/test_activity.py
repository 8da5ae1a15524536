"""What is noted of the packets to a container's ports, and for how long nothing came."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from architect.gate import PodGate, Port, nftables
from architect.gate.netlink import Conversation, Request
from architect.gate.netns import socket_in
from architect.gate.nftables import IPV4, IPV6, Means
from tests.gate.conftest import CONTAINER, POD, Wire, begin_connect, closed, finish_connect, readable, until

pytestmark = pytest.mark.root

HTTP, DNS = Port(8080, "TCP"), Port(5353, "UDP")


def _datagram(wire: Wire, port: int = 5353, *, six: bool = False) -> None:
    family = socket.AF_INET6 if six else socket.AF_INET
    wire.client.open(socket.SOCK_DGRAM, family).sendto(b"x", (POD[six], port))


def test_packets_to_watched_ports_are_counted_and_no_others(wire: Wire) -> None:
    wire.gate.watch(CONTAINER, [HTTP, DNS])
    assert wire.gate.activity(CONTAINER) == (0, None, 2)
    _datagram(wire)
    _datagram(wire, six=True)
    _datagram(wire, 5354)
    activity = wire.gate.activity(CONTAINER)
    assert activity.packets == 2
    assert activity.idle_seconds is not None
    wire.pod.listener(8080)
    wire.client.open(socket.SOCK_STREAM).connect((POD[0], 8080))
    assert wire.gate.activity(CONTAINER).packets == 4  # SYN and ACK


def test_idle_time_grows_and_starts_anew_with_a_packet(wire: Wire) -> None:
    wire.gate.watch(CONTAINER, [HTTP, DNS])
    _datagram(wire, 5353)
    until(lambda: (wire.gate.activity(CONTAINER).idle_seconds or 0) >= 0.3)
    _datagram(wire, 5353, six=True)
    assert (wire.gate.activity(CONTAINER).idle_seconds or 0) < 0.3


def test_idle_time_is_that_of_the_port_used_last(wire: Wire) -> None:
    wire.gate.watch(CONTAINER, [DNS, Port(5354, "UDP")])
    _datagram(wire, 5353)
    until(lambda: (wire.gate.activity(CONTAINER).idle_seconds or 0) >= 0.3)
    _datagram(wire, 5354)
    assert (wire.gate.activity(CONTAINER).idle_seconds or 0) < 0.3


def test_watching_again_keeps_what_was_counted(wire: Wire) -> None:
    wire.gate.watch(CONTAINER, [DNS])
    _datagram(wire)
    wire.gate.watch(CONTAINER, [DNS])
    # As a daemon does that has just started.
    again = PodGate(wire.gate.netns)
    again.watch(CONTAINER, [DNS, HTTP])
    activity = again.activity(CONTAINER)
    assert (activity.packets, activity.rules) == (1, 2)


def test_ports_that_are_not_wanted_any_more_are_not_watched_any_more(wire: Wire) -> None:
    wire.gate.watch(CONTAINER, [DNS, HTTP])
    wire.gate.watch(CONTAINER, [HTTP])
    _datagram(wire)
    assert wire.gate.activity(CONTAINER) == (0, None, 1)


def test_containers_are_told_apart(wire: Wire) -> None:
    wire.gate.watch("one", [DNS])
    wire.gate.watch("one-more", [HTTP])
    _datagram(wire)
    assert wire.gate.activity("one").packets == 1
    assert wire.gate.activity("one-more").packets == 0
    wire.gate.unwatch("one")
    wire.gate.unwatch("one")
    assert wire.gate.activity("one").rules == 0
    assert wire.gate.activity("one-more").rules == 1


def test_nothing_watched_is_told_from_nothing_seen(wire: Wire) -> None:
    assert wire.gate.activity(CONTAINER) == (0, None, 0)


def test_held_packets_are_noted_once(wire: Wire) -> None:
    with closed(wire.gate, DNS) as queue:
        wire.gate.watch(CONTAINER, [DNS])
        _datagram(wire)
        assert readable(queue)
        assert wire.gate.activity(CONTAINER).packets == 1
        wire.gate.open(CONTAINER, queue)
    assert wire.gate.activity(CONTAINER).packets == 1


def test_opening_the_gate_keeps_the_watch(wire: Wire) -> None:
    wire.gate.watch(CONTAINER, [DNS])
    with closed(wire.gate, DNS) as queue:
        wire.gate.open(CONTAINER, queue)
    _datagram(wire)
    assert wire.gate.activity(CONTAINER).packets == 1


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_a_kernel_that_refuses_the_queue_in_inet_tables_gets_two_tables(
    wire: Wire, six: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = nftables.probe()
    monkeypatch.setattr(nftables, "probe", lambda: Means((IPV4, IPV6), found.native_queue, found.last))
    wire.pod.listener(8080, socket.AF_INET6 if six else socket.AF_INET)
    sock = wire.client.open(socket.SOCK_STREAM, socket.AF_INET6 if six else socket.AF_INET)
    wire.gate.watch(CONTAINER, [HTTP])
    with closed(wire.gate, HTTP) as queue:
        begin_connect(sock, (POD[six], 8080))
        assert readable(queue)
        wire.gate.open(CONTAINER, queue)
        finish_connect(sock)
    assert wire.gate.activity(CONTAINER)[::2] == (2, 2)
    assert wire.client.counter("Tcp", "RetransSegs") == 0


def test_a_kernel_without_the_last_expression_still_counts(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = nftables.probe()
    monkeypatch.setattr(nftables, "probe", lambda: found._replace(last=False))
    wire.gate.watch(CONTAINER, [DNS])
    _datagram(wire)
    assert wire.gate.activity(CONTAINER) == (1, None, 1)


def test_a_table_that_somebody_flushed_is_made_anew(wire: Wire) -> None:
    # A pod that may, may; what counts is that we notice (no rules) and can put it right.
    wire.gate.watch(CONTAINER, [DNS])
    with closing(
        Conversation(socket_in(wire.pod.path, socket.AF_NETLINK, socket.SOCK_RAW, 12))
    ) as conversation:
        conversation.batch("flushing everything", [Request(10 << 8 | 2, 0, 0, b"")])
    assert wire.gate.activity(CONTAINER).rules == 0
    wire.gate.watch(CONTAINER, [DNS])
    _datagram(wire)
    assert wire.gate.activity(CONTAINER).packets == 1
