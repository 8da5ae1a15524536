"""The few kernel calls that a box needs and Python 3.10 does not have: mount, umount, unshare, pivot_root.

Failures are OSError with the path in it. Constants are those of <linux/mount.h> and <linux/sched.h>.
"""

from __future__ import annotations

import ctypes
import os

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 0x2
CLONE_NEWCGROUP = 0x02000000
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}  # system call numbers; glibc has no wrapper

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount, as in the manual of that system call."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    _checked(result, f"mount {kind or 'bind'} {source} on {target}")


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Bind `source` over `target`, with what is mounted under it; read-only holds for the top mount."""
    mount(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def detach(target: str) -> None:
    """Unmount `target` and everything under it, even when in use."""
    _checked(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def unshare(flags: int) -> None:
    """Leave the namespaces `flags` names for new ones."""
    _checked(_libc.unshare(flags), "unshare")


def pivot_root(root: str) -> None:
    """Make the mount at `root` this mount namespace's root and let go of the old one."""
    os.chdir(root)
    # The same directory twice stacks the old root over the new one: pivot_root(2), "pivot_root(".", ".")".
    _checked(_libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), f"pivot_root {root}")
    detach(".")
    os.chdir("/")
