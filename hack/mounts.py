"""The mounts of a system in a box: its root as an overlay, what the kernel provides, its name.

For whoever is process 1 of new namespaces. The trap: containerd's snapshots and our images must lie on a
plain directory, not on this overlay.
"""

from __future__ import annotations

import os

import linux

_DEVICES = ("fuse", "full", "kmsg", "null", "random", "tty", "urandom", "userfaultfd", "zero")


def overlay(home: str, part: str, lower: str) -> str:
    """Mount an overlay over `lower` whose changes are kept below `home` as `part`; returns where it is."""
    paths = {kind: f"{home}/{part}.{kind}" for kind in ("upper", "work", "mount")}
    for path in paths.values():
        os.makedirs(path, 0o755, exist_ok=True)
    options = f"lowerdir={lower},upperdir={paths['upper']},workdir={paths['work']}"
    linux.mount("overlay", paths["mount"], "overlay", data=options)
    return paths["mount"]


def kernel_mounts(root: str, hierarchies: dict[str, str]) -> None:
    """Mount what a system needs below `root`: /proc, /sys, /dev, /run, /tmp and its own cgroups.

    `hierarchies`: the cgroups that are to be its roots, by hierarchy, as `cgroups.hierarchies` names them.
    """
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
            bind_at(own, f"{root}/sys/fs/cgroup/{each}")
            for controller in each.split(",")[1:] and each.split(","):
                os.symlink(each, f"{root}/sys/fs/cgroup/{controller}")
    linux.mount("tmpfs", root + "/dev", "tmpfs", linux.MS_NOSUID, "mode=755")
    for device in _DEVICES:
        if os.path.exists(f"/dev/{device}"):
            write(f"{root}/dev/{device}", "")
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


def bind_at(source: str, target: str, *, read_only: bool = False) -> None:
    """Bind the directory `source` at `target`, which is made if need be."""
    os.makedirs(target, exist_ok=True)
    linux.bind(source, target, read_only=read_only)


def write(path: str, text: str) -> None:
    """Replace the file's content by `text`."""
    with open(path, "w") as file:
        file.write(text)


def name_host(root: str, name: str) -> None:
    """Call the system below `root` and this UTS namespace `name`."""
    write(root + "/etc/resolv.conf", "")  # nobody answers in here: an entry costs seconds per look-up
    write(root + "/etc/hostname", name + "\n")
    write(root + "/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n")
    write("/proc/sys/kernel/hostname", name)


def become_root(root: str) -> None:
    """Make `root` the root of this mount namespace, and shared: pods with Bidirectional mounts need that."""
    linux.pivot_root(root)
    linux.mount("", "/", flags=linux.MS_REC | linux.MS_SHARED)
