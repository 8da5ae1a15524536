"""What CRIU has to be told about a container that runc made: pure functions from its OCI spec and mount
table.

The names of external things follow runc's own (`extRootNetNS`, mount points, `/dev/null` for masked files),
so that `runc restore` can read our images too. Every option is set, none is left to a default or a file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from architect.engine.cgroup import Cgroup
from architect.engine.criu_messages import (
    CgroupMode,
    InheritFd,
    JoinNamespace,
    MountMap,
    NetworkLock,
    Options,
)
from architect.engine.errors import Refused

NETNS_KEY: Final = "extRootNetNS"
MASK: Final = "/dev/null"
FREEZE_SECONDS: Final = 10
GHOST_BYTES: Final = 256 << 20
LOG_LEVEL: Final = 2

# Namespaces of the pod that the container joins by path; CRIU joins them again instead of making new ones.
# Not "ipc": CRIU is in that one itself (see `CriuEngine`), so that it leaves alone what is the pod's.
JOINED: Final = ("uts",)


@dataclass(frozen=True, slots=True)
class Mount:
    """A row of a process's mount table: device, root within its file system, mount point, type, source."""

    device: str
    root: str
    mountpoint: str
    kind: str
    source: str


def mount_table(text: str) -> list[Mount]:
    """Parses the text of `/proc/<pid>/mountinfo`; rows that do not parse are left out."""
    table: list[Mount] = []
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if separator and len(fields) >= 5 and len(kind) >= 2:
            plain = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
            table.append(Mount(fields[2], fields[3], plain, kind[0], kind[1]))
    return table


def namespace_paths(spec: Mapping[str, Any]) -> dict[str, str]:
    """The namespaces that the spec names by path: type to path; "" for those the container has of its own."""
    return {entry["type"]: entry.get("path", "") for entry in spec.get("linux", {}).get("namespaces", [])}


def refusal(spec: Mapping[str, Any], rootfs: str) -> str:
    """Why a container with this spec can not be dumped by CRIU, as a sentence; "" when nothing speaks against
    it.
    """
    spaces = namespace_paths(spec)
    if spec.get("process", {}).get("terminal"):
        return "it has a terminal (tty: true), which CRIU can not give back; set tty: false"
    if "pid" not in spaces or spaces["pid"]:
        return "it shares its process namespace (hostPID or shareProcessNamespace); give it its own"
    if "user" in spaces:
        return "it has a user namespace (hostUsers: false), which is not supported yet"
    if not spaces.get("network"):
        return "it uses the host's network (hostNetwork); packets for it can not be held"
    if spec.get("linux", {}).get("resources", {}).get("devices") and _allows_all_devices(spec):
        return "it is privileged: its devices can not be checkpointed"
    if spec.get("root", {}).get("readonly") and not os.path.isdir(os.path.join(rootfs, "tmp")):
        # CRIU 4.2 changes roots by way of /tmp or a folder that it could not make here: all would be lost.
        return "its root file system is read-only and has no /tmp, which CRIU needs; add that to its image"
    return ""


def _allows_all_devices(spec: Mapping[str, Any]) -> bool:
    """Whether the device rules end in "everything is allowed", as they do for a privileged container."""
    rules = spec["linux"]["resources"]["devices"]
    last = rules[-1]
    return bool(last.get("allow")) and last.get("type", "a") == "a" and "rwm" in last.get("access", "")


def external_mounts(spec: Mapping[str, Any], table: Sequence[Mount], cgroup: Cgroup) -> dict[str, str]:
    """The mounts of a container that come from outside it: mount point to the host path to mount again.

    Bind mounts of the spec with all mounts below them, cgroup v1 mounts, and masked files (to MASK).
    Raises Refused for a mount whose origin can not be told.
    """
    binds = {m["destination"]: m.get("source", "") for m in spec.get("mounts", []) if _is_bind(m)}
    masks = set(spec.get("linux", {}).get("maskedPaths", []))
    external: dict[str, str] = {}
    for mount in table:
        point = mount.mountpoint
        above = _enclosing(point, binds)
        if (
            point in masks and mount.root != "/"
        ):  # a masked file; masked directories are empty tmpfs of its own
            external[point] = MASK
        elif point in binds:
            external[point] = binds[point]
        elif above is not None and point not in masks:
            external[point] = binds[above] + point[len(above) :]
        elif mount.kind == "cgroup":
            external[point] = _cgroup_source(point, cgroup)
    return external


