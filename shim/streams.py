"""Standard streams of one process: pipes that the shim owns for life, relayed to what containerd named.

Named are FIFOs, plain files, `file://` (both outputs go into the one file, as with containerd's own shim) or
`binary://`, a program that reads the pipes itself (`logger.py`).

The process writes into anonymous pipes (CRIU can not dump containerd's FIFOs); bytes go on by `splice`, never
through Python. For a container that may sleep the shim keeps its own duplicates of the process's ends, so
that the pipes outlive the process and are handed to the restore. So end of file is never seen on them:
`finish`, called when the process has ended, moves what is left and closes containerd's side. Nothing is
relayed before `start`: what runc complains of on the pipes of a process it could not make is dropped.

FIFOs are opened read-write: that never blocks, never breaks, and survives a containerd that restarts.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import stat
from dataclasses import dataclass, field
from typing import Final

from architect.ttrpc.server import Code, RpcError
from shim.logger import BINARY, Logger, Owner

_CHUNK: Final = 1 << 20
FINISH_SECONDS: Final = 10.0
_READER_SECONDS: Final = 2.0
_READER_TICK: Final = 0.01

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Uris:
    """Where containerd wants the streams: paths of FIFOs or files, `file://`, `binary://`, or "" for none."""

    stdin: str
    stdout: str
    stderr: str
    terminal: bool

    @property
    def errors(self) -> str:
        """Where standard error goes: into a `file://` of standard output, too, whatever is named for it."""
        return self.stdout if self.stderr and self.stdout.startswith(_FILE) else self.stderr


_FILE: Final = "file://"


def open_input(uri: str) -> int:
    """Opens the FIFO that a process's input comes from. Raises RpcError(INVALID_ARGUMENT) for others."""
    if uri.startswith(_FILE):  # nobody could be told when there is more to read
        raise RpcError(Code.INVALID_ARGUMENT, f"stream {uri!r:.200} is no FIFO, which input has to come from")
    fd = _open(uri, os.O_RDWR | os.O_NONBLOCK)
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise RpcError(Code.INVALID_ARGUMENT, f"stream {uri} is no FIFO")
    return fd


def open_output(uri: str) -> int:
    """Opens what a process's output goes to. A `file://` is made, with its directory; files are appended to.

    Raises RpcError(INVALID_ARGUMENT).
    """
    if uri.startswith(_FILE):
        try:
            os.makedirs(os.path.dirname(_path(uri)), mode=0o755, exist_ok=True)
        except OSError as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"cannot make {uri}: {error.strerror}") from error
        return _open(uri, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK)  # it may be a FIFO
    try:
        is_fifo = stat.S_ISFIFO(os.stat(_path(uri)).st_mode)
    except OSError as error:
        raise RpcError(Code.INVALID_ARGUMENT, f"cannot open stream {uri}: {error.strerror}") from error
    return _open(uri, os.O_RDWR | os.O_NONBLOCK if is_fifo else os.O_WRONLY | os.O_APPEND)


def _path(uri: str) -> str:
    path = uri.removeprefix("fifo://").removeprefix(_FILE)
    if "://" in path or not path.startswith("/") or "\0" in path:
        raise RpcError(Code.INVALID_ARGUMENT, f"stream {uri!r:.200} is no path, file:// or binary://")
    if uri.startswith(_FILE) and "%" in path:
        from urllib.parse import unquote  # rarely needed

        return unquote(path)
    return path


