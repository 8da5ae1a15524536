"""kill -9 of the daemon at any moment: all packets the kernel holds are answered, in order."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import pytest

from architect.gate import HeldQueue
from hack import cri_messages as m
from hack.control import Daemon, await_phase, await_true, hibernate, shim_socket, status
from hack.cri import Container
from tests.node.asking import ask, explain, get, metric
from tests.node.conftest import Run

MANY = 5_000
BUFFER = 64 << 20  # an ordinary one takes some hundred datagrams, held or not; forced, hence CAP_NET_ADMIN
_SO_RCVBUFFORCE = 33
# Answers each datagram with its running number in front; the heap makes sleeping and waking take a while.
COUNTING = """
import os, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
heap = [os.urandom(1 << 20) for _ in range(int(os.environ["HEAP_MB"]))]
endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
endpoint.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
endpoint.bind(("0.0.0.0", 9000))
print("listening", flush=True)
number = 0
while True:
    data, sender = endpoint.recvfrom(2048)
    number += 1
    endpoint.sendto(b"%d %s" % (number, data), sender)
"""


class Client:
    """Sends numbered datagrams to a container and takes the answers."""

    def __init__(self, app: Container) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
        self.socket.connect((app.pod.addresses[0], 9000))
        self.socket.settimeout(30)
        self.sent = 0

    def send(self, count: int) -> None:
        for _ in range(count):
            self.sent += 1
            self.socket.send(b"%d" % self.sent)

    def await_all(self, *, ordered: bool = True) -> None:
        """Every datagram is answered, once, by the same memory and in order."""
        answers = [self.socket.recv(2048).split() for _ in range(self.sent)]
        numbers = [b"%d" % number for number in range(1, self.sent + 1)]
        assert [counted for counted, _ in answers] == numbers
        sent = [number for _, number in answers]
        assert (sent if ordered else sorted(sent, key=int)) == numbers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@pytest.fixture
def count(run: Run) -> Callable[..., Container]:
    def start(heap: int = 0, idle: str = "1h") -> Container:
        return run(
            "udp",
            command=["/usr/bin/python3", "-c", COUNTING],
            env={"HEAP_MB": str(heap)},
            ports=[(9000, "UDP")],
            security=m.ContainerSecurity(
                capabilities=m.Capability(add_capabilities=["NET_ADMIN"]),
                seccomp=m.SecurityProfile(m.Profile.UNCONFINED),
            ),
            idle=idle,
        )

    return start


def asleep_under_a_daemon(app: Container) -> None:
    """Asleep, known to be by the daemon, which reads the queue."""
    await_true(lambda: bool(explain(app)), "the daemon knows the container")
    hibernate(app)
    await_true(lambda: metric("architect_gates_closed") == 1, "the daemon has the queue")
    await_true(lambda: explain(app)["state"] == "SCALED_DOWN", "the daemon knows that it sleeps")


def pause(daemon: Daemon) -> None:
    """Stops the daemon where it is: it has the queue's descriptor and acts on nothing."""
    os.kill(daemon.pid, signal.SIGSTOP)
    stat = Path(f"/proc/{daemon.pid}/stat")
    await_true(lambda: stat.read_text().rsplit(")", 1)[1].split()[0] == "T", "the daemon stands still")


both = pytest.mark.parametrize("restarted", [False, True], ids=["for good", "and restarted"])


def kill(daemon: Daemon, *, restarted: bool) -> None:
    daemon.kill()
    if restarted:
        daemon.start()


@both
def test_killed_while_asleep_with_5000_packets_held(
    count: Callable[..., Container], daemon: Daemon, restarted: bool
) -> None:
    app = count()
    asleep_under_a_daemon(app)
    pause(daemon)
    with Client(app) as client:
        client.send(MANY)
        assert status(app).phase == "SCALED_DOWN", "nobody has read of them yet"
        kill(daemon, restarted=restarted)
        client.await_all()
    assert (status(app).last_wake_cause, status(app).wakes) == ("packet", 1)


@both
def test_killed_between_getting_one_packet_and_acting_on_it(
    count: Callable[..., Container], daemon: Daemon, restarted: bool
) -> None:
    app = count()
    asleep_under_a_daemon(app)
    pause(daemon)
    with Client(app) as client:
        client.send(1)
        kill(daemon, restarted=restarted)
        client.await_all()