def moved_mounts(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Where the mounts of an image come from in another container, which has those of `now` from outside.

    Both as `external_mounts` tells them. What `now` has beyond them lies below a mount of theirs: what mounts
    there are is asked of the specification. Raises Refused.
    """
    for point, source in before.items():
        if point not in now:
            raise Refused(f"it had something mounted at {point}, and nothing is there now")
        if (source == MASK) != (now[point] == MASK):
            raise Refused(f"{point} was masked in one of them only")
    return {point: now[point] for point in before}


def _is_bind(mount: Mapping[str, Any]) -> bool:
    return mount.get("type") == "bind" or bool({"bind", "rbind"} & set(mount.get("options", [])))


def _enclosing(point: str, binds: Mapping[str, str]) -> str | None:
    """The deepest bind mount that `point` lies below, or None."""
    above = [bind for bind in binds if point.startswith(bind.rstrip("/") + "/")]
    return max(above, key=len, default=None)


def _cgroup_source(point: str, cgroup: Cgroup) -> str:
    names = point.rsplit("/", 1)[-1].split(",")
    for name in names:
        if name in cgroup.paths:
            return cgroup.paths[name]
    raise Refused(f"its cgroup mount {point} belongs to no controller that is mounted on this node")


def _common(root: str) -> Options:
    return Options(
        log_level=LOG_LEVEL,
        notify_scripts=True,
        root=root,
        ext_unix_sk=True,
        tcp_established=True,
        tcp_close=False,
        tcp_skip_in_flight=False,
        evasive_devices=True,
        shell_job=False,
        file_locks=True,
        link_remap=True,
        ghost_limit=GHOST_BYTES,
        orphan_pts_master=True,
        # The cgroup outlives the sleep and belongs to runc: CRIU neither saves nor restores anything of it.
        manage_cgroups=True,
        manage_cgroups_mode=CgroupMode.IGNORE,
        # Our own gate holds the packets; CRIU's lock would drop them and cost every client a retransmit.
        network_lock=NetworkLock.SKIP,
        timeout=FREEZE_SECONDS,
    )


def dump_options(
    *,
    pid: int,
    root: str,
    netns_inode: int,
    freezer: str,
    external: Mapping[str, str],
    watched: Sequence[str],
    image_fd: int,
    log_fd: int,
    final: bool = False,
) -> Options:
    """The options of a dump of process `pid` and all below it, which dies with the success of the dump.

    `watched`: paths in the container of files that are watched (see `watches.py`). `final`: it goes
    elsewhere, its connections end, and those that nobody has accepted yet do not stop it.
    """
    options = _common(root)
    options.tcp_skip_in_flight = final
    options.pid = pid
    options.leave_running = False
    options.images_dir_fd = image_fd
    options.work_dir_fd = log_fd
    options.log_file = "dump.log"
    options.freeze_cgroup = freezer
    options.irmap_scan_paths = list(watched)
    options.external = [f"net[{netns_inode}]:{NETNS_KEY}"]
    options.ext_mnt = [
        MountMap(key=point, value=MASK if source == MASK else point) for point, source in external.items()
    ]
    return options


def restore_options(
    *,
    root: str,
    spaces: Mapping[str, str],
    external: Mapping[str, str],
    image_fd: int,
    log_fd: int,
    netns_fd: int,
    pipes: Mapping[str, int],
    closed: bool,
) -> Options:
    """The options of a restore into the pod's living namespaces; `netns_fd` and `pipes` are numbers in the
    CRIU process.

    `pipes` maps the names of the dumped standard streams ("pipe:[123]") to descriptors of the same pipes.
    `closed`: TCP connections come back closed, as in another pod, with another address, they have to.
    """
    options = _common(root)
    options.tcp_close = closed
    options.images_dir_fd = image_fd
    options.work_dir_fd = log_fd
    options.log_file = "restore.log"
    options.rst_sibling = True
    options.inherit_fd = [InheritFd(key=NETNS_KEY, fd=netns_fd)]
    options.inherit_fd += [InheritFd(key=name, fd=fd) for name, fd in pipes.items()]
    options.join_ns = [JoinNamespace(ns=kind, ns_file=spaces[kind]) for kind in JOINED if spaces.get(kind)]
    named = {MASK if source == MASK else point: source for point, source in external.items()}
    options.ext_mnt = [MountMap(key=name, value=source) for name, source in named.items()]
    return options
