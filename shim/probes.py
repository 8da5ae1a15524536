"""The doors of a pod: shadow ports in its network namespace, where probes and scrapers ask for a container.

Awake, a question goes on to the application, over the pod's loopback and with a mark on every packet: the
gate neither counts nor holds what is marked. A container that falls asleep, sleeps or wakes is answered for
here. Of one that has ended or has not been started nothing is said: the connection is closed.

The moment of falling asleep is exact, because this and the sleeper share one event loop. A question is passed
on or answered here by the phase at that moment; with HIBERNATING, before the gate closes, nothing more is
passed on, and the sleeper waits (`quiet`) until what was passed on is over on both ends. So no connection of
ours is in the container when it freezes: nothing unread that would be activity, nothing dumped whose other
end is here. What the application does not answer in that time keeps it awake: it may be stuck, and asleep it
would count as well.

The trap: a socket keeps its network namespace alive, so all of them close with the sandbox.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from architect.gate import MARK, GateError, netns
from architect.probes import Door, Protocol
from shim import answers
from shim.container import Container
from shim.passage import Passage, Plain, Tls, complaint, is_left_alone
from shim.process import Status
from shim.turns import Alternating, Streams

_BACKLOG: Final = 64
_VISITS: Final = 64
_FIRST_SECONDS: Final = 10.0
_CONNECT_SECONDS: Final = 10.0
_TICK_SECONDS: Final = 0.1  # the kernel tells nobody that a client stays silent
_ASLEEP: Final = "asleep: answered by Architect, the container was not woken"

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Visit:
    """One connection to a shadow port. `inside`: the container that it is passed on to."""

    door: Door
    client: Plain
    inside: Container | None = None
    passage: Passage | None = None


class Doors:
    """The shadow ports of one pod. `find` gives the container of a name as it is now."""

    def __init__(self, path: str, find: Callable[[str], Container | None]) -> None:
        self._netns = path
        self._find = find
        self._listeners: list[socket.socket] = []
        self._visits: dict[asyncio.Task[None], Visit] = {}

    def open(self, doors: Iterable[Door]) -> None:
        """Begins to listen. Raises GateError or OSError; what listens by then goes on."""
        for door in doors:
            listener = self._listener(door.shadow_port)
            self._listeners.append(listener)
            asyncio.get_running_loop().add_reader(listener, self._accept, listener, door)

    def _listener(self, port: int) -> socket.socket:
        """IPv4 and IPv6 in one socket; IPv4 alone where the kernel has no IPv6."""
        try:
            listener = netns.socket_in(self._netns, socket.AF_INET6, socket.SOCK_STREAM)
        except GateError:
            listener = netns.socket_in(self._netns, socket.AF_INET, socket.SOCK_STREAM)
        try:
            if listener.family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind(("", port))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise OSError(error.errno, f"shadow port {port} cannot be opened: {error.strerror}") from error
        return listener

    def close(self) -> None:
        """Ends everything; the network namespace is no longer ours to keep."""
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        self._listeners.clear()
        for task in self._visits:
            task.cancel()

    async def quiet(self, container: Container, seconds: float) -> bool:
        """Waits until nothing is passed on to `container` any more; False when that takes too long.

        To be called when nothing new is passed on. Connections that clients keep in stock are ended.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while inside := {task: visit for task, visit in self._visits.items() if visit.inside is container}:
            if loop.time() >= deadline:
                return False
            for visit in inside.values():
                if visit.passage is not None:
                    visit.passage.leave()
            await asyncio.wait(inside, timeout=_TICK_SECONDS)
        return True

    def _accept(self, listener: socket.socket, door: Door) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        connection.setblocking(False)
        if len(self._visits) >= _VISITS:
            # Probes are short: who stays longest is none.
            longest = next((task for task in self._visits if not task.cancelling()), None)
            if longest is not None:
                longest.cancel()
        visit = Visit(door, Plain(connection))
        task = asyncio.create_task(self._receive(visit), name=f"shadow port {door.shadow_port}")
        self._visits[task] = visit
        task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        visit = self._visits.pop(task)
        visit.client.close()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: %r", task.get_name(), error, exc_info=error)

    async def _receive(self, visit: Visit) -> None:
        try:
            async with asyncio.timeout(_FIRST_SECONDS):
                first = await visit.client.receive()
            if first:
                await self._answer(visit, first)
        except (OSError, TimeoutError, GateError, answers.Nonsense) as error:
            log.debug("shadow port %d: %s", visit.door.shadow_port, error)

    async def _answer(self, visit: Visit, first: bytes) -> None:
        """Passes a question on, or answers it; nothing may be awaited between the phase and `inside`."""
        door, container = visit.door, self._find(visit.door.container)
        if container is None or container.init.status is not Status.RUNNING:
            return
        if not container.resting():
            visit.inside = container
            following = await self._pass_on(visit, container, first)
            visit.inside = None
            if following:
                await self._answer(visit, following)
        elif not door.probe:
            await answers.http(visit.client, first, "503 Service Unavailable", _ASLEEP)
        elif door.protocol is Protocol.GRPC:
            await answers.serving(visit.client, first)
        else:
            await answers.http(visit.client, first, "200 OK", _ASLEEP)

    async def _pass_on(self, visit: Visit, container: Container, first: bytes) -> bytes:
        """Asks the application, and notes of a probe how it went. Returns the question that came when it
        had to leave.
        """
        door = visit.door
        noted = "its last probe got no answer"
        try:
            try:
                app = await self._connect(visit)
            except (OSError, TimeoutError) as error:
                noted = (
                    f"its last probe could not connect to port {door.app_port}: {str(error) or 'no answer'}"
                )
                if door.protocol is Protocol.TCP:
                    await answers.http(visit.client, first, "503 Service Unavailable", noted)
                return b""
            if door.protocol is Protocol.TCP:
                noted = ""
                leaving = asyncio.ensure_future(is_left_alone(app))
                try:
                    await answers.http(visit.client, first, "200 OK", "connected")
                finally:
                    await leaving
                return b""
            turns = Streams() if door.protocol is Protocol.GRPC else Alternating()
            visit.passage = Passage(visit.client, app, turns)
            try:
                return await visit.passage.run(first)
            finally:
                noted = complaint(door.protocol, visit.passage.answer)
        finally:
            if door.probe:
                line = first.partition(b"\r\n")[0][:200].decode("latin-1")
                container.health.noted(f"{door.shadow_port} {line}", noted)

    async def _connect(self, visit: Visit) -> Plain:
        """A connection to the application, at the address that the client used. Raises OSError, GateError,
        TimeoutError.
        """
        here, loop = visit.client.socket, asyncio.get_running_loop()
        address = here.getsockname()
        connection = netns.socket_in(self._netns, here.family, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(_CONNECT_SECONDS):
                await loop.sock_connect(connection, (address[0], visit.door.app_port, *address[2:]))
                if visit.door.protocol is not Protocol.HTTPS:
                    return Plain(connection)
                tls = Tls(connection)
                await tls.shake_hands()
                return tls
        except BaseException:  # also when cancelled: nothing may be left open in the container
            Plain(connection).close(reset=True)
            raise
