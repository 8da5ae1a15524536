"""Runs a command in a node of its own: root file system, network, processes, mounts, cgroups; nothing stays.

`run` is for callers; everything after it happens in processes it starts: a keeper, which removes the box when
the command has ended or the caller was killed, and `enter`, process 1 of the box, which mounts everything and
becomes init.py. What the node runs is not decided here.

The traps: a pod with Bidirectional mounts needs `mount --make-rshared /`; containerd's snapshots and our
images must lie on a plain directory, not on the box's overlay; a frozen process cannot be killed (see
cgroups.py).
"""

from __future__ import annotations

import contextlib
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
import linux
import recipe
import trees

_BOXES = recipe.CACHE + "/boxes"
_PREFIX = "architect-box-"
_DISKS = ("/var/lib/containerd", "/var/lib/architect", "/var/lib/kubelet")
"""Folders of the box that are plain directories on the host's disk."""
_DEVICES = ("fuse", "full", "kmsg", "null", "random", "tty", "urandom", "userfaultfd", "zero")
SOURCE = "/opt/architect/src"
ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": SOURCE,
    "ARCHITECT_OUT": "/out",
    "CONTAINERD_ADDRESS": "/run/containerd/containerd.sock",
    "GRPC_ENABLE_FORK_SUPPORT": "0",  # tests start processes; its fork handlers only complain about that
    "HYPOTHESIS_STORAGE_DIRECTORY": "/var/cache/tools/hypothesis",
    "MYPY_CACHE_DIR": "/var/cache/tools/mypy",
    "RUFF_CACHE_DIR": "/var/cache/tools/ruff",
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


def run(flavour: recipe.Flavour, argv: list[str], *, images: str = "") -> int:
    """Run `argv` in a fresh box and return its exit status (128 + signal when one ended it).

    `images`: directory with image archives; with it the box is a node, with containerd running and the images
    loaded. Standard streams are passed on. Raises Impossible, trees.BuildFailed.
    """
    reason = obstacle(flavour)
    if reason:
        raise Impossible(reason)
    sweep()
    plan = {
        "tree": trees.tree(flavour.tree),
        "venv": trees.environment(flavour.tree),
        "images": images,
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
    own = {each: f"{point}/{name}" for each, point in cgroups.hierarchies(plan["cgroups"]).items()}
    cgroups.settle(name)
    root = _overlay(home, "root", plan["tree"])
    _kernel_mounts(root, own)
    for place in _DISKS:
        disk = f"{home}/disk{place}"
        os.makedirs(disk, mode=0o711)
        _bind_at(disk, root + place)
    source = _overlay(home, "source", recipe.CHECKOUT)  # writable for byte code; the checkout stays as it is
    _bind_at(source, root + SOURCE)
    _bind_at(plan["venv"], root + "/opt/venv", read_only=True)
    tools = recipe.CACHE + "/tools"
    for directory in (tools, recipe.OUT):
        os.makedirs(directory, exist_ok=True)
    _bind_at(tools, root + "/var/cache/tools")
    _bind_at(recipe.OUT, root + "/out")
    if plan["images"]:
        _bind_at(plan["images"], root + "/opt/images", read_only=True)
    _write(root + "/etc/resolv.conf", "")  # nobody answers in here: an entry costs seconds per look-up
    _write(root + "/etc/hostname", plan["hostname"] + "\n")
    _write(root + "/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {plan['hostname']}\n")
    with open("/proc/sys/kernel/hostname", "w") as file:
        file.write(plan["hostname"])
    linux.pivot_root(root)
    linux.mount("", "/", flags=linux.MS_REC | linux.MS_SHARED)
    os.chdir(SOURCE)
    init = f"{SOURCE}/hack/init.py"
    environment = {**ENVIRONMENT, "TERM": plan["term"], "NODE_FLAVOUR": plan["hostname"]}
    flags = ["--node"] if plan["images"] else []
    os.execve("/usr/bin/python3", ["python3", "-IS", init, *flags, "--", *plan["argv"]], environment)


def _overlay(home: str, part: str, lower: str) -> str:
    paths = {kind: f"{home}/{part}.{kind}" for kind in ("upper", "work", "mount")}
    for path in paths.values():
        os.mkdir(path, 0o755)
    options = f"lowerdir={lower},upperdir={paths['upper']},workdir={paths['work']}"
    linux.mount("overlay", paths["mount"], "overlay", data=options)
    return paths["mount"]


def _kernel_mounts(root: str, hierarchies: dict[str, str]) -> None:
    safe = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("proc", root + "/proc", "proc", safe)
    linux.mount("sysfs", root + "/sys", "sysfs", safe)
    for place, mode in (("/run", "755"), ("/tmp", "1777")):
        linux.mount("tmpfs", root + place, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, f"mode={mode}")
    if "" in hierarchies:
        linux.bind(hierarchies[""], root + "/sys/fs/cgroup")
    else:
        linux.mount("tmpfs", root + "/sys/fs/cgroup", "tmpfs", safe, "mode=755")
        for each, own in hierarchies.items():
            _bind_at(own, f"{root}/sys/fs/cgroup/{each}")
            for controller in each.split(",")[1:] and each.split(","):
                os.symlink(each, f"{root}/sys/fs/cgroup/{controller}")
    linux.mount("tmpfs", root + "/dev", "tmpfs", linux.MS_NOSUID, "mode=755")
    for device in _DEVICES:
        if os.path.exists(f"/dev/{device}"):
            _write(f"{root}/dev/{device}", "")
            linux.bind(f"/dev/{device}", f"{root}/dev/{device}")
    for place in ("pts", "shm", "mqueue"):
        os.mkdir(f"{root}/dev/{place}", 0o755)
    linux.mount(
        "devpts", root + "/dev/pts", "devpts", linux.MS_NOSUID, "newinstance,ptmxmode=0666,mode=0620,gid=5"
    )
    linux.mount("tmpfs", root + "/dev/shm", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")
    linux.mount("mqueue", root + "/dev/mqueue", "mqueue", safe)
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
    for link, target in links.items():
        os.symlink(target, f"{root}/dev/{link}")


def _bind_at(source: str, target: str, *, read_only: bool = False) -> None:
    os.makedirs(target, exist_ok=True)
    linux.bind(source, target, read_only=read_only)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    {"enter": enter, "keep": _keep}[sys.argv[1]](sys.argv[2])
