"""A log binary (`binary://PATH?KEY=VALUE`): a program that reads a process's output itself.

containerd's protocol: it is given the keys and values as arguments, CONTAINER_ID and CONTAINER_NAMESPACE in
an otherwise empty environment, the reading ends of standard output and error as descriptors 3 and 4, and
tells by writing to or closing descriptor 5 that it is ready. It ends at the end of its input, or when asked
to (SIGTERM). Over a sleep it goes on waiting: the shim's own writing ends keep its pipes open.
Source: containerd core/runtime/v2/README (logging), cmd/containerd-shim-runc-v2/process/io.go.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from typing import Final, Self

from architect.engine.children import Children, Ended
from architect.engine.errors import EngineError
from architect.ttrpc.server import Code, RpcError

BINARY: Final = "binary://"
READY_SECONDS: Final = 30.0
# Together what a Delete waits for the rest of the output: the end by itself, then by SIGTERM.
_DRAIN_SECONDS: Final = 2.0
_TERM_SECONDS: Final = 9.0


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose streams they are: the container's or exec's id, for a log binary, and who owns the pipes."""

    id: str = ""
    namespace: str = ""
    uid: int = 0
    gid: int = 0
    children: Children | None = None


class Logger:
    """A running log binary."""

    def __init__(self, pid: int, end: asyncio.Future[Ended], ends: dict[int, int]) -> None:
        self._pid = pid
        self._end = end
        self._ends = ends

    @classmethod
    async def start(cls, uri: str, owner: Owner) -> Self:
        """Starts the binary and returns when it is ready. Raises RpcError, EngineError."""
        argv = command(uri)
        assert owner.children is not None
        environment = {"CONTAINER_ID": owner.id, "CONTAINER_NAMESPACE": owner.namespace}
        (out, out_end), (err, err_end), (ready, ready_end) = (os.pipe2(os.O_CLOEXEC) for _ in range(3))
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            fds = {0: null, 1: null, 2: null, 3: out, 4: err, 5: ready_end}
            pid, end = owner.children.spawn(argv, fds=fds, env=environment)
            logger = cls(pid, end, {1: out_end, 2: err_end})
        except EngineError:
            os.close(ready)
            os.close(out_end)
            os.close(err_end)
            raise
        finally:
            for fd in (null, out, err, ready_end):
                os.close(fd)
        try:
            await _readable(ready, argv[0])
        except BaseException:
            logger.kill()
            raise
        finally:
            os.close(ready)
        return logger

    def take_ends(self) -> dict[int, int]:
        """The writing ends for descriptors 1 and 2, the caller's from now on."""
        ends, self._ends = self._ends, {}
        return ends

    async def finish(self) -> None:
        """Returns when the binary has ended: nobody writes to it any more. One that stays is told to end."""
        for number, seconds in ((signal.SIGTERM, _DRAIN_SECONDS), (signal.SIGKILL, _TERM_SECONDS)):
            await asyncio.wait({self._end}, timeout=seconds)
            if self._end.done():
                return
            os.kill(self._pid, number)

    def kill(self) -> None:
        """Ends it at once: the process it was for has not come about."""
        for fd in self._ends.values():
            os.close(fd)
        self._ends.clear()
        if not self._end.done():
            os.kill(self._pid, signal.SIGKILL)


def command(uri: str) -> list[str]:
    """The command line that a `binary://` URI stands for: its path, then keys and values in turn.

    Raises RpcError(INVALID_ARGUMENT) when it names no absolute path.
    """
    from urllib.parse import parse_qsl, unquote, urlsplit  # only log binaries need it

    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise RpcError(Code.INVALID_ARGUMENT, f"log binary {uri!r}: {error}") from error
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or "\0" in path:
        raise RpcError(Code.INVALID_ARGUMENT, f"log binary {uri!r} names no absolute path")
    first: dict[str, str] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        first.setdefault(key, value)
    return [path, *(word for pair in first.items() for word in pair)]


async def _readable(fd: int, program: str) -> None:
    """Returns when `fd` has a byte or has been closed at its other end."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        async with asyncio.timeout(READY_SECONDS):
            await ready.wait()
    except TimeoutError:
        raise EngineError(f"log binary {program} was not ready within {READY_SECONDS:.0f} s") from None
    finally:
        loop.remove_reader(fd)
