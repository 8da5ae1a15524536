"""The reader of held packets: the daemon's end of a shim's gate connection.

While the connection lasts we are the one who reads the queues of the pod's closed gates; the shim sends a
duplicate of each queue's socket (SCM_RIGHTS). We only look: what is held stays held until the shim gives its
verdict. When the connection ends, whichever way, every duplicate is closed (each pins the pod's network
namespace) and the shim reads.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from typing import Final, Protocol

from architect.gate import GateError, QueueStats
from architect.untrusted import Unreadable, parse

MESSAGE_BYTES: Final = 4096
_ID_CHARS: Final = 1024
_FDS: Final = 1


class Queue(Protocol):
    """A duplicate of a queue's socket (architect.gate.HeldQueue). Its methods raise GateError."""

    def fileno(self) -> int:
        """Its descriptor."""

    def drain(self) -> int:
        """Reads what the kernel tells of packets; how many there were."""

    def stats(self) -> QueueStats:
        """What the kernel says of the queue."""

    def close(self) -> None:
        """Closes this duplicate; the packets stay held."""


class Confused(Exception):
    """The shim sent what is no message of the gate protocol."""


class HeldPackets:
    """The closed gates of one pod. `seen` is called with a container's id and the number of packets that
    came.
    """

    def __init__(self, adopt: Callable[[int], Queue], seen: Callable[[str, int], None]) -> None:
        self._adopt = adopt
        self._seen = seen
        self._queues: dict[str, Queue] = {}
        self._ended: asyncio.Future[None] | None = None

    def holds(self, container_id: str) -> bool:
        """Whether the gate of a container is closed."""
        return container_id in self._queues

    def __len__(self) -> int:
        return len(self._queues)

    async def read(self, path: str) -> None:
        """Connects to a shim's gate socket and reads until the connection ends. Raises OSError, GateError,
        Confused.
        """
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as line:
            line.setblocking(False)
            line.connect(path)  # at once, or EAGAIN: a unix socket's backlog takes the connection or does not
            ended = self._ended = loop.create_future()
            loop.add_reader(line.fileno(), self._hear, line)
            try:
                await ended
            finally:
                loop.remove_reader(line.fileno())
                for container_id in list(self._queues):
                    self._drop(container_id)

    def _hear(self, line: socket.socket) -> None:
        """Takes one message; any trouble ends the connection, and the shim reads its queues itself."""
        try:
            data, fds, flags, _ = socket.recv_fds(line, MESSAGE_BYTES, _FDS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        try:
            if not data:
                self._end(None)
            elif flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise Confused("the message or its descriptors were cut off")
            else:
                self._message(data, fds)
        except (Confused, GateError, OSError) as error:
            self._end(error)
        finally:
            for fd in fds:
                os.close(fd)

    def _message(self, data: bytes, fds: list[int]) -> None:
        """Acts on a message; a descriptor that is adopted, or lost in trying, is taken out of `fds`."""
        try:
            message = parse(data, limit=MESSAGE_BYTES)
            gate = message.member("gate").text(limit=16)
            container_id = message.member("container").text(limit=_ID_CHARS)
        except Unreadable as error:
            raise Confused(str(error)) from error
        if gate == "open":
            self._drop(container_id)
        elif gate == "closed" and fds:
            if not stat.S_ISSOCK(os.fstat(fds[0]).st_mode):
                raise Confused("the descriptor is no socket")
            self._drop(container_id)
            queue = self._queues[container_id] = self._adopt(fds.pop())
            asyncio.get_running_loop().add_reader(queue.fileno(), self._drain, container_id, queue)
            if queue.stats().id_sequence:  # an earlier reader may have read of it and died before it acted
                self._seen(container_id, 0)
        else:
            raise Confused(f"gate {gate!r} with {len(fds)} descriptors")

    def _drain(self, container_id: str, queue: Queue) -> None:
        try:
            count = queue.drain()
        except GateError as error:
            self._end(error)
            return
        if count:
            self._seen(container_id, count)

    def _drop(self, container_id: str) -> None:
        queue = self._queues.pop(container_id, None)
        if queue is not None:
            asyncio.get_running_loop().remove_reader(queue.fileno())
            queue.close()

    def _end(self, error: Exception | None) -> None:
        if self._ended is None or self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
