"""Runs a command in a node of its own: root file system, network, processes, mounts, cgroups; nothing stays.

`run` is for callers; everything after it happens in processes it starts: a keeper, which removes the box when
the command has ended or the caller was killed, and `enter`, process 1 of the box, which mounts everything and
becomes init.py. What the node runs is not decided here.

The trap: a frozen process cannot be killed (see cgroups.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import cgroups
import mounts
import recipe
import trees

_BOXES = recipe.CACHE + "/boxes"
_PREFIX = "architect-box-"
_DISKS = ("/var/lib/containerd", "/var/lib/architect", "/var/lib/kubelet")
"""Folders of the box that are plain directories on the host's disk."""
SOURCE = "/opt/architect/src"
ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": SOURCE,
    "ARCHITECT_OUT": "/out",
    "CONTAINERD_ADDRESS": "/run/containerd/containerd.sock",
    "GRPC_ENABLE_FORK_SUPPORT": "0",  # tests start processes; its fork handlers only complain about that
    # Each checkout's own: under one name, the files of two would be taken for each other.
    "HYPOTHESIS_STORAGE_DIRECTORY": "/out/.cache/hypothesis",
    "MYPY_CACHE_DIR": "/out/.cache/mypy",
    "RUFF_CACHE_DIR": "/out/.cache/ruff",
}


class Impossible(Exception):
    """This host cannot run that box; the sentence says why and what would."""


def obstacle(flavour: recipe.Flavour) -> str:
    """Why this host cannot run such a box; "" when it can."""
    if os.geteuid():
        return "a box needs root: mounts, namespaces and cgroups are made"
    if not cgroups.hierarchies(flavour.cgroups):
        offered = [version for version in (1, 2) if cgroups.hierarchies(version)]
        return f"{flavour.name} needs cgroup v{flavour.cgroups}; this host mounts version {offered}"
    return ""


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a box holds that is more than a node."""

    binds: dict[str, str]
    """Path in the box -> directory on the host; read-only,"""
    writable: tuple[str, ...] = ()
    """except at these paths."""
    disks: tuple[str, ...] = ()
    """Folders of the box that are plain directories on the host's disk."""
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    nests: bool = False
    """Whether boxes are made within it."""
    pid_file: str = ""
    """Where process 1 of the box writes its pid, as the host knows it."""


def run(
    flavour: recipe.Flavour, argv: list[str], *, images: str = "", contents: Contents | None = None
) -> int:
    """Run `argv` in a fresh box and return its exit status (128 + signal when one ended it).

    `images`: directory with image archives; with it the box is a node, with containerd running and the images
    loaded, unless `contents` says what else it is. Standard streams are passed on. Raises Impossible,
    trees.BuildFailed.
    """
    contents = contents or Contents(binds={"/opt/images": images} if images else {})
    reason = obstacle(flavour)
    if reason:
        raise Impossible(reason)
    sweep()
    plan = {
        "tree": trees.tree(flavour.tree),
        "venv": trees.environment(flavour.tree),
        "node": bool(images),
        **dataclasses.asdict(contents),
        "hostname": flavour.name,
        "cgroups": flavour.cgroups,
        "argv": argv,
        "term": os.environ.get("TERM", "dumb"),
    }
    with _box(plan) as name:
        return _wait(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child"),
                *("--propagation", "private", sys.executable, os.path.abspath(__file__), "enter", name),
            ]
        )


def _wait(argv: list[str]) -> int:
    process = subprocess.Popen(argv)
    try:
        status = process.wait()
    finally:
        process.kill()  # after Ctrl-C; the keeper ends what is within
        process.wait()
    return 128 - status if status < 0 else status


@contextlib.contextmanager
def _box(plan: dict[str, Any]) -> Iterator[str]:
    name = _PREFIX + secrets.token_hex(4)
    home = os.path.join(_BOXES, name)
    unborn = os.path.join(_BOXES, "new-" + name)
    os.makedirs(unborn, mode=0o700)
    with open(unborn + "/lock", "w") as lock:  # held by us and the keeper: no sweep touches a living box
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(unborn + "/plan.json", "w") as file:
            json.dump(plan, file)
        os.rename(unborn, home)
        gone, alive = os.pipe()
        keeper = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "keep", name],
            stdin=gone,
            pass_fds=[lock.fileno()],
            start_new_session=True,  # Ctrl-C is not for it
        )
        os.close(gone)
        try:
            cgroups.make(name)
            yield name
        finally:
            os.close(alive)
            if keeper.wait():
                print(f"the box {name} could not be removed; see above", file=sys.stderr)


def _keep(name: str) -> None:
    """Wait for the caller's end, then remove the box."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdin.buffer.read()
    _remove(name)


def _remove(name: str) -> None:
    cgroups.remove(name)
    shutil.rmtree(os.path.join(_BOXES, name))


def sweep() -> None:
    """Remove boxes nobody holds: their keeper was killed, or the machine went down."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(_BOXES):
            if not name.startswith(_PREFIX):
                continue  # being made
            path = os.path.join(_BOXES, name, "lock")
            with contextlib.suppress(BlockingIOError, FileNotFoundError), open(path) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(name)


def enter(name: str) -> None:
    """As process 1 of the new namespaces: mount the box, go in, become init.py."""
    home = os.path.join(_BOXES, name)
    with open(home + "/plan.json") as file:
        plan = json.load(file)
    if plan["pid_file"]:
        mounts.write(plan["pid_file"], os.readlink("/proc/self"))  # /proc is still the host's
    own = {each: f"{point}/{name}" for each, point in cgroups.hierarchies(plan["cgroups"]).items()}
    if plan["nests"] and plan["cgroups"] == 1:  # boxes within it leave its cgroups in every hierarchy
        for point in cgroups.hierarchies(2).values():
            own["unified"] = f"{point}/{name}"
    cgroups.settle(name)
    root = mounts.overlay(home, "root", plan["tree"])
    mounts.kernel_mounts(root, own)
    for place in (*_DISKS, *plan["disks"]):
        disk = f"{home}/disk{place}"
        os.makedirs(disk, mode=0o711)
        mounts.bind_at(disk, root + place)
    source = mounts.overlay(
        home, "source", recipe.CHECKOUT
    )  # writable for byte code; the checkout stays as it is
    mounts.bind_at(source, root + SOURCE)
    mounts.bind_at(plan["venv"], root + "/opt/venv", read_only=True)
    os.makedirs(recipe.OUT, exist_ok=True)
    mounts.bind_at(recipe.OUT, root + "/out")
    for target, place in plan["binds"].items():
        mounts.bind_at(place, root + target, read_only=target not in plan["writable"])
    mounts.name_host(root, plan["hostname"])
    mounts.become_root(root)
    os.chdir(SOURCE)
    init = f"{SOURCE}/hack/init.py"
    environment = {
        **ENVIRONMENT,
        "TERM": plan["term"],
        "NODE_FLAVOUR": plan["hostname"],
        **plan["environment"],
    }
    flags = ["--node"] if plan["node"] else []
    os.execve("/usr/bin/python3", ["python3", "-IS", init, *flags, "--", *plan["argv"]], environment)


if __name__ == "__main__":
    {"enter": enter, "keep": _keep}[sys.argv[1]](sys.argv[2])
