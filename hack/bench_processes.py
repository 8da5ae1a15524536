"""What processes take: memory and processor time, as the kernel counts them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Final

_MIB: Final = 1 << 20
_CPUCLOCK_SCHED: Final = 2  # a process's clock is named by its pid: kernel, include/linux/posix-timers.h


def cpu_seconds(pid: int) -> float:
    """Processor time of a process with all its threads, to the nanosecond: /proc counts in ticks of ten
    milliseconds, of which a daemon at rest may take none in minutes. Raises OSError.
    """
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


def pss(pid: int) -> float:
    """Memory of a process in MiB; what it shares counts in parts (proc_pid_smaps(5)). Raises OSError."""
    return _kib(f"/proc/{pid}/smaps_rollup", "Pss:") * 1024 / _MIB


def rss(pid: int) -> float:
    """Memory of a process in MiB, shared or not. Raises OSError."""
    return _kib(f"/proc/{pid}/status", "VmRSS:") * 1024 / _MIB


def pss_of_all(names: Sequence[str]) -> float:
    """Memory of all processes with these names together, in MiB."""
    total = 0.0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm") as file:
                if file.read().strip() in names:
                    total += pss(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    return total


def _kib(path: str, key: str) -> int:
    with open(path) as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key))
