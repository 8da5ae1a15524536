"""The daemon on this machine's real kernel, in network namespaces of its own."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import pytest

from architect.gate import PodGate
from architect.gate import Port as GatePort
from architect.gate.netns import socket_in
from architect.ttrpc.shim_v1 import ContainerStatus, Port
from daemon import kernel
from daemon.idle import Traffic
from daemon.kernel import NetnsKernel
from daemon.traffic import TrafficUnknown
from tests.daemon.conftest import Box, until
from tests.daemon.fake_shim import container

pytestmark = pytest.mark.root
ID = "c" * 64
UDP_PORT, TCP_PORT = 9000, 7000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


class Pod:
    """A process in a network namespace of its own, with a loopback that is up."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.netns = f"/proc/{pid}/ns/net"

    def socket(self, kind: int) -> socket.socket:
        return socket_in(self.netns, socket.AF_INET, kind, 0)

    def send(self) -> None:
        with self.socket(socket.SOCK_DGRAM) as sender:
            sender.sendto(b"hello", ("127.0.0.1", UDP_PORT))


@pytest.fixture
async def stack(pod: Pod) -> AsyncIterator[AsyncExitStack]:
    """Unwound before the pod goes."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def pod() -> Iterator[Pod]:
    with subprocess.Popen(["unshare", "--net", "sleep", "infinity"]) as process:
        try:
            own = os.stat("/proc/self/ns/net").st_ino
            while os.stat(f"/proc/{process.pid}/ns/net").st_ino == own:
                os.sched_yield()
            pod = Pod(process.pid)
            with pod.socket(socket.SOCK_DGRAM) as sock:
                request = struct.pack("16sh14x", b"lo", 0)
                flags = struct.unpack("16xh14x", fcntl.ioctl(sock, SIOCGIFFLAGS, request))[0]
                fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
            yield pod
        finally:
            process.kill()


def status(pod: Pod, monitor: str) -> ContainerStatus:
    ports = [Port(UDP_PORT, "UDP"), Port(TCP_PORT, "TCP")]
    return container(ID, pid=pod.pid, monitor=monitor, ports=ports)


def test_the_last_packet_is_noticed_and_its_age_known(pod: Pod) -> None:
    node = NetnsKernel()
    subject = status(pod, "packets")
    node.watch(pod.netns, ID, [(UDP_PORT, "UDP"), (TCP_PORT, "TCP")])
    assert node.traffic(pod.netns, subject, time.monotonic_ns()) == Traffic(None, 0)
    before = time.monotonic_ns()
    pod.send()
    after = time.monotonic_ns()
    first = node.traffic(pod.netns, subject, time.monotonic_ns()).last_packet_ns
    assert first is not None
    slack = 20_000_000  # the kernel's clock for this ticks in jiffies, 10 ms at the longest
    assert before - slack <= first <= time.monotonic_ns()
    node.watch(pod.netns, ID, [(UDP_PORT, "UDP"), (TCP_PORT, "TCP")])  # what is noted stays
    again = node.traffic(pod.netns, subject, time.monotonic_ns()).last_packet_ns
    assert again is not None
    assert again <= after + slack
    node.unwatch(pod.netns, ID)


def test_open_connections_are_counted_in_connections_mode_only(pod: Pod) -> None:
    node = NetnsKernel()
    node.watch(pod.netns, ID, [(TCP_PORT, "TCP")])
    with ExitStack() as stack:
        listener = stack.enter_context(pod.socket(socket.SOCK_STREAM))
        listener.bind(("127.0.0.1", TCP_PORT))
        listener.listen()

        def open_now(monitor: str) -> int:
            return node.traffic(pod.netns, status(pod, monitor), time.monotonic_ns()).open_connections

        assert open_now("connections") == 0
        client = stack.enter_context(pod.socket(socket.SOCK_STREAM))
        client.connect(("127.0.0.1", TCP_PORT))
        server, _ = listener.accept()
        assert open_now("connections") == 1
        assert open_now("packets") == 0
        # A probe that the pod's shim passes on is none; who else connects is told from it.
        own = node.traffic(pod.netns, status(pod, "connections"), time.monotonic_ns(), os.getpid())
        assert own.open_connections == 0
        client.close()
        server.close()
        assert open_now("connections") == 0


def test_rules_that_somebody_flushed_are_set_again_and_count_as_activity(pod: Pod) -> None:
    node = NetnsKernel()
    now = time.monotonic_ns()
    assert node.traffic(pod.netns, status(pod, "packets"), now) == Traffic(now)
    assert node.traffic(pod.netns, status(pod, "packets"), now) == Traffic(None)


def test_a_kernel_that_only_counts_is_watched_for_changes() -> None:
    node = NetnsKernel()
    assert node._changed_ns(ID, 0, 10) is None
    assert node._changed_ns(ID, 5, 20) == 20
    assert node._changed_ns(ID, 5, 30) == 20
    assert node._changed_ns(ID, 6, 40) == 40


@pytest.mark.parametrize("netns", ["", "/nowhere", "/proc/self/ns/net", "/etc/hostname"])
def test_a_namespace_that_is_none_of_a_pod_is_a_clear_error(netns: str) -> None:
    node = NetnsKernel()
    with pytest.raises(TrafficUnknown):
        node.watch(netns, ID, [(1, "TCP")])
    with pytest.raises(TrafficUnknown):
        node.traffic(netns, container(ID, monitor="packets"), 0)


async def test_a_real_packet_held_by_a_real_gate_wakes(box: Box, pod: Pod, stack: AsyncExitStack) -> None:
    """The fake shim lends the socket of a real queue; verdicts are its own."""
    gate = PodGate(pod.netns)
    queue = gate.close(ID, [GatePort(UDP_PORT, "UDP")], 1)
    stack.callback(queue.close)
    shim = box.shim("pod1", container(ID, phase="SCALED_DOWN", sleeps=1))
    theirs = socket.socket(fileno=os.dup(queue.fileno()))
    shim.queues[ID] = theirs, stack.enter_context(socket.socket())

    async def release(_: str) -> None:
        gate.open(ID, queue)

    shim.on_wake = release
    box.adopt = kernel.adopt
    receiver: Any = stack.enter_context(pod.socket(socket.SOCK_DGRAM))
    receiver.bind(("127.0.0.1", UDP_PORT))
    receiver.setblocking(False)
    await stack.enter_async_context(shim)
    async with box.daemon():
        await until(lambda: shim.readers)
        pod.send()
        with pytest.raises(BlockingIOError):
            receiver.recv(64)
        await box.until_state(ID, "RUNNING")
        assert receiver.recv(64) == b"hello"
        assert shim.calls == [("wake", ID, "packet")]


async def test_a_packet_that_a_dead_daemon_had_read_wakes_through_its_successor(
    box: Box, pod: Pod, stack: AsyncExitStack
) -> None:
    gate = PodGate(pod.netns)
    queue = gate.close(ID, [GatePort(UDP_PORT, "UDP")], 1)
    stack.callback(queue.close)
    stack.callback(gate.open, ID, queue)
    pod.send()
    assert queue.drain() == 1
    shim = box.shim("pod1", container(ID, phase="SCALED_DOWN", sleeps=1))
    theirs = socket.socket(fileno=os.dup(queue.fileno()))
    shim.queues[ID] = theirs, stack.enter_context(socket.socket())
    box.adopt = kernel.adopt
    await stack.enter_async_context(shim)
    await stack.enter_async_context(box.daemon())
    await box.until_state(ID, "RUNNING")
    assert shim.calls == [("wake", ID, "packet")]