def _open(uri: str, flags: int) -> int:
    try:
        return os.open(_path(uri), flags | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RpcError(Code.INVALID_ARGUMENT, f"cannot open stream {uri}: {error.strerror}") from error


async def read_to_end(uris: Uris) -> None:
    """Has who reads a process's output see its end, for a process that writes nothing."""
    deadline = asyncio.get_running_loop().time() + _READER_SECONDS
    for uri in {uris.stdout, uris.stderr}:
        while uri and not uri.startswith((_FILE, BINARY)):
            try:
                os.close(_open(uri, os.O_WRONLY | os.O_NONBLOCK))
                break
            except RpcError:
                # Nobody has opened it yet. An end that comes before its reader is never seen, and the kernel
                # tells nobody who comes.
                if asyncio.get_running_loop().time() > deadline:
                    break
                await asyncio.sleep(_READER_TICK)


class Relay:
    """Moves bytes from one descriptor to another as both become ready, from `start` on; owns both."""

    def __init__(self, source: int, target: int) -> None:
        self._loop = asyncio.get_running_loop()
        self.source = source
        self.target = target
        self._closed = False
        self._blocked = False
        self._splice = all(stat.S_ISFIFO(os.fstat(fd).st_mode) for fd in (source, target))
        self._pending = b""
        os.set_blocking(source, False)

    def start(self) -> None:
        """Begins to relay; after `close` it is no error and nothing happens."""
        if not self._closed:
            self._loop.add_reader(self.source, self._move)

    def _move(self) -> None:
        """Moves what can be moved now; then waits for the side that stopped it."""
        try:
            while self._step():
                pass
        except BlockingIOError:
            self._wait()
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE):  # EIO: the last user of a terminal has gone
                log.warning("a stream ends early, its target cannot be written: %s", error)
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
            if _ready(self.target, select.POLLOUT):  # always so for a file, which nobody can wait for
                await asyncio.sleep(0)
                self._move()
                continue
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


def _fulfil(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _ready(fd: int, event: int) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return any(found & event for _, found in poll.poll(0))


@dataclass(slots=True)
class Streams:
    """The streams of one process. `ends`: our duplicates of what the process has (0-2 to descriptors)."""

    uris: Uris
    owner: Owner = field(default_factory=Owner)
    ends: dict[int, int] = field(default_factory=dict)
    _outputs: list[Relay] = field(default_factory=list)
    _input: Relay | None = None
    _logger: Logger | None = None

    @classmethod
    async def open(cls, uris: Uris, owner: Owner | None = None) -> Streams:
        """Makes the pipes; what has no URI is left to be /dev/null. Raises RpcError, OSError, EngineError."""
        streams = cls(uris, owner or Owner())
        try:
            if uris.terminal:
                pass  # runc makes it, see `attach_terminal`
            elif uris.stdout.startswith(BINARY):
                streams._logger = await Logger.start(uris.stdout, streams.owner)
                streams.ends |= streams._logger.take_ends()
            else:
                streams._open_pipes()
            for fd in streams.process_ends().values():
                os.fchown(fd, streams.owner.uid, streams.owner.gid)
        except BaseException:
            streams.close()
            raise
        return streams

    def _open_pipes(self) -> None:
        for number, uri in ((1, self.uris.stdout), (2, self.uris.errors)):
            if uri:
                target = open_output(uri)
                reader, self.ends[number] = os.pipe2(os.O_CLOEXEC)
                self._outputs.append(Relay(reader, target))
        if self.uris.stdin:
            source = open_input(self.uris.stdin)
            self.ends[0], writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(writer, False)
            self._input = Relay(source, writer)

    def start(self) -> None:
        """Begins to relay: the process has been made."""
        for relay in self._outputs:
            relay.start()
        if self._input is not None:
            self._input.start()

    async def attach_terminal(self, master: int) -> None:
        """Relays a terminal's master (ours from now on) to and from what containerd named."""
        self.ends[-1] = master
        os.set_blocking(master, False)
        if self.uris.stdout.startswith(BINARY):
            self._logger = await Logger.start(self.uris.stdout, self.owner)
            ends = self._logger.take_ends()
            os.close(ends[2])  # a terminal has one output
            os.set_blocking(ends[1], False)
            self._outputs.append(Relay(os.dup(master), ends[1]))
        elif self.uris.stdout:
            self._outputs.append(Relay(os.dup(master), open_output(self.uris.stdout)))
        if self.uris.stdin:
            self._input = Relay(open_input(self.uris.stdin), os.dup(master))
        self.start()

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
        logger, self._logger = self._logger, None
        self.close()
        if logger is not None:
            await logger.finish()

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
        if self._logger is not None:
            self._logger.kill()
            self._logger = None
