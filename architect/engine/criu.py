"""One `criu swrk` process and the requests it is sent: CRIU's RPC over a SOCK_SEQPACKET pair (criu.org/RPC).

One message is one packet: a request, then notifications that each wait for our answer, then the response.
What options a container needs is decided in `plan.py`; here they are only carried.

A worker started ahead of its request (`spawn`) has loaded its libraries, sits in the container's cgroup and
waits: the wake then costs neither an exec nor a change of cgroup, each of which waits 10 ms for the kernel's
RCU.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from architect.engine.children import Children, Ended, kill_group
from architect.engine.criu_messages import Notify, Options, Request, RequestType, Response, Version
from architect.engine.errors import EngineError
from architect.ttrpc.codec import DecodeError, decode, encode

RPC_FD: Final = 3
FIRST_FD: Final = 10
_MESSAGE_MAX: Final = 1 << 16
_LOG_LINES: Final = 20
# Errors that CRIU 4.2 tells of and goes on: it may not raise a limit, or a node has no tun device.
_HARMLESS: Final = ("RLIMIT_NOFILE", "Unable to create tun")
# An install brings the `tar` and `gzip` that CRIU needs: busybox' lack options.
_TOOLS: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))) + "/tools"
# CRIU runs `tar` and probes `iptables` by name; nothing of the caller's environment is passed on.
ENVIRONMENT: Final = {
    "PATH": f"{_TOOLS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C",
}

Answer = Callable[[Notify], Awaitable[bool]]


class Worker:
    """A `criu swrk` child. `request` may be called once; then the process ends by itself."""

    def __init__(
        self, channel: socket.socket, pid: int, end: asyncio.Future[Ended], children: Children
    ) -> None:
        self._channel = channel
        self._children = children
        self._finishing: asyncio.Task[None] | None = None
        self.pid = pid
        self.end = end

    @classmethod
    def spawn(
        cls,
        binary: str,
        children: Children,
        fds: Mapping[int, int],
        prepare: Callable[[], None] | None = None,
    ) -> Worker:
        """Starts a worker that inherits `fds` (its number to ours); `prepare` runs in it before exec."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        # Configuration files of the host (tcp-close, ...) would silently change what we ask for.
        argv = [binary, "--no-default-config", "swrk", str(RPC_FD)]
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        given = {0: null, 1: null, 2: null, RPC_FD: theirs.fileno(), **fds}
        try:
            if prepare is None:
                pid, end = children.spawn(argv, fds=given, env=ENVIRONMENT)
            else:
                pid, end = children.fork_exec(argv, fds=given, env=ENVIRONMENT, prepare=prepare)
        except EngineError:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(null)
        return cls(ours, pid, end, children)

    async def request(
        self, kind: RequestType, options: Options, seconds: float, answer: Answer | None = None
    ) -> Response:
        """Sends one request, answers its notifications through `answer`, returns the response.

        Raises EngineError when CRIU dies, breaks the protocol or takes longer than `seconds` (it is killed).
        Success is the response's own field: a refusal by CRIU is returned, not raised.
        """
        loop = asyncio.get_running_loop()
        answered = False
        self.end.add_done_callback(self._hang_up)
        try:
            async with asyncio.timeout(seconds):
                await loop.sock_sendall(self._channel, encode(Request(type=kind, opts=options)))
                while True:
                    response = await self._receive(loop)
                    if response.type != RequestType.NOTIFY:
                        answered = True
                        return response
                    good = response.notify is None or answer is None or await answer(response.notify)
                    reply = Request(type=RequestType.NOTIFY, notify_success=good)
                    await loop.sock_sendall(self._channel, encode(reply))
        except TimeoutError:
            raise EngineError(f"CRIU did not answer within {seconds:.0f} s and was killed") from None
        except OSError as error:
            raise EngineError(f"CRIU ended before it answered ({error.strerror})") from error
        finally:
            self._channel.close()
            self._finishing = asyncio.create_task(self._finish(), name=f"criu {self.pid}")
            if not answered:  # it may still hold the container's processes
                await asyncio.shield(self._finishing)

    def _hang_up(self, _: object) -> None:
        """A dead worker's half-restored processes may hold its end of the channel: it would not tell of the
        death. What was answered before stays to be read.
        """
        if self._channel.fileno() >= 0:
            self._channel.shutdown(socket.SHUT_RDWR)

    async def _receive(self, loop: asyncio.AbstractEventLoop) -> Response:
        packet = await loop.sock_recv(self._channel, _MESSAGE_MAX)
        if not packet:
            raise EngineError("CRIU ended before it answered")
        try:
            return decode(Response, packet)
        except DecodeError as error:
            raise EngineError(f"CRIU answered something that is no message: {error}") from error

    async def _finish(self) -> None:
        """Waits until the worker has ended, and kills it when it does not."""
        await asyncio.wait({self.end}, timeout=1.0)
        if not self.end.done():
            await self._children.kill(self.pid, self.end)

    def kill(self) -> None:
        """Ends it at once, whatever it does; `request` then raises EngineError."""
        if not self.end.done():
            kill_group(self.pid)

    async def stop(self) -> None:
        """Ends a worker that was never sent its request."""
        self._channel.close()
        await self._children.kill(self.pid, self.end)


async def version(binary: str, children: Children) -> tuple[int, int, int]:
    """The version of the CRIU at `binary` as (major, minor, sublevel). Raises EngineError when it does not
    run.
    """
    worker = Worker.spawn(binary, children, {})
    response = await worker.request(RequestType.VERSION, Options(), seconds=10.0)
    found = response.version or Version()
    return found.major, found.minor, found.sublevel


def log_tail(path: Path) -> str:
    """The error lines of a CRIU log (or its last lines), for a message to a person; "" when unreadable."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - (1 << 16)))
            lines = log.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    errors = [line for line in lines if "Error" in line and not any(each in line for each in _HARMLESS)]
    return "\n".join((errors or lines)[-_LOG_LINES:])
