#!/usr/bin/env python3
"""What a host has that a box could leave behind: `footprint.py COMMAND...` runs it and tells what remained.

Looks at processes, mounts, network namespaces and links, cgroups, packet filter rules and kernel settings.
Things of boxes that somebody still keeps are not counted; on a busy host something of others may show up,
named so that a person can tell.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import cgroups
import recipe

_NAME = re.compile(r"architect-box-\w+")
_VOLATILE = ("fs/", "kernel/ns_last_pid", "kernel/pty/nr", "kernel/random/", "kernel/tainted",
             "net/netfilter/", "net/ipv4/route/", "net/ipv4/conf/", "net/ipv6/conf/", "net/ipv4/neigh/",
             "net/ipv6/neigh/")  # fmt: skip
"""Kernel settings that change by themselves, or appear with every link."""


Thing = tuple[str, str]
"""What is there, and a text that names its box if it belongs to one."""


def take() -> dict[str, set[str]]:
    """What there is now and belongs to no living box, a set of descriptions per kind."""
    living = _living()
    found: dict[str, list[Thing]] = {}
    for kind, look in _KINDS.items():
        found[kind] = list(look())
        living |= _living()  # after each look: a box may live for less than all of them take
    return {
        kind: {thing for thing, owner in things if living.isdisjoint(_NAME.findall(owner))}
        for kind, things in found.items()
    }


def remains(before: dict[str, set[str]], after: dict[str, set[str]]) -> list[str]:
    """Sentences about what came and stayed; empty when nothing did. Of a tree of paths only the root."""
    found = []
    for kind, things in after.items():
        came = things - before[kind]
        roots = (thing for thing in sorted(came) if not any(each in came for each in _parents(thing)))
        found += [f"{kind}: {thing}" for thing in roots]
    return found


def _parents(path: str) -> Iterator[str]:
    while path.startswith("/") and path != "/":
        path = os.path.dirname(path)
        yield path


def _living() -> set[str]:
    """The boxes that somebody keeps, whatever cache they are in."""
    keepers = (command for _, _, command in _processes() if "box.py keep" in command)
    return {name for command in keepers for name in _NAME.findall(command)}


def _processes() -> Iterator[tuple[str, str, str]]:
    """(pid, cgroup file, command) of every process."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it ended meanwhile
            with open(f"/proc/{pid}/cgroup") as file:
                cgroup = file.read()
            with open(f"/proc/{pid}/cmdline", errors="replace") as file:
                command = file.read().replace("\0", " ")
            if command:  # not the kernel's, and not an end that its parent has yet to hear of
                yield pid, cgroup, command


def _of_boxes() -> Iterator[Thing]:
    own = os.readlink("/proc/self/ns/pid")
    for pid, cgroup, command in _processes():
        with contextlib.suppress(OSError):
            foreign = os.readlink(f"/proc/{pid}/ns/pid") != own or "cluster.py serve" in command
            if foreign or recipe.CACHE + "/boxes/" in command or _NAME.search(cgroup + command):
                yield f"{pid} {command[:120]}", cgroup + command


def _mounts() -> Iterator[Thing]:
    with open("/proc/self/mountinfo") as file:
        for line in file:
            yield line.split()[4], line


def _network_namespaces() -> Iterator[Thing]:
    for pid, cgroup, command in _processes():
        with contextlib.suppress(OSError):
            yield os.readlink(f"/proc/{pid}/ns/net"), cgroup + command
    if os.path.isdir("/run/netns"):
        yield from ((name, "") for name in os.listdir("/run/netns"))


def _links() -> Iterator[Thing]:
    yield from ((name, "") for name in os.listdir("/sys/class/net"))


def _cgroups() -> Iterator[Thing]:
    for point in cgroups.all_hierarchies():
        for path, _, _ in os.walk(point):
            # Others' cgroups come and go on any host; a container that escaped from its box would make these.
            top = path.removeprefix(point).lstrip("/").partition("/")[0]
            if _NAME.search(path) or top in ("kubepods", "k8s.io", "default"):
                yield path, path


def _rules() -> Iterator[Thing]:
    for argv in (["nft", "--stateless", "list", "ruleset"], ["iptables-save"], ["ip6tables-save"]):
        if shutil.which(argv[0]):
            result = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
            lines = result.stdout.splitlines()
            yield from ((line, "") for line in lines if not line.startswith(("#", ":")))


def _settings() -> Iterator[Thing]:
    for folder, _, names in os.walk("/proc/sys"):
        for path in (os.path.join(folder, name) for name in names):
            if not path.removeprefix("/proc/sys/").startswith(_VOLATILE):
                with contextlib.suppress(OSError, UnicodeDecodeError), open(path) as file:
                    yield f"{path} = {file.read().strip()}", ""
    with open("/sys/kernel/rcu_expedited") as file:
        yield f"rcu_expedited = {file.read().strip()}", ""


_KINDS: dict[str, Callable[[], Iterator[Thing]]] = {
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
