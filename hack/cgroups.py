"""A box's own cgroups: one per hierarchy of the host, found, made, entered and removed.

On a host with cgroup v1 (or both) each hierarchy gets a cgroup of its own; a v2 node sees only one.
The trap: a process frozen by the v1 freezer cannot be killed, so whoever ends a box thaws it first.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

import linux

LEAF = "init"
"""Where a box's own processes live: a v2 cgroup with processes in it cannot give its children controllers."""


def hierarchies(version: int) -> dict[str, str]:
    """Mount points of the host's hierarchies for a node of that cgroup version, by name.

    Names are as under /sys/fs/cgroup ("memory", "cpu,cpuacct", "systemd"); v2 is one with the name "".
    Empty when the host cannot offer that version.
    """
    found: dict[str, str] = {}
    unified = ""
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            root, point = before.split()[3:5]
            kind = after.split()[0]
            if root != "/" or not point.startswith("/sys/fs/cgroup"):
                continue
            if kind == "cgroup":
                found[os.path.basename(point)] = point
            elif kind == "cgroup2":
                unified = point
    if version == 2:
        return {"": unified} if unified else {}
    return found


def all_hierarchies() -> list[str]:
    """Mount points of every hierarchy of the host."""
    return [*hierarchies(1).values(), *hierarchies(2).values()]


def make(name: str) -> None:
    """The cgroups `name` in every hierarchy, ready to take processes."""
    for point in all_hierarchies():
        for path in (f"{point}/{name}", f"{point}/{name}/{LEAF}"):
            os.mkdir(path, 0o755)
            for setting in ("cpuset.cpus", "cpuset.mems"):  # v1: empty at first, and nobody may enter then
                if os.path.exists(f"{point}/{setting}") and os.path.exists(
                    f"{point}/cpuset.sched_load_balance"
                ):
                    with open(f"{point}/{setting}") as given, open(f"{path}/{setting}", "w") as file:
                        file.write(given.read())


def settle(name: str) -> None:
    """Move the calling process into the box's cgroups and make them the root of all it and its children see.

    After it mountinfo tells roots relative to the new cgroup namespace: `hierarchies` finds nothing any more.
    """
    points = all_hierarchies()
    for part in (name, f"{name}/{LEAF}"):
        for point in points:
            with open(f"{point}/{part}/cgroup.procs", "w") as file:
                file.write("0")
        if part == name:
            linux.unshare(linux.CLONE_NEWCGROUP)


def remove(name: str, *, seconds: float = 20) -> None:
    """Kill what is left in the cgroups `name`, then remove them. Raises TimeoutError naming who stays."""
    deadline = time.monotonic() + seconds
    while True:
        remaining = [path for point in all_hierarchies() for path in _below(f"{point}/{name}")]
        for path in remaining:
            _end_members(path)
        for path in remaining:
            with contextlib.suppress(OSError):  # still has members: the next round
                os.rmdir(path)
        if not any(os.path.isdir(f"{point}/{name}") for point in all_hierarchies()):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"cgroups of {name} still have members: {_members(remaining)}")
        time.sleep(0.01)  # the kernel tells nobody when a v1 cgroup becomes empty


def _below(path: str) -> Iterator[str]:
    """The cgroups under `path`, children before parents."""
    for at, _, _ in os.walk(path, topdown=False):
        yield at


def _end_members(path: str) -> None:
    for file, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0"), ("cgroup.kill", "1")):
        if os.path.exists(f"{path}/{file}"):
            with contextlib.suppress(OSError), open(f"{path}/{file}", "w") as control:
                control.write(value)
    for pid in _members([path]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def _members(paths: list[str]) -> list[int]:
    pids: list[int] = []
    for path in paths:
        with contextlib.suppress(OSError), open(f"{path}/cgroup.procs") as file:
            pids += [int(line) for line in file if line.strip() != "0"]
    return pids
