"""Child processes of the shim: started here, reaped here, their ends delivered as futures.

The shim is a subreaper: the containers' first processes and orphans become its children. One place reaps them
all, on SIGCHLD, so no other code may wait for a child (asyncio's own subprocess support is not used).

Trap: a process can end before anybody asks for its end. Ends without a taker are kept, bounded, until asked
for.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from architect.engine.errors import EngineError

_UNCLAIMED_MAX: Final = 4096
_HIGH_FD: Final = 100
_KILL_GRACE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: exit code as a shell shows it (128 + signal for a signal), and when (unix ns)."""

    code: int
    at_ns: int


class Children:
    """Starts and reaps the children of this process; make one per process, on its event loop."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._waiting: dict[int, asyncio.Future[Ended]] = {}
        self._unclaimed: dict[int, Ended] = {}

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to reap. To be called once, before the first child."""
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            ended = Ended(128 - code if code < 0 else code, self._clock())
            future = self._waiting.pop(pid, None)
            if future is not None and not future.done():
                future.set_result(ended)
                continue
            while len(self._unclaimed) >= _UNCLAIMED_MAX:
                del self._unclaimed[next(iter(self._unclaimed))]
            self._unclaimed[pid] = ended

    def ended(self, pid: int) -> asyncio.Future[Ended]:
        """The end of child `pid`, done already if it has ended. One taker per process."""
        future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        known = self._unclaimed.pop(pid, None)
        if known is not None:
            future.set_result(known)
        else:
            self._waiting[pid] = future
        return future

    def spawn(
        self,
        argv: Sequence[str],
        *,
        fds: Mapping[int, int],
        env: Mapping[str, str],
        own_group: bool = True,
    ) -> tuple[int, asyncio.Future[Ended]]:
        """Starts `argv` with exactly the descriptors `fds` (child's number to ours) and returns pid and end.

        Raises EngineError when the program can not be executed.
        """
        # Duplicated out of the way first: one descriptor's old number may be another's new one.
        high = {theirs: fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD) for theirs, ours in fds.items()}
        moves = [(os.POSIX_SPAWN_DUP2, copy, theirs) for theirs, copy in high.items()]
        try:
            pid = os.posix_spawn(
                argv[0],
                list(argv),
                dict(env),
                file_actions=moves,
                setsigdef=[signal.SIGPIPE, signal.SIGCHLD],
                setsigmask=[],
                setsid=own_group,
            )
        except OSError as error:
            raise EngineError(f"cannot start {argv[0]}: {error.strerror}") from error
        finally:
            for copy in high.values():
                os.close(copy)
        return pid, self.ended(pid)

    def fork_exec(
        self,
        argv: Sequence[str],
        *,
        fds: Mapping[int, int],
        env: Mapping[str, str],
        prepare: Callable[[], None],
    ) -> tuple[int, asyncio.Future[Ended]]:
        """Like `spawn`, with `prepare` run in the child before exec (entering a cgroup, unsharing).

        The child may only make system calls there. If it raises, the child exits with code 127.
        """
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                os.setsid()
                prepare()
                high = {
                    theirs: fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD) for theirs, ours in fds.items()
                }
                for theirs, copy in high.items():
                    os.dup2(copy, theirs, inheritable=True)
                os.execve(argv[0], list(argv), dict(env))
            finally:
                os._exit(127)
        return pid, self.ended(pid)

    async def run(
        self, argv: Sequence[str], *, fds: Mapping[int, int], env: Mapping[str, str], seconds: float
    ) -> Ended:
        """Runs a program to its end. It is killed, and EngineError raised, when it takes longer than
        `seconds`.
        """
        pid, end = self.spawn(argv, fds=fds, env=env)
        try:
            return await asyncio.wait_for(asyncio.shield(end), seconds)
        except TimeoutError:
            await self.kill(pid, end)
            raise EngineError(
                f"{' '.join(argv[:3])} did not end within {seconds:.0f} s and was killed"
            ) from None
        except asyncio.CancelledError:
            await asyncio.shield(self.kill(pid, end))
            raise

    async def kill(self, pid: int, end: asyncio.Future[Ended]) -> None:
        """Kills child `pid`, with what it has started, and waits for its end."""
        if not end.done():
            kill_group(pid)
        await asyncio.wait({end}, timeout=_KILL_GRACE_SECONDS)


def kill_group(pid: int) -> None:
    """Kills `pid`, a child that has not been reaped, and what it has started: CRIU's helpers outlive it."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has no group of its own (yet)
        os.kill(pid, signal.SIGKILL)
