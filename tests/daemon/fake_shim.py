"""A shim that plays a script: real ttrpc on a real unix socket, real SOCK_SEQPACKET gate, no container.

The held-packet queue is one end of a datagram socket pair: `packet()` writes to the other, as the kernel
would.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from copy import deepcopy
from typing import Self

from architect.gate import GateError, QueueStats
from architect.ttrpc import shim_v1
from architect.ttrpc.server import Code, Method, RpcError, Server, Stream

SECOND = 1_000_000_000


def container(container_id: str, name: str = "app", **fields: object) -> shim_v1.ContainerStatus:
    """A managed container that has been running for an hour, ready to sleep after a minute."""
    now = time.time_ns()
    status = shim_v1.ContainerStatus(
        id=container_id,
        name=name,
        phase="RUNNING",
        pid=1234,
        managed=True,
        idle_ns=60 * SECOND,
        since_ns=now,
        active_ns=now,
        started_ns=now - 3600 * SECOND,
    )
    for field, value in fields.items():
        setattr(status, field, value)
    return status


class SocketQueue:
    """The daemon's side of a fake queue."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)

    def fileno(self) -> int:
        return self._sock.fileno()

    def drain(self) -> int:
        count = 0
        while True:
            try:
                self._sock.recv(64, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return count
            except OSError as error:
                raise GateError("reading a queue", error.errno or 5) from error
            count += 1

    def stats(self) -> QueueStats:
        return QueueStats(0, 0, 0)

    def close(self) -> None:
        self._sock.close()


class FakeShim:
    """The shim of pod `default/web` (or another) with some containers."""

    def __init__(
        self, directory: str, key: str, *statuses: shim_v1.ContainerStatus, pod: str = "web"
    ) -> None:
        self.key = key
        self.path = os.path.join(directory, f"{key}.sock")
        self.gate_path = os.path.join(directory, f"{key}.gate")
        self.statuses = {status.id: status for status in statuses}
        self.calls: list[tuple[str, ...]] = []
        self.readers: list[socket.socket] = []
        self.on_hibernate: Callable[[str], Awaitable[None]] | None = None
        self.on_wake: Callable[[str], Awaitable[None]] | None = None
        self.queues: dict[str, tuple[socket.socket, socket.socket]] = {}
        self.identity = "default", pod, f"uid-{key}"
        """Namespace, name and uid of the pod."""
        self._watchers: set[asyncio.Queue[shim_v1.WatchEvent]] = set()
        self._server = Server(
            {
                shim_v1.SERVICE: {
                    "Describe": Method(shim_v1.DescribeRequest, self._describe),
                    "Hibernate": Method(shim_v1.HibernateRequest, self._hibernate),
                    "Wake": Method(shim_v1.WakeRequest, self._wake),
                    "Watch": Stream(shim_v1.WatchRequest, self._watch),
                }
            }
        )
        self._listener: socket.socket | None = None

    async def __aenter__(self) -> Self:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.path)
        listener.listen()
        await self._server.start(listener)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(self.gate_path)
        self._listener.listen()
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._accept)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        for sock in (self._listener, *self.readers):
            asyncio.get_running_loop().remove_reader(sock)
        for sock in (self._listener, *self.readers, *(end for pair in self.queues.values() for end in pair)):
            sock.close()
        await self._server.close()
        for path in (self.path, self.gate_path):
            if os.path.lexists(path):
                os.unlink(path)

    # ---- what a test does

    def set(self, container_id: str, **fields: object) -> None:
        """Changes a container and tells of it."""
        status = self.statuses[container_id]
        for field, value in fields.items():
            setattr(status, field, value)
        self._tell(shim_v1.WatchEvent(status=deepcopy(status)))

    def add(self, status: shim_v1.ContainerStatus) -> None:
        self.statuses[status.id] = status
        self.set(status.id)

    def remove(self, container_id: str) -> None:
        self._tell(shim_v1.WatchEvent(status=self.statuses.pop(container_id), removed=True))

    def close_gate(self, container_id: str) -> None:
        self.queues[container_id] = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for reader in self.readers:
            self._lend(reader, container_id)

    def open_gate(self, container_id: str) -> None:
        for end in self.queues.pop(container_id):
            end.close()
        for reader in self.readers:
            reader.send(json.dumps({"gate": "open", "container": container_id}).encode())

    def packet(self, container_id: str) -> None:
        self.queues[container_id][1].send(b"packet")

    def say(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """Sends something on the gate connection."""
        for reader in self.readers:
            socket.send_fds(reader, [data], list(fds))

    def asked(self, *call: str) -> int:
        """How often a call was made."""
        return self.calls.count(call)

    # ---- what a shim does

    def _accept(self) -> None:
        assert self._listener is not None
        reader, _ = self._listener.accept()
        self.readers.append(reader)
        reader.setblocking(False)
        asyncio.get_running_loop().add_reader(reader, self._reader_spoke, reader)
        for container_id in self.queues:
            self._lend(reader, container_id)

    def _reader_spoke(self, reader: socket.socket) -> None:
        assert not reader.recv(1), "a reader never speaks"
        asyncio.get_running_loop().remove_reader(reader)
        self.readers.remove(reader)
        reader.close()

    def _lend(self, reader: socket.socket, container_id: str) -> None:
        message = json.dumps({"gate": "closed", "container": container_id}).encode()
        socket.send_fds(reader, [message], [self.queues[container_id][0].fileno()])

    def _tell(self, event: shim_v1.WatchEvent) -> None:
        for queue in self._watchers:
            queue.put_nowait(event)

    async def _describe(self, _: shim_v1.DescribeRequest) -> shim_v1.DescribeResponse:
        return shim_v1.DescribeResponse(
            version=1,
            sandbox_id=f"sandbox-{self.key}",
            pod_namespace=self.identity[0],
            pod_name=self.identity[1],
            pod_uid=self.identity[2],
            netns=f"/run/netns/{self.key}",
            containers=list(self.statuses.values()),
        )

    def _get(self, container_id: str) -> shim_v1.ContainerStatus:
        if container_id not in self.statuses:
            raise RpcError(Code.NOT_FOUND, f"container {container_id} not found")
        return self.statuses[container_id]

    async def _hibernate(self, request: shim_v1.HibernateRequest) -> shim_v1.HibernateResponse:
        self.calls.append(("hibernate", request.container_id))
        status = self._get(request.container_id)
        if self.on_hibernate is not None:
            await self.on_hibernate(status.id)
        if status.phase == "RUNNING":
            self.close_gate(status.id)
            self.set(
                status.id,
                phase="SCALED_DOWN",
                sleeps=status.sleeps + 1,
                saved_bytes=50 << 20,
                image_bytes=20 << 20,
                last_sleep_us=70_000,
                since_ns=time.time_ns(),
            )
        return shim_v1.HibernateResponse(status=status)

    async def _wake(self, request: shim_v1.WakeRequest) -> shim_v1.WakeResponse:
        self.calls.append(("wake", request.container_id, request.cause))
        status = self._get(request.container_id)
        if self.on_wake is not None:
            await self.on_wake(status.id)
        if status.phase == "SCALED_DOWN":
            now = time.time_ns()
            self.set(
                status.id,
                phase="RUNNING",
                wakes=status.wakes + 1,
                last_wake_us=41_500,
                since_ns=now,
                active_ns=now,
                last_wake_cause=request.cause,
            )
            if status.id in self.queues:
                self.open_gate(status.id)
        return shim_v1.WakeResponse(status=status)

    async def _watch(self, _: shim_v1.WatchRequest) -> AsyncIterator[shim_v1.WatchEvent]:
        queue: asyncio.Queue[shim_v1.WatchEvent] = asyncio.Queue()
        for status in self.statuses.values():
            queue.put_nowait(shim_v1.WatchEvent(status=deepcopy(status)))
        self._watchers.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)
