"""Packets find the container as if it had never slept, wherever they come from, at any time."""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from architect.gate import netns
from architect.ttrpc import shim_v1
from architect.ttrpc.client import Client, Code, RpcError
from hack.control import SECONDS, Daemon, await_phase, hibernate, shim_socket, status
from hack.cri import Container
from tests.node.conftest import MakePod, Run

HTTP, UDP = 8080, 9000
ANOTHER_HOST, NODE, LOOPBACK = "another host", "the node", "the pod's loopback"
ORIGINS = (ANOTHER_HOST, NODE, LOOPBACK)
Family = socket.AddressFamily
FAMILIES = (socket.AF_INET, socket.AF_INET6)
_CYCLES = 200
_CONNECTIONS = 500
_FIRST_SYN_AGAIN_SECONDS = 1.0  # RFC 6298: the first retransmission of a SYN


@dataclass(frozen=True)
class Origin:
    """A place that packets come from; `targets`: the pod, seen from there. `namespace` "": the node's own."""

    namespace: str
    targets: dict[Family, str]

    def open(self, family: Family, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket of this place."""
        found = (
            netns.socket_in(self.namespace, family, kind) if self.namespace else socket.socket(family, kind)
        )
        found.settimeout(SECONDS)
        return found

    def connect(self, family: Family, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A connection from here to a port of the pod."""
        connection = self.open(family, kind)
        connection.connect((self.targets[family], port))
        return connection

    def counters(self) -> Counter[str]:
        """The kernel's TCP counters of this place: RFC 4022's by their names, and Linux's own."""
        text = "".join(self._read(name) for name in ("snmp", "netstat"))
        counters: Counter[str] = Counter()
        lines = iter(text.splitlines())
        for names, values in zip(lines, lines, strict=True):
            if names.startswith(("Tcp:", "TcpExt:")):
                counters.update(dict(zip(names.split()[1:], map(int, values.split()[1:]), strict=True)))
        return counters

    def _read(self, name: str) -> str:
        if self.namespace:
            return netns.read_in(self.namespace, name).decode()
        return Path("/proc/net", name).read_text()


def places(container: Container, make_pod: MakePod) -> dict[str, Origin]:
    """Where packets to a container's pod can come from. The other host is a namespace on the pods' bridge."""
    outside = dict(zip(FAMILIES, container.pod.addresses, strict=True))
    inside = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
    return {
        ANOTHER_HOST: Origin(make_pod(runtime="").netns, outside),
        NODE: Origin("", outside),
        LOOPBACK: Origin(container.pod.netns, inside),
    }


class Http:
    """An HTTP connection that is kept, and never opened again behind our back."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._http = http.client.HTTPConnection("pod")
        self._http.sock = connection
        self._http.auto_open = 0

    def get(self, path: str = "/") -> str:
        """The body of the answer to one request."""
        self._http.request("GET", path)
        answer = self._http.getresponse()
        body = answer.read().decode().strip()
        assert answer.status == http.HTTPStatus.OK, body
        return body

    def sees_us(self) -> bool:
        """Whether the server sees the address that this end has."""
        seen = ipaddress.ip_address(self.get("/whoami"))
        if isinstance(seen, ipaddress.IPv6Address) and seen.ipv4_mapped:
            seen = seen.ipv4_mapped
        return str(seen) == str(self.socket.getsockname()[0])

    def close(self) -> None:
        self._http.close()
        self.socket.close()


def hibernate_when_quiet(container: Container) -> shim_v1.ContainerStatus:
    """Puts it to sleep although clients may still be acknowledging: the shim declines then."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return hibernate(container)
        except RpcError as error:
            if error.code is not Code.ABORTED or time.monotonic() > deadline:
                raise


@pytest.mark.parametrize("family", FAMILIES, ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("origin", ORIGINS)
def test_the_first_segment_wakes(run: Run, make_pod: MakePod, origin: str, family: Family) -> None:
    app = run()
    place = places(app, make_pod)[origin]
    assert hibernate(app).phase == "SCALED_DOWN"
    client = Http(place.connect(family, HTTP))
    assert client.get() == "1"
    assert client.sees_us()
    client.close()
    after = status(app)
    assert (after.phase, after.wakes, after.last_wake_cause) == ("RUNNING", 1, "packet")


@pytest.mark.parametrize("family", FAMILIES, ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("origin", ORIGINS)
def test_the_first_datagram_wakes_and_is_answered(
    run: Run, make_pod: MakePod, origin: str, family: Family
) -> None:
    app = run("udp", ports=[(UDP, "UDP")])
    place = places(app, make_pod)[origin]
    with place.connect(family, UDP, socket.SOCK_DGRAM) as client:
        client.send(b"awake")
        assert client.recv(100) == b"1 awake"
        hibernate_when_quiet(app)
        for number in range(2, 5):
            client.send(b"datagram %d" % number)
        assert [client.recv(100) for _ in range(3)] == [b"%d datagram %d" % (n, n) for n in range(2, 5)]
    after = status(app)
    assert (after.phase, after.wakes, after.last_wake_cause) == ("RUNNING", 1, "packet")


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    """Closes what is entered into it after the test."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.timeout(300)
def test_200_cycles_lose_no_count_no_segment_and_no_connection(
    run: Run, make_pod: MakePod, daemon: Daemon, ends: ExitStack
) -> None:
    app = run()
    found = places(app, make_pod)
    ways = [(place, family) for place in found.values() for family in FAMILIES]
    kept = [ends.enter_context(closing(Http(place.connect(family, HTTP)))) for place, family in ways]
    assert [int(client.get()) for client in kept] == list(range(1, len(kept) + 1))
    counted = len(kept)
    before = {name: place.counters() for name, place in found.items()}

    for cycle in range(_CYCLES):
        hibernate_when_quiet(app)
        place, family = ways[cycle // 2 % len(ways)]
        earlier, began = place.counters(), time.monotonic()
        fresh = cycle % 2 == 0
        client = Http(place.connect(family, HTTP)) if fresh else kept[cycle // 2 % len(kept)]
        counted += 1
        assert int(client.get()) == counted
        held = time.monotonic() - began
        again = place.counters()
        again.subtract(earlier)
        if held < _FIRST_SYN_AGAIN_SECONDS:
            assert again["TCPSynRetrans"] == 0, f"cycle {cycle}: a SYN was sent again after {held:.3f} s"
            if fresh:
                assert again["RetransSegs"] == 0, f"cycle {cycle}: sent again after {held:.3f} s"
        assert client.sees_us()
        if fresh:
            client.close()

    after = status(app)
    assert (after.sleeps, after.wakes) == (_CYCLES, _CYCLES)
    assert [f"{failure.operation}: {failure.reason}" for failure in after.failures] == []
    assert [int(client.get()) for client in kept] == list(range(counted + 1, counted + 1 + len(kept)))
    # Not counted on the node, where CRIU tries out what the kernel can; nor are the pod's own EstabResets,
    # since the kernel counts each connection that CRIU takes away quietly.
    seen = found[ANOTHER_HOST].counters()
    seen.subtract(before[ANOTHER_HOST])
    assert (seen["AttemptFails"], seen["EstabResets"]) == (0, 0), "the client saw refusals or resets"
    assert found[LOOPBACK].counters()["OutRsts"] == before[LOOPBACK]["OutRsts"], "the pod sent resets"


class Swarm:
    """Opens connections at chosen moments of a container's sleep and notes what came of them."""

    def __init__(self, container: Container, ways: list[tuple[Origin, Family]]) -> None:
        self._container = container
        self._ways = ways
        self._changed = asyncio.Condition()
        self.phases: list[str] = []
        self.opened: Counter[str] = Counter()
        self.answers: list[int] = []

    async def follow(self, client: Client) -> None:
        """Notes every phase that the shim tells of."""
        request = shim_v1.WatchRequest()
        async for event in client.stream(shim_v1.SERVICE, "Watch", request, shim_v1.WatchEvent):
            if event.status is not None and event.status.id == self._container.id:
                async with self._changed:
                    self.phases.append(event.status.phase)
                    self._changed.notify_all()

    async def reached(self, *phases: str, since: int) -> None:
        """Returns when the container has been in one of `phases` after its first `since` ones."""
        async with self._changed:
            await self._changed.wait_for(lambda: not set(phases).isdisjoint(self.phases[since:]))

    @property
    def phase(self) -> str:
        """Where the container is."""
        return self.phases[-1]

    async def connect(self) -> None:
        """One connection, one request, one answer."""
        place, family = self._ways[self.opened.total() % len(self._ways)]
        self.opened[self.phase] += 1
        connection = place.open(family)
        connection.setblocking(False)
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(connection, (place.targets[family], HTTP))
            reader, writer = await asyncio.open_connection(sock=connection)
        except BaseException:
            connection.close()
            raise
        writer.write(b"GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        assert head.startswith(b"HTTP/1.1 200"), head
        self.answers.append(int(body))


async def _hibernate(client: Client, container: Container) -> None:
    request = shim_v1.HibernateRequest(container_id=container.id)
    try:
        await client.call(shim_v1.SERVICE, "Hibernate", request, shim_v1.HibernateResponse, timeout=SECONDS)
    except RpcError as error:
        if error.code is not Code.ABORTED:
            raise


async def _swarm(app: Container, swarm: Swarm) -> None:
    """Rounds of 10 connections that begin while it falls asleep, sleeps, or wakes, in turn."""
    client = await Client.connect(shim_socket(app.pod), timeout=SECONDS)
    following = asyncio.create_task(swarm.follow(client))
    beginnings = ("HIBERNATING", "SCALED_DOWN", "WAKING")
    turn = 0
    try:
        await swarm.reached("RUNNING", since=0)
        while swarm.opened.total() < _CONNECTIONS:
            beginning, start = beginnings[turn % len(beginnings)], len(swarm.phases)
            async with asyncio.TaskGroup() as group:
                group.create_task(_hibernate(client, app))
                if beginning == "WAKING":
                    await swarm.reached("SCALED_DOWN", "RUNNING", since=start)
                    group.create_task(swarm.connect())
                await swarm.reached(beginning, "RUNNING", since=start)
                if beginning in swarm.phases[start:]:  # else it was declined: a last acknowledgement came
                    turn += 1
                    for _ in range(10):
                        group.create_task(swarm.connect())
                        await asyncio.sleep(0.002)  # so that they do not all come in the same moment
            # A sleep that was declined, or a wake, ends the round.
            await swarm.reached("RUNNING", since=start)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await client.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("served_by", ["the daemon", "the shim alone"])
def test_500_connections_across_all_phases_are_answered_with_one_restore_per_sleep(
    run: Run, make_pod: MakePod, request: pytest.FixtureRequest, served_by: str
) -> None:
    if served_by == "the daemon":
        request.getfixturevalue("daemon")
    app = run()
    swarm = Swarm(app, [(place, family) for place in places(app, make_pod).values() for family in FAMILIES])

    async def limited() -> None:
        async with asyncio.timeout(4 * SECONDS):
            await _swarm(app, swarm)

    asyncio.run(limited())
    assert {"HIBERNATING", "SCALED_DOWN", "WAKING"} <= set(swarm.opened), swarm.opened
    assert sorted(swarm.answers) == list(range(1, swarm.opened.total() + 1))
    after = await_phase(app, "RUNNING")
    assert after.sleeps == after.wakes > 0
    assert [f"{failure.operation}: {failure.reason}" for failure in after.failures] == []
