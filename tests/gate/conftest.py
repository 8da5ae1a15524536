"""A pod's network namespace and a client's, joined by a veth pair; nothing of it outlives the test."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest

from architect.gate import HeldQueue, PodGate, Port
from architect.gate.netns import entered, read_in, socket_in

DEADLINE = 30.0
"""Seconds after which a test gives up on a condition; none asserts that something was quicker."""

CONTAINER = "c0ffee" * 10
CLIENT, POD = ("10.77.0.1", "fd77::1"), ("10.77.0.2", "fd77::2")
_MACS = ("02:00:00:00:77:01", "02:00:00:00:77:02")


class Namespace:
    """A network namespace, kept by a descriptor."""

    def __init__(self) -> None:
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        os.unshare(os.CLONE_NEWNET)
        self._fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        os.setns(own, os.CLONE_NEWNET)
        os.close(own)
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"
        self._open: list[socket.socket] = []
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments: str) -> str:
        with entered(self.path):
            return subprocess.check_output(["ip", *arguments], timeout=DEADLINE, text=True)

    def await_up(self, device: str) -> None:
        """Waits until the kernel has seen that a device is up: what is sent before is lost without a word."""
        deadline = time.monotonic() + DEADLINE
        while " state UP " not in self.ip("link", "show", device):
            assert time.monotonic() < deadline, f"{device} does not come up"

    def open(self, kind: socket.SocketKind, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        sock = socket_in(self.path, family, kind)
        sock.settimeout(DEADLINE)
        self._open.append(sock)
        return sock

    def listener(
        self, port: int, family: socket.AddressFamily = socket.AF_INET, *, backlog: int = 64
    ) -> socket.socket:
        sock = self.open(socket.SOCK_STREAM, family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", port))
        sock.listen(backlog)
        return sock

    def keep(self, sock: socket.socket) -> socket.socket:
        """Closes `sock` with the namespace."""
        sock.settimeout(DEADLINE)
        self._open.append(sock)
        return sock

    def counter(self, protocol: str, name: str) -> int:
        """A number of /proc/net/snmp, for example ("Tcp", "RetransSegs")."""
        lines = [line.split() for line in read_in(self.path, "snmp").decode().splitlines()]
        names, values = (line for line in lines if line[0] == f"{protocol}:")
        return int(values[names.index(name)])

    def close(self) -> None:
        for sock in self._open:
            sock.close()
        os.close(self._fd)


class Wire:
    """Client and pod."""

    def __init__(self) -> None:
        self.client, self.pod = Namespace(), Namespace()
        self.client.ip("link", "add", "c0", "type", "veth", "peer", "name", "eth0", "netns", self.pod.path)
        for side, device, (four, six), address in (
            (self.client, "c0", CLIENT, _MACS[0]),
            (self.pod, "eth0", POD, _MACS[1]),
        ):
            side.ip("link", "set", device, "address", address)
            side.ip("addr", "add", f"{four}/24", "dev", device)
            side.ip("addr", "add", f"{six}/64", "dev", device, "nodad")
            side.ip("link", "set", device, "up")
        for side, device, others, address in (
            (self.client, "c0", POD, _MACS[1]),
            (self.pod, "eth0", CLIENT, _MACS[0]),
        ):
            for other in others:
                # Else the first packet to a neighbour goes out later than its sending returns.
                side.ip("neigh", "replace", other, "lladdr", address, "dev", device, "nud", "permanent")
        self.client.await_up("c0")
        self.pod.await_up("eth0")
        self.gate = PodGate(self.pod.path)

    def close(self) -> None:
        self.client.close()
        self.pod.close()


@pytest.fixture
def wire() -> Generator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture
def pod(wire: Wire) -> Namespace:
    return wire.pod


@pytest.fixture
def client(wire: Wire) -> Namespace:
    return wire.client


@pytest.fixture
def gate(wire: Wire) -> PodGate:
    return wire.gate


@contextmanager
def closed(gate: PodGate, *ports: Port, container: str = CONTAINER, number: int = 1) -> Generator[HeldQueue]:
    """A closed gate; its queue goes at the end of the block, whatever was done with it."""
    queue = gate.close(container, ports, number)
    try:
        yield queue
    finally:
        queue.close()


def readable(*waited: socket.socket | HeldQueue) -> bool:
    """Waits until one of them can be read; False when none can within the deadline."""
    return bool(select.select(waited, [], [], DEADLINE)[0])


def begin_connect(sock: socket.socket, address: tuple[str, int]) -> None:
    """Sends a SYN and does not wait."""
    sock.setblocking(False)
    try:
        sock.connect(address)
    except BlockingIOError:
        pass
    sock.settimeout(DEADLINE)


def finish_connect(sock: socket.socket) -> None:
    """Waits for the connection that was begun. Raises OSError when it is refused."""
    assert select.select([], [sock], [], DEADLINE)[1]
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def until(condition: Callable[[], bool]) -> None:
    """Looks again and again, since for what a table of the kernel says there is nothing to wait on."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.002)
