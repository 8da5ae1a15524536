"""One process that containerd knows by name: a container's init or an exec."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import IntEnum

from architect.engine.children import Ended
from shim.streams import Streams


class Status(IntEnum):
    """A process's status in containerd's own numbers (`containerd.v1.types.Status`)."""

    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4


@dataclass(slots=True)
class Process:
    """A process over its whole life, whatever pids it has had: one end, that waiters get."""

    exec_id: str
    streams: Streams
    spec: bytes = b""
    pid: int = 0
    status: Status = Status.CREATED
    starting: bool = False
    probe: bool = False
    """Kubelet's question, no use of the container: it neither wakes nor keeps awake."""
    hook: bool = False
    """Kubelet's, before it ends the container: run only if the container does not move."""
    asking: bool = False
    """It is a hook of which it is not known (yet) that it is to run: no use of the container."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """It has ended, or could not be started."""
    ended: Ended | None = None
    finishing: asyncio.Task[None] | None = None
    _end: asyncio.Event = field(default_factory=asyncio.Event)

    def running(self) -> bool:
        """Whether it runs or is about to."""
        return self.starting or self.status in (Status.RUNNING, Status.PAUSED)

    def end(self, ended: Ended) -> None:
        """Records the end, once; waiters go on and the streams are flushed."""
        if self.ended is not None:
            return
        self.ended = ended
        self.status = Status.STOPPED
        self.finishing = asyncio.create_task(self.streams.finish(), name=f"flush {self.exec_id or 'init'}")
        self._end.set()
        self.left.set()

    async def wait(self) -> Ended:
        """The end, when it has come."""
        await self._end.wait()
        assert self.ended is not None
        return self.ended
