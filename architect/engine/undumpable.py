"""What processes hold open that CRIU is known not to be able to dump: said in words before CRIU is asked.

CRIU names such a thing by a line of its source or by an error of the kernel, after having done most of the
work.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import Final

# How /proc/<pid>/fd shows it (proc(5)): what it is, and what to do.
_HELD: Final = (
    (
        "anon_inode:[io_uring]",
        "an io_uring",
        "forbid io_uring_setup in its seccomp profile: most programs do without",
    ),
    ("anon_inode:[userfaultfd]", "a userfaultfd", "switch off what uses it"),
    ("anon_inode:[perf_event]", "a performance counter", "switch off what profiles it"),
    ("anon_inode:bpf-", "a BPF object", "leave BPF to a container that is not managed"),
    ("anon_inode:kvm-", "a virtual machine", "leave it to a container that is not managed"),
    ("/dev/kvm", "a virtual machine", "leave it to a container that is not managed"),
    ("/dev/nvidia", "a GPU", "GPUs are not supported yet"),
    ("/dev/dri/", "a GPU", "GPUs are not supported yet"),
    ("/dev/fuse", "a file system of its own", "leave it to a container that is not managed"),
)


def held(pids: Iterable[int]) -> str:
    """A sentence naming the first such thing that one of `pids` holds, and the cure; "" for none."""
    for pid in pids:
        try:
            numbers = os.listdir(f"/proc/{pid}/fd")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        for number in numbers:
            try:
                target = os.readlink(f"/proc/{pid}/fd/{number}")
            except OSError:
                continue
            for prefix, what, cure in _HELD:
                if target.startswith(prefix):
                    return f"its process {inner_pid(pid)} holds {what}, which CRIU cannot dump; {cure}"
    return ""


def stopped(pids: Iterable[int]) -> str:
    """A sentence naming the first of `pids` that CRIU could not stop itself, and the cure; "" for none.

    To be asked before the freeze; what happens between this and the freeze `halted` tells.
    """
    for pid in pids:
        if _field(pid, "TracerPid") not in ("", "0"):  # one process at a time can trace another, CRIU has to
            return f"its process {inner_pid(pid)} is being debugged (ptrace); let its debugger go"
        if _field(pid, "State").startswith("T"):  # CRIU 4.2 would wait for it for ever
            return f"its process {inner_pid(pid)} is stopped (SIGSTOP); let it go on (SIGCONT)"
    return ""


def halted(pids: Iterable[int]) -> str:
    """Like `stopped`, of frozen processes: of one that was stopped after it had been asked for.

    Frozen, a stopped process shows as a frozen one (cgroup v1, kernel 6.1 and later); where it waits in the
    kernel tells (`wchan`, proc(5)). A SIGSTOP that came in the freeze is pending.
    """
    for pid in pids:
        pending = int(_field(pid, "ShdPnd") or "0", 16) | int(_field(pid, "SigPnd") or "0", 16)
        if _waits_in(pid) == "do_signal_stop" or pending & 1 << (signal.SIGSTOP - 1):
            return f"its process {inner_pid(pid)} is stopped (SIGSTOP); let it go on (SIGCONT)"
    return ""


def _waits_in(pid: int) -> str:
    """The kernel function that the process waits in; "" when the kernel does not tell."""
    try:
        with open(f"/proc/{pid}/wchan", encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def inner_pid(pid: int) -> str:
    """The number that the process has in its own container, which is the one its owner knows."""
    numbers = _field(pid, "NSpid").split()
    return numbers[-1] if numbers else str(pid)


def _field(pid: int, name: str) -> str:
    """A field of /proc/<pid>/status; "" when the process has ended."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(f"{name}:"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass  # it has just ended
    return ""
