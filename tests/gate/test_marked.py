"""A shim's own connections, by their mark, are neither noted nor held; nor do they count as connections."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing

import pytest

from architect.gate import MARK, Endpoint, Port, netns
from architect.gate.sockets import open_connections
from tests.gate.conftest import CONTAINER, POD, Namespace, Wire, begin_connect, closed, readable, until

pytestmark = pytest.mark.root

HTTP = Port(8080, "TCP")
Family = socket.AddressFamily
WAYS = pytest.mark.parametrize(
    ("family", "address"),
    [
        pytest.param(socket.AF_INET, POD[0], id="IPv4"),
        pytest.param(socket.AF_INET, "127.0.0.1", id="IPv4 loopback"),
        pytest.param(socket.AF_INET6, POD[1], id="IPv6"),
        pytest.param(socket.AF_INET6, f"::ffff:{POD[0]}", id="IPv4 of an IPv6 socket"),
    ],
)


def marked(pod: Namespace, family: Family) -> socket.socket:
    sock = pod.open(socket.SOCK_STREAM, family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
    return sock


def both_ways(one: socket.socket, other: socket.socket) -> None:
    for sender, receiver in ((one, other), (other, one)):
        sender.sendall(b"x" * 100_000)
        left = 100_000
        while left:
            left -= len(receiver.recv(left))


@WAYS
@pytest.mark.parametrize("first", ["the client", "the server"])
def test_a_marked_connection_is_not_noted(wire: Wire, family: Family, address: str, first: str) -> None:
    listener = wire.pod.listener(8080, socket.AF_INET6)
    wire.gate.watch(CONTAINER, [HTTP])
    client = marked(wire.pod, family)
    client.connect((address, 8080))
    with closing(listener.accept()[0]) as server:
        both_ways(client, server)
        one, other = (client, server) if first == "the client" else (server, client)
        one.close()
        assert other.recv(1) == b""
        other.close()  # the last packets are the kernel's own, from a connection without a socket
    assert wire.gate.activity(CONTAINER).packets == 0


@WAYS
def test_a_marked_connection_is_not_held(wire: Wire, family: Family, address: str) -> None:
    listener = wire.pod.listener(8080, socket.AF_INET6)
    with closed(wire.gate, HTTP) as queue:
        client = marked(wire.pod, family)
        client.connect((address, 8080))
        with closing(listener.accept()[0]) as server:
            # As for a connection that was there before the gate was closed.
            ends = [
                Endpoint(each[0].removeprefix("::ffff:"), each[1])
                for each in (server.getsockname(), server.getpeername())
            ]
            wire.gate.extend(CONTAINER, [(ends[0], ends[1])], queue.number)
            both_ways(client, server)
        assert queue.stats().id_sequence == 0
        begin_connect(wire.pod.open(socket.SOCK_STREAM, family), (address, 8080))
        assert readable(queue)


def test_a_mark_of_the_nodes_does_not_come_into_a_pod(wire: Wire) -> None:
    wire.pod.listener(8080)
    wire.gate.watch(CONTAINER, [HTTP])
    marked(wire.client, socket.AF_INET).connect((POD[0], 8080))
    assert wire.gate.activity(CONTAINER).packets == 2


@WAYS
def test_connections_of_the_shim_are_not_counted(wire: Wire, family: Family, address: str) -> None:
    # An application may listen for IPv4 alone, while the shim speaks it with an IPv6 socket.
    listening = socket.AF_INET6 if address == POD[1] else socket.AF_INET
    with netns.entered(wire.pod.path):
        command = [sys.executable, "-c", "input()"]
        shim = subprocess.Popen(command, stdin=subprocess.PIPE)  # any process that is not its own
    with shim:
        listener = wire.pod.listener(8080, listening)
        client = wire.pod.open(socket.SOCK_STREAM, family)
        client.connect((address, 8080))
        with closing(listener.accept()[0]):
            assert open_connections(shim.pid)[8080] == 1
            assert open_connections(shim.pid, without=shim.pid)[8080] == 1
            assert 8080 not in open_connections(shim.pid, without=os.getpid())
            client.shutdown(socket.SHUT_WR)  # then it is closing, and the other end is not
            until(lambda: 8080 not in open_connections(shim.pid, without=os.getpid()))
        assert shim.stdin is not None
        shim.stdin.close()
