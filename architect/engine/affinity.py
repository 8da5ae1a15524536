"""The processors that threads have bound themselves to: CRIU 4.2 neither saves nor restores them.

Only what a thread has given up is noted. One that may use all of its cpuset may use all of it after the wake,
too, also when that is another set by then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from architect.engine.cgroup import Cgroup
from architect.engine.undumpable import inner_pid

_FILES: Final = (("cpuset", "cpuset.effective_cpus"), ("", "cpuset.cpus.effective"))


def bound(cgroup: Cgroup) -> dict[str, list[int]]:
    """The threads that may not use every processor of the cgroup: the processors ("0,2") to the threads'
    numbers in the container.
    """
    everything = _everything(cgroup)
    found: dict[str, list[int]] = {}
    for thread in _threads(cgroup.pids()):
        try:
            processors = os.sched_getaffinity(thread)
        except ProcessLookupError:
            continue
        if processors != everything:
            name = ",".join(map(str, sorted(processors)))
            found.setdefault(name, []).append(int(inner_pid(thread)))
    return found


def bind(cgroup: Cgroup, wanted: Mapping[str, list[int]]) -> list[str]:
    """Binds restored threads as they were; a sentence for each set of processors that is refused now."""
    if not wanted:
        return []
    threads = {int(inner_pid(thread)): thread for thread in _threads(cgroup.pids())}
    refused = []
    for name, numbers in wanted.items():
        processors = [int(number) for number in name.split(",")]
        for number in numbers:
            try:
                os.sched_setaffinity(threads[number], processors)
            except (KeyError, ProcessLookupError):
                continue  # it has just ended
            except OSError as error:  # they are not in its cpuset any more
                refused.append(f"its thread {number} cannot be bound to processors {name}: {error.strerror}")
                break
    return refused


def _threads(pids: Iterable[int]) -> Iterator[int]:
    for pid in pids:
        try:
            yield from map(int, os.listdir(f"/proc/{pid}/task"))
        except (FileNotFoundError, ProcessLookupError):
            continue


def _everything(cgroup: Cgroup) -> set[int]:
    """The processors of the cgroup; without a cpuset controller those of the node."""
    files = [f"{cgroup.paths[name]}/{file}" for name, file in _FILES if name in cgroup.paths]
    for file in files:
        try:
            return set(_parsed(Path(file).read_text()))
        except FileNotFoundError:
            continue
    return set(_parsed(Path("/sys/devices/system/cpu/online").read_text()))


def _parsed(ranges: str) -> Iterator[int]:
    """The numbers in a list such as "0-2,5" (cpuset(7))."""
    for part in ranges.strip().split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
