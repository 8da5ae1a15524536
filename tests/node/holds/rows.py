"""What every row is made of, inside the container: a generator that makes something, yields, and then proves
that it is still there.

A row is shipped into a container with its module; so this imports the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from collections.abc import Callable, Iterator
from typing import Any, Final

libc: Final = ctypes.CDLL(None, use_errno=True)
_CALLS: Final = {  # on x86-64, and on the architectures with the kernel's common table
    "bpf": (321, 280),
    "getcpu": (309, 168),
    "io_uring_setup": (425, 425),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
}
ASLEEP_SECONDS: Final = 1.0
"""How long the row about clocks sleeps at least."""
Hold = Callable[[], Iterator[None]]


class Lacking(Exception):
    """The kernel does not offer what the row is about."""


def checked(result: int) -> int:
    """The result of a call into libc. Raises OSError for -1."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def lacking(result: int, what: str) -> int:
    """The result of a call into libc. Raises Lacking for -1."""
    if result < 0:
        raise Lacking(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def call(name: str, *arguments: Any) -> int:
    """A system call that libc has no function for."""
    return int(libc.syscall(_CALLS[name][platform.machine() != "x86_64"], *arguments))


def child(work: Callable[[], object]) -> int:
    """Forks a child that does `work` and ends with its result as status (0 for None)."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            result = work()
            status = result if isinstance(result, int) else 0
        finally:
            os._exit(status)
    return pid


def ended(pid: int) -> int:
    """The exit status of a child."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def stop() -> None:
    """Stops the calling process (SIGSTOP)."""
    os.kill(os.getpid(), signal.SIGSTOP)


def status_field(name: str, pid: int | str = "self") -> str:
    """A field of /proc/PID/status."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(line.split(":", 1)[1].strip() for line in file if line.startswith(f"{name}:"))