@both
def test_killed_while_hibernating_with_5000_packets_held(
    count: Callable[..., Container], daemon: Daemon, restarted: bool
) -> None:
    app = count(heap=100)
    await_true(lambda: bool(explain(app)), "the daemon knows the container")
    with ThreadPoolExecutor(1) as pool, Client(app) as client:
        asked = pool.submit(ask, f"/v1/containers/{app.id}/hibernate", "POST")
        await_phase(app, "HIBERNATING")
        pause(daemon)
        client.send(MANY)
        kill(daemon, restarted=restarted)
        assert isinstance(asked.exception(timeout=60), ConnectionError | OSError | None)
        client.await_all(ordered=False)  # what comes after the gate has opened overtakes what is held
    assert await_phase(app, "RUNNING").failures == []


def test_killed_while_hibernating_with_nothing_held_it_falls_asleep_all_the_same(
    count: Callable[..., Container], daemon: Daemon
) -> None:
    app = count(heap=100)
    await_true(lambda: bool(explain(app)), "the daemon knows the container")
    with ThreadPoolExecutor(1) as pool, Client(app) as client:
        asked = pool.submit(ask, f"/v1/containers/{app.id}/hibernate", "POST")
        await_phase(app, "HIBERNATING")
        daemon.kill()
        assert asked.exception(timeout=60) is not None
        await_phase(app, "SCALED_DOWN", "RUNNING")
        client.send(10)
        client.await_all()
    hibernate(app)


@both
def test_killed_while_waking_with_5000_packets_held(
    count: Callable[..., Container], daemon: Daemon, restarted: bool
) -> None:
    app = count(heap=100)
    asleep_under_a_daemon(app)
    pause(daemon)
    with Client(app) as client:
        client.send(MANY)
        with ThreadPoolExecutor(1) as pool:
            waking = pool.submit(await_phase, app, "WAKING")
            os.kill(daemon.pid, signal.SIGCONT)
            waking.result()
        kill(daemon, restarted=restarted)
        client.await_all()
    assert (status(app).last_wake_cause, status(app).wakes) == ("packet", 1)


def test_a_reader_that_takes_the_packets_notices_and_dies_leaves_a_trace(
    count: Callable[..., Container],
) -> None:
    app = count()
    hibernate(app)
    with Client(app) as client:
        with reader(app) as queue:
            client.send(MANY)
            read = 0
            while read < MANY:
                read += queue.drain()
            assert queue.drain() == 0
            assert queue.stats().held == MANY
            assert status(app).phase == "SCALED_DOWN"
        client.await_all()
    assert status(app).last_wake_cause == "packet"


def test_the_next_reader_learns_of_what_the_last_one_took_and_did_not_act_upon(
    count: Callable[..., Container], daemon: Daemon
) -> None:
    app = count()
    daemon.kill()
    hibernate(app)
    with Client(app) as client, reader(app) as queue:
        client.send(1)
        await_true(lambda: queue.drain() == 1, "the notice has been taken")
        daemon.start()  # takes the reader's place while that still stands
        client.await_all()


@contextlib.contextmanager
def reader(app: Container) -> Iterator[HeldQueue]:
    """A daemon of the test's own: it gets the queue, and does nothing more than its test does."""
    path = shim_socket(app.pod).removesuffix(".sock") + ".gate"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.settimeout(30)
        line.connect(path)
        message, (fd,), _, _ = socket.recv_fds(line, 4096, 1)
        assert b'"closed"' in message
        status(app)  # a round trip: the shim has finished handing over, and reads no more itself
        queue = HeldQueue.from_fd(fd)
        try:
            yield queue
        finally:
            queue.close()


def test_a_restarted_daemon_adopts_sleepers_and_their_packets(run: Run, daemon: Daemon) -> None:
    apps = [run() for _ in range(3)]
    assert [get(app) for app in apps] == ["1", "1", "1"]
    for app in apps:
        hibernate(app)
    daemon.kill()
    daemon.start()
    for app in apps:
        await_true(lambda app=app: bool(explain(app)), "the new daemon knows it")  # type: ignore[misc]
        assert explain(app)["state"] == "SCALED_DOWN"
        assert explain(app)["saved_bytes"] > 0
    listed = ask("/v1/containers")[1]["containers"]
    assert {each["id"] for each in listed if each["state"] == "SCALED_DOWN"} == {app.id for app in apps}
    assert [get(app) for app in apps] == ["2", "2", "2"]
    assert {status(app).last_wake_cause for app in apps} == {"packet"}


def test_a_restarted_daemon_puts_idle_containers_to_sleep_again(
    run: Run, start_daemon: Callable[[], Daemon]
) -> None:
    app = run(idle="500ms")
    daemon = start_daemon()
    await_phase(app, "SCALED_DOWN")
    daemon.kill()
    assert get(app) == "1"
    daemon.start()
    await_phase(app, "SCALED_DOWN")
    assert get(app) == "2"
