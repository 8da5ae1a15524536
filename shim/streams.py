"""Standard streams of one process: pipes that the shim owns for life, relayed to what containerd named.

The process writes into anonymous pipes (CRIU can not dump containerd's FIFOs); bytes go on by `splice`, never
through Python. For a container that may sleep the shim keeps its own duplicates of the process's ends, so
that the pipes outlive the process and are handed to the restore. So end of file is never seen on them:
`finish`, called when the process has ended, moves what is left and closes containerd's side.

FIFOs are opened read-write: that never blocks, never breaks, and survives a containerd that restarts.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from architect.ttrpc.server import Code, RpcError

_CHUNK: Final = 1 << 20
FINISH_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Uris:
    """Where containerd wants the streams: FIFO paths, `file://` or "" for none."""

    stdin: str
    stdout: str
    stderr: str
    terminal: bool


def open_target(uri: str, flags: int = os.O_RDWR) -> int:
    """Opens a stream's other end. Raises RpcError(INVALID_ARGUMENT) for what is neither FIFO nor `file://`,
    OSError for a file that cannot be opened.
    """
    path = uri.removeprefix("fifo://").removeprefix("file://")
    if "://" in path or not path.startswith("/") or "\0" in path:
        raise RpcError(Code.INVALID_ARGUMENT, f"stream {uri!r:.200} is neither a FIFO's path nor file://")
    if uri.startswith("file://"):  # not waiting, in case that it is a FIFO nevertheless
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(path, flags, 0o600)
    try:
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise RpcError(Code.INVALID_ARGUMENT, f"cannot open stream {uri}: {error.strerror}") from error
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise RpcError(Code.INVALID_ARGUMENT, f"stream {uri} is no FIFO")
    return fd


def open_source(uri: str) -> int:
    """Opens where input comes from, which can only be a FIFO. Raises RpcError(INVALID_ARGUMENT)."""
    if uri.startswith("file://"):  # nobody could be told when there is more to read
        raise RpcError(Code.INVALID_ARGUMENT, f"stream {uri!r:.200} is no FIFO, which input has to come from")
    return open_target(uri)


class Relay:
    """Moves bytes from one descriptor to another as both become ready; owns both."""

    def __init__(self, source: int, target: int, on_end: Callable[[], None] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self.source = source
        self.target = target
        self._on_end = on_end
        self._closed = False
        self._blocked = False
        self._splice = all(stat.S_ISFIFO(os.fstat(fd).st_mode) for fd in (source, target))
        self._pending = b""
        os.set_blocking(source, False)
        self._loop.add_reader(source, self._move)

    def _move(self) -> None:
        """Moves what can be moved now; then waits for the side that stopped it."""
        try:
            while self._step():
                pass
        except BlockingIOError:
            self._wait()
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE):  # EIO: the last user of a terminal has gone
                raise
            self.close()

    def _step(self) -> bool:
        """Moves one piece; False at the end of the source."""
        if self._splice:
            moved = os.splice(self.source, self.target, _CHUNK, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
            if moved == 0:
                self.close()
            return moved > 0
        if not self._pending:
            self._pending = os.read(self.source, 1 << 16)
            if not self._pending:
                self.close()
                return False
        written = os.write(self.target, self._pending)
        self._pending = self._pending[written:]
        return True

    def _wait(self) -> None:
        """Arms the side that is not ready: a full target, else an empty source."""
        full = not _ready(self.target, select.POLLOUT)
        if full == self._blocked:
            return
        self._blocked = full
        if full:
            self._loop.remove_reader(self.source)
            self._loop.add_writer(self.target, self._resume)
        else:
            self._loop.remove_writer(self.target)
            self._loop.add_reader(self.source, self._move)

    def _resume(self) -> None:
        if not _ready(self.source, select.POLLIN) and not self._pending:
            self._loop.remove_writer(self.target)
            self._blocked = False
            self._loop.add_reader(self.source, self._move)
            return
        self._move()

    def empty(self) -> bool:
        """Whether nothing is left to move."""
        return self._closed or (not self._pending and not _ready(self.source, select.POLLIN))

    async def finish(self) -> None:
        """Moves what is left in the source and closes; gives up when nobody reads it for long."""
        if self._closed:
            return
        self._move()
        deadline = self._loop.time() + FINISH_SECONDS
        while not self.empty() and self._loop.time() < deadline:
            room = self._loop.create_future()
            self._loop.remove_reader(self.source)
            self._loop.add_writer(self.target, _fulfil, room)
            await asyncio.wait({room}, timeout=max(0.0, deadline - self._loop.time()))
            self._loop.remove_writer(self.target)
            self._blocked = False
            if not self._closed:
                self._loop.add_reader(self.source, self._move)
                self._move()
        self.close()

    def close(self) -> None:
        """Stops relaying and closes both descriptors; closing again is no error."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self.source)
        self._loop.remove_writer(self.target)
        os.close(self.source)
        os.close(self.target)
        if self._on_end is not None:
            self._on_end()


def _fulfil(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _ready(fd: int, event: int) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return any(found & event for _, found in poll.poll(0))


@dataclass(slots=True)
class Streams:
    """The streams of one process. `ends`: descriptors for the process (0-2 to ours), kept if `keep` was
    asked.
    """

    uris: Uris
    ends: dict[int, int] = field(default_factory=dict)
    _outputs: list[Relay] = field(default_factory=list)
    _input: Relay | None = None

    @classmethod
    def open(cls, uris: Uris) -> Streams:
        """Makes the pipes and starts relaying; what has no URI is left to be /dev/null."""
        streams = cls(uris)
        try:
            for number, uri in ((1, uris.stdout), (2, uris.stderr)):
                if uri and not uris.terminal:
                    target = open_target(uri)
                    reader, streams.ends[number] = os.pipe2(os.O_CLOEXEC)
                    streams._outputs.append(Relay(reader, target))
            if uris.stdin and not uris.terminal:
                source = open_source(uris.stdin)
                streams.ends[0], writer = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(writer, False)
                streams._input = Relay(source, writer)
        except (OSError, RpcError):
            streams.close()
            raise
        return streams

    def attach_terminal(self, master: int) -> None:
        """Relays a terminal's master (ours from now on) to and from what containerd named."""
        self.ends[-1] = master
        os.set_blocking(master, False)
        if self.uris.stdout:
            target = open_target(self.uris.stdout)
            self._outputs.append(Relay(os.dup(master), target))
        if self.uris.stdin:
            self._input = Relay(open_source(self.uris.stdin), os.dup(master))

    @property
    def terminal(self) -> int | None:
        """The master of the terminal, if there is one."""
        return self.ends.get(-1)

    def process_ends(self) -> dict[int, int]:
        """Descriptors 0-2 for the process."""
        return {number: fd for number, fd in self.ends.items() if number >= 0}

    async def close_stdin(self) -> None:
        """Lets the process read the end of its input, after what is on the way."""
        relay, self._input = self._input, None
        if relay is not None:
            await relay.finish()

    async def finish(self) -> None:
        """To be called when the process has ended: moves the rest of its output and closes everything."""
        await asyncio.gather(*(relay.finish() for relay in self._outputs))
        self.close()

    def close(self) -> None:
        """Closes everything; bytes on the way are lost."""
        for relay in self._outputs:
            relay.close()
        if self._input is not None:
            self._input.close()
            self._input = None
        for fd in self.ends.values():
            os.close(fd)
        self.ends.clear()
