"""Mounting and unmounting a container's root file system: mount(2) and umount2(2) through ctypes.

containerd gives the shim the mounts of the snapshot; the shim mounts them on the bundle's `rootfs`.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from architect.ttrpc.containerd import Mount
from architect.ttrpc.server import Code, RpcError

# <linux/mount.h>
_FLAGS: Final[dict[str, int]] = {
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "remount": 32,
    "dirsync": 128,
    "noatime": 1024,
    "nodiratime": 2048,
    "bind": 4096,
    "rbind": 4096 | 16384,
    "unbindable": 1 << 17,
    "private": 1 << 18,
    "rprivate": (1 << 18) | 16384,
    "slave": 1 << 19,
    "rslave": (1 << 19) | 16384,
    "shared": 1 << 20,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
}
_IGNORED: Final = frozenset({"rw", "loop", "defaults", "async", "suid", "dev", "exec", "auto"})
_RDONLY, _REMOUNT, _BIND = 1, 32, 4096
_DETACH: Final = 2
_PAGE: Final = 4096

_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    if result != 0:
        number = ctypes.get_errno()
        raise RpcError(Code.UNKNOWN, f"cannot mount {kind} {source} on {target}: {os.strerror(number)}")


def mount_all(mounts: list[Mount], target: str) -> None:
    """Mounts `mounts` in order on `target`. Raises RpcError when one fails; what was mounted is undone."""
    done = 0
    try:
        for mount in mounts:
            flags, data = 0, []
            for option in mount.options:
                if option in _FLAGS:
                    flags |= _FLAGS[option]
                elif option not in _IGNORED:
                    data.append(option)
            text = ",".join(data)
            if len(text) >= _PAGE:
                raise RpcError(
                    Code.UNIMPLEMENTED,
                    f"the mount options of {target} are longer than a page: too many layers",
                )
            _mount(mount.source, target, mount.type, flags, text)
            done += 1
            if flags & _BIND and flags & _RDONLY:
                _mount("", target, "", flags | _REMOUNT, "")  # the kernel ignores "ro" on the bind itself
    except RpcError:
        for _ in range(done):
            unmount(target)
        raise


def unmount(target: str) -> None:
    """Unmounts everything on `target`, busy or not; nothing mounted there is no error."""
    while _libc.umount2(target.encode(), _DETACH) == 0:
        continue
