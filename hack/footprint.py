#!/usr/bin/env python3
"""What a host has that a box could leave behind: `footprint.py COMMAND...` runs it and tells what remained.

Looks at processes, mounts, network namespaces and links, cgroups, packet filter rules and kernel settings.
Things of boxes that are alive are not counted; on a busy host something of others may show up, named so that
a person can tell.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import cgroups
import recipe

_BOX = "architect-box-"
_VOLATILE = ("fs/", "kernel/ns_last_pid", "kernel/pty/nr", "kernel/random/", "kernel/tainted",
             "net/netfilter/", "net/ipv4/route/", "net/ipv4/conf/", "net/ipv6/conf/", "net/ipv4/neigh/",
             "net/ipv6/neigh/")  # fmt: skip
"""Kernel settings that change by themselves, or appear with every link."""


def take() -> dict[str, set[str]]:
    """What there is now, a set of descriptions per kind."""
    return {kind: set(look()) for kind, look in _KINDS.items()}


def remains(before: dict[str, set[str]], after: dict[str, set[str]]) -> list[str]:
    """Sentences about what came and stayed; empty when nothing did."""
    return [f"{kind}: {thing}" for kind in before for thing in sorted(after[kind] - before[kind])]


def _processes() -> Iterator[tuple[str, str]]:
    """(pid, cgroup file) of processes with a memory of their own that no living box owns."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it ended meanwhile
            with open(f"/proc/{pid}/cgroup") as file:
                cgroup = file.read()
            if not _alive(cgroup):
                yield pid, cgroup


def _alive(path: str) -> bool:
    """Whether a path or cgroup file names a box whose directory is still there."""
    _, found, rest = path.partition(_BOX)
    name = rest.split("/")[0].split()[0] if found and rest else ""
    return bool(name) and os.path.isdir(os.path.join(recipe.CACHE, "boxes", _BOX + name))


def _of_boxes() -> Iterator[str]:
    own = os.readlink("/proc/self/ns/pid")
    for pid, cgroup in _processes():
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/cmdline") as file:
                command = file.read().replace("\0", " ")
            if (
                os.readlink(f"/proc/{pid}/ns/pid") != own
                or recipe.CACHE in command
                or _BOX in cgroup + command
            ):
                yield f"{pid} {command[:120]}"


def _mounts() -> Iterator[str]:
    with open("/proc/self/mountinfo") as file:
        for line in file:
            yield line.split()[4]


def _network_namespaces() -> Iterator[str]:
    for pid, _ in _processes():
        with contextlib.suppress(OSError):
            yield os.readlink(f"/proc/{pid}/ns/net")
    if os.path.isdir("/run/netns"):
        yield from os.listdir("/run/netns")


def _links() -> Iterator[str]:
    yield from os.listdir("/sys/class/net")


def _cgroups() -> Iterator[str]:
    for point in cgroups.all_hierarchies():
        for path, _, _ in os.walk(point):
            if not path.endswith((".scope", ".service", ".slice")) and not _alive(path):
                yield path


def _rules() -> Iterator[str]:
    for argv in (["nft", "--stateless", "list", "ruleset"], ["iptables-save"], ["ip6tables-save"]):
        if shutil.which(argv[0]):
            result = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
            yield from (line for line in result.stdout.splitlines() if not line.startswith(("#", ":")))


def _settings() -> Iterator[str]:
    for folder, _, names in os.walk("/proc/sys"):
        for path in (os.path.join(folder, name) for name in names):
            if not path.removeprefix("/proc/sys/").startswith(_VOLATILE):
                with contextlib.suppress(OSError, UnicodeDecodeError), open(path) as file:
                    yield f"{path} = {file.read().strip()}"
    with open("/sys/kernel/rcu_expedited") as file:
        yield f"rcu_expedited = {file.read().strip()}"


_KINDS: dict[str, Callable[[], Iterator[str]]] = {
    "process": _of_boxes,
    "mount": _mounts,
    "network namespace": _network_namespaces,
    "link": _links,
    "cgroup": _cgroups,
    "packet filter rule": _rules,
    "kernel setting": _settings,
}


def main() -> int:
    """Run the command line's command between two looks; fails with it, or when something remained."""
    before = take()
    status = subprocess.run(sys.argv[1:], check=False).returncode
    found = remains(before, take())
    for sentence in found:
        print(f"left behind: {sentence}", file=sys.stderr)
    return status or int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
