"""The messages of CRIU's RPC that we use (criu 4.x, `rpc.proto`): names and field numbers are its wire
contract.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from architect.ttrpc.codec import BOOL, ENUM, INT32, STRING, UINT32, field, message


class RequestType(IntEnum):
    """What a request asks for and what an answer answers."""

    EMPTY = 0
    DUMP = 1
    RESTORE = 2
    NOTIFY = 6
    VERSION = 10


class CgroupMode(IntEnum):
    """How much of the cgroups CRIU itself saves and restores."""

    IGNORE = 0


class NetworkLock(IntEnum):
    """How CRIU keeps packets out while it works."""

    SKIP = 3


@message("ext_mount_map")
@dataclass(slots=True)
class MountMap:
    """An external mount. Dump: mount point to name. Restore: name to the path to mount."""

    key: str = field(1, STRING)
    value: str = field(2, STRING)


@message("inherit_fd")
@dataclass(slots=True)
class InheritFd:
    """A file of the image that is not opened but taken from CRIU's own descriptors."""

    key: str = field(1, STRING)
    fd: int = field(2, INT32)


@message("join_namespace")
@dataclass(slots=True)
class JoinNamespace:
    """A namespace (ipc, uts, ...) that the restored processes join instead of a new one."""

    ns: str = field(1, STRING)
    ns_file: str = field(2, STRING)


@message("criu_opts")
@dataclass(slots=True)
class Options:
    """The options of a dump or a restore. Proto2: what is not set is absent, so every one we mean is set."""

    images_dir_fd: int | None = field(1, INT32, optional=True)
    pid: int | None = field(2, INT32, optional=True)
    leave_running: bool | None = field(3, BOOL, optional=True)
    ext_unix_sk: bool | None = field(4, BOOL, optional=True)
    tcp_established: bool | None = field(5, BOOL, optional=True)
    evasive_devices: bool | None = field(6, BOOL, optional=True)
    shell_job: bool | None = field(7, BOOL, optional=True)
    file_locks: bool | None = field(8, BOOL, optional=True)
    log_level: int | None = field(9, INT32, optional=True)
    log_file: str | None = field(10, STRING, optional=True)
    notify_scripts: bool | None = field(12, BOOL, optional=True)
    root: str | None = field(13, STRING, optional=True)
    work_dir_fd: int | None = field(17, INT32, optional=True)
    link_remap: bool | None = field(18, BOOL, optional=True)
    ext_mnt: list[MountMap] = field(23, MountMap, repeated=True)
    manage_cgroups: bool | None = field(24, BOOL, optional=True)
    rst_sibling: bool | None = field(26, BOOL, optional=True)
    inherit_fd: list[InheritFd] = field(27, InheritFd, repeated=True)
    manage_cgroups_mode: int | None = field(34, ENUM, optional=True)
    ghost_limit: int | None = field(35, UINT32, optional=True)
    irmap_scan_paths: list[str] = field(36, STRING, repeated=True)
    external: list[str] = field(37, STRING, repeated=True)
    join_ns: list[JoinNamespace] = field(39, JoinNamespace, repeated=True)
    freeze_cgroup: str | None = field(44, STRING, optional=True)
    timeout: int | None = field(45, UINT32, optional=True)
    tcp_skip_in_flight: bool | None = field(46, BOOL, optional=True)
    orphan_pts_master: bool | None = field(50, BOOL, optional=True)
    tcp_close: bool | None = field(52, BOOL, optional=True)
    network_lock: int | None = field(64, ENUM, optional=True)


@message("criu_req")
@dataclass(slots=True)
class Request:
    """One request, or the answer to a notification."""

    type: int | None = field(1, ENUM, optional=True)
    opts: Options | None = field(2, Options, optional=True)
    notify_success: bool | None = field(3, BOOL, optional=True)


@message("criu_notify")
@dataclass(slots=True)
class Notify:
    """A stage that CRIU has reached; it waits for our answer."""

    script: str = field(1, STRING)
    pid: int = field(2, INT32)


@message("criu_restore_resp")
@dataclass(slots=True)
class Restored:
    """The host pid of the restored first process."""

    pid: int = field(1, INT32)


@message("criu_version")
@dataclass(slots=True)
class Version:
    """What `criu` answers to VERSION."""

    major: int = field(1, INT32)
    minor: int = field(2, INT32)
    sublevel: int = field(4, INT32)


@message("criu_resp")
@dataclass(slots=True)
class Response:
    """An answer or a notification (type NOTIFY)."""

    type: int = field(1, ENUM)
    success: bool = field(2, BOOL)
    restore: Restored | None = field(4, Restored, optional=True)
    notify: Notify | None = field(5, Notify, optional=True)
    errno: int = field(7, INT32)
    errmsg: str = field(9, STRING)
    version: Version | None = field(10, Version, optional=True)
