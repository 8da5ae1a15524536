"""A node of a cluster: a box within the cluster's box, with network, processes, mounts, cgroups and clocks.

Run by nodes.py in the cluster's box (`enter`, `exec`, `clear`) and by the node's process 1 (`up`). A node's
changes to its file system and its disks are kept below /var/lib/nodes/NAME, so that it can be switched off
and on. What it is stands in /etc/kubernetes/nodes/NAME/node.json. The trap: /opt/architect belongs to what is
installed there, so the checkout is at /opt/box, and nothing of Architect is to be seen.

    cluster_node.py enter|clear NAME | up | exec NAME COMMAND...
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import uuid
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import cgroups
import containerd
import linux
import mounts
import services

PLACES = "/etc/kubernetes/nodes"
PIDS = "/run/nodes"
_HERE = "/opt/box"
_DISKS = ("/var/lib/containerd", "/var/lib/architect", "/var/lib/kubelet")
_BOOT = "/run/boot_id"
_ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/kubernetes",
}


def enter(name: str) -> None:
    """As process 1 of new namespaces: mount the node, go in, become init.py."""
    node = _node(name)
    os.makedirs(PIDS, exist_ok=True)
    mounts.write(f"{PIDS}/{name}.pid", os.readlink("/proc/self"))  # /proc is still the box's
    if node["cgroups"] == 2:
        _share_controllers()
    cgroups.make(name)
    own = {each: f"{point}/{name}" for each, point in cgroups.hierarchies(node["cgroups"]).items()}
    cgroups.settle(name)
    home = f"/var/lib/nodes/{name}"
    is_new = not os.path.exists(home)
    root = mounts.overlay(home, "root", node["tree"])
    mounts.kernel_mounts(root, own)
    for place in _DISKS:
        os.makedirs(home + place, mode=0o711, exist_ok=True)
        mounts.bind_at(home + place, root + place)
    shared = {"/etc/kubernetes": f"{PLACES}/{name}", _HERE: _checkout()}
    shared |= {place: place for place in ("/opt/kubernetes", "/opt/images")}
    for target, source in shared.items():
        mounts.bind_at(source, root + target, read_only=True)
    if is_new:
        shutil.rmtree(root + "/opt/architect")
        mounts.write(root + "/etc/machine-id", uuid.uuid4().hex + "\n")
    mounts.write(root + _BOOT, f"{uuid.uuid4()}\n")
    linux.bind(root + _BOOT, root + "/proc/sys/kernel/random/boot_id", read_only=True)
    mounts.name_host(root, name)
    mounts.become_root(root)
    argv = ["python3", "-IS", f"{_HERE}/hack/init.py", "--plain", "--", *_script("up")]
    os.execve("/usr/bin/python3", argv, _ENVIRONMENT)


def _share_controllers() -> None:
    """Let the cgroups of nodes have what the box's has; its own processes are in a leaf beside them."""
    for point in cgroups.hierarchies(2).values():
        with open(f"{point}/cgroup.controllers") as file:
            controllers = file.read().split()
        mounts.write(f"{point}/cgroup.subtree_control", " ".join(f"+{each}" for each in controllers))


def up() -> None:
    """In the node: start containerd, load the images, say so on standard output, and stay."""
    is_new = not os.path.exists(containerd.NETWORK)
    if is_new:
        with open("/etc/kubernetes/node.json") as file:
            containerd.configure([json.load(file)["pods"]], with_architect=False)
    services.start("containerd")
    if is_new:
        containerd.load_images()
    print("up", flush=True)
    signal.pause()


def execute(name: str, argv: list[str]) -> None:
    """Become `argv` within the node: its namespaces, its cgroups, its environment."""
    with open(f"{PIDS}/{name}.pid") as file:
        pid = file.read()
    for point in cgroups.all_hierarchies():
        mounts.write(f"{point}/{name}/{cgroups.LEAF}/cgroup.procs", "0")
    kinds = ("mount", "uts", "ipc", "net", "pid", "time", "cgroup")
    enter_it = ["nsenter", f"--target={pid}", *(f"--{kind}" for kind in kinds), "--"]
    os.execvpe(enter_it[0], [*enter_it, *argv], {**_ENVIRONMENT, "TERM": os.environ.get("TERM", "dumb")})


def _node(name: str) -> dict[str, Any]:
    with open(f"{PLACES}/{name}/node.json") as file:
        node: dict[str, Any] = json.load(file)
    return node


def _checkout() -> str:
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _script(*arguments: str) -> list[str]:
    return ["/usr/bin/python3", "-IS", f"{_HERE}/hack/cluster_node.py", *arguments]


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    if verb == "enter":
        enter(rest[0])
    elif verb == "clear":
        cgroups.remove(rest[0])
    elif verb == "exec":
        execute(rest[0], rest[1:])
    else:
        up()
