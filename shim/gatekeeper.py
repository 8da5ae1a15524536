"""Held packets: the queues of this pod's closed gates, and who reads them.

While a daemon holds a connection to our `.gate` socket it is the reader: it gets a duplicate of every queue
socket (SCM_RIGHTS) and asks us to wake. When that connection ends, the kernel tells us at once and we read
ourselves. A packet that the dead daemon had read and not acted upon shows in the queue's id sequence.
Verdicts are always ours.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from architect.gate import Endpoint, GateError, HeldQueue, PodGate
from architect.settings import Port

_BACKLOG: Final = 8
_QUEUES: Final = 1 << 16
# A packet that another processor was carrying past a rule when that was removed reaches the queue afterwards.
_LINGER_SECONDS: Final = 0.05

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Held:
    """One closed gate: its queue, and what to call when a packet is seen (None: packets do not wake)."""

    queue: HeldQueue
    on_packet: Callable[[], None] | None
    serving: bool = False


class Gatekeeper:
    """The gates of one pod. All calls from the event loop; netlink calls take well under a millisecond."""

    def __init__(self, netns: str) -> None:
        self._gate = PodGate(netns)
        self._held: dict[str, Held] = {}
        self._lingering: set[HeldQueue] = set()
        self._number = 0
        self._reader: socket.socket | None = None
        self._listener: socket.socket | None = None

    def listen(self, listener: socket.socket) -> None:
        """Begins to accept readers on a listening SOCK_SEQPACKET unix socket."""
        self._listener = listener
        listener.setblocking(False)
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    def close(self, container_id: str, ports: Iterable[Port], on_packet: Callable[[], None] | None) -> None:
        """Closes the gate of a container: from now on packets to `ports` are held. Raises GateError."""
        self._number = self._number % (_QUEUES - 1) + 1  # a queue lingers after its gate opened: take another
        held = Held(self._gate.close(container_id, list(ports), self._number), on_packet)
        self._held[container_id] = held
        if on_packet is None or not self._lend(container_id, held):
            self._serve(container_id, held)

    def extend(
        self,
        container_id: str,
        connections: Iterable[tuple[Endpoint, Endpoint]],
        ports: Collection[Port],
    ) -> None:
        """Holds more in a closed gate: what its connections (local, remote) and `ports` wait for. Raises
        GateError.
        """
        self._gate.extend(container_id, connections, self._held[container_id].queue.number, ports)

    def closed(self, container_id: str) -> bool:
        """Whether the gate of a container is closed."""
        return container_id in self._held

    def packets_seen(self, container_id: str) -> bool:
        """Whether any packet has come since the gate was closed."""
        return self._held[container_id].queue.stats().id_sequence > 0

    def open(self, container_id: str) -> None:
        """Lets every held packet go on, in order, and takes the rules away; an open gate is no error."""
        held = self._held.pop(container_id, None)
        if held is None:
            return
        self._stop_serving(held)
        try:
            self._gate.open(container_id, held.queue)
        finally:
            self._lingering.add(held.queue)
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._let_go, held.queue)
            self._tell({"gate": "open", "container": container_id})

    def _let_go(self, queue: HeldQueue) -> None:
        self._lingering.discard(queue)
        try:
            queue.close()
        except GateError as error:
            log.warning("a packet queue did not close well: %s", error)

    def shutdown(self) -> None:
        """Opens every gate and ends; to be called when the pod's containers are gone."""
        loop = asyncio.get_running_loop()
        for container_id in list(self._held):
            try:
                self.open(container_id)
            except GateError as error:
                log.info("the gate of %s went with its network namespace: %s", container_id, error)
        for queue in list(self._lingering):
            self._let_go(queue)
        if self._listener is not None:
            loop.remove_reader(self._listener.fileno())
            self._listener.close()
        self._drop_reader()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        connection.setblocking(False)
        self._drop_reader()
        self._reader = connection
        asyncio.get_running_loop().add_reader(connection.fileno(), self._hear)
        for container_id, held in list(self._held.items()):
            if held.on_packet is not None and self._lend(container_id, held):
                self._stop_serving(held)
                if self.packets_seen(container_id):  # by a reader before this one, perhaps, that did not act
                    held.on_packet()

    def _hear(self) -> None:
        """The reader never speaks: what can be read is its end (or nonsense, treated the same)."""
        self._drop_reader()
        for container_id, held in list(self._held.items()):
            self._serve(container_id, held)
            if held.on_packet is not None and self.packets_seen(container_id):
                held.on_packet()

    def _drop_reader(self) -> None:
        if self._reader is not None:
            asyncio.get_running_loop().remove_reader(self._reader.fileno())
            self._reader.close()
            self._reader = None

    def _lend(self, container_id: str, held: Held) -> bool:
        """Gives the reader a duplicate of a queue's socket; False when there is no reader (any more)."""
        return self._tell({"gate": "closed", "container": container_id}, held.queue.fileno())

    def _tell(self, message: dict[str, str], fd: int | None = None) -> bool:
        if self._reader is None:
            return False
        try:
            socket.send_fds(self._reader, [json.dumps(message).encode()], [] if fd is None else [fd])
        except OSError as error:
            # A reader that does not take its messages is no reader.
            log.warning("the daemon does not listen any more, serving held packets ourselves: %s", error)
            self._hear()
            return False
        return True

    def _serve(self, container_id: str, held: Held) -> None:
        """Reads a queue ourselves."""
        if not held.serving:
            held.serving = True
            asyncio.get_running_loop().add_reader(held.queue.fileno(), self._drain, container_id, held)

    def _stop_serving(self, held: Held) -> None:
        if held.serving:
            held.serving = False
            asyncio.get_running_loop().remove_reader(held.queue.fileno())

    def _drain(self, container_id: str, held: Held) -> None:
        if held.queue.drain() and held.on_packet is not None:
            held.on_packet()


def bind_seqpacket(path: str) -> socket.socket:
    """A listening SOCK_SEQPACKET unix socket at `path`, mode 0600; replaces a stale one."""
    if os.path.lexists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(_BACKLOG)
    return listener
