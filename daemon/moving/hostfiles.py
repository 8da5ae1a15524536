"""Directories of the node that others write to, opened without being led astray: by openat2(2), Linux 5.6.

A daemon in a pod sees the node's files below /proc/1/root, where an absolute link would be followed into the
pod; within a root of one's own it is not. What pods can write to is opened through no link at all.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_OPENAT2: Final = 437  # the same on every architecture
_NO_MAGICLINKS: Final = 0x02
_NO_SYMLINKS: Final = 0x04
_BENEATH: Final = 0x08
_IN_ROOT: Final = 0x10
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_libc: Final = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


@contextmanager
def directory(root: str, path: str, below: str = "") -> Iterator[str]:
    """A path, good within the block, of directory `path` in the tree `root`, or of `below` in that.

    Links in `path` are followed within `root`: they are the administrator's. In `below` there may be none.
    Raises OSError.
    """
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = _open(top, path, _IN_ROOT | _NO_MAGICLINKS)
    finally:
        os.close(top)
    if below:
        above = found
        try:
            found = _open(above, below, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS)
        finally:
            os.close(above)
    try:
        yield f"/proc/self/fd/{found}"
    finally:
        os.close(found)


def clear(path: str) -> None:
    """Removes everything in a directory, following no link. Raises OSError."""
    top = os.open(path, _DIRECTORY)
    try:
        with os.scandir(top) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.name, dir_fd=top)
                else:
                    os.unlink(entry.name, dir_fd=top)
    finally:
        os.close(top)


def _open(at: int, path: str, resolve: int) -> int:
    how = _How(_DIRECTORY, 0, resolve)
    name = os.fsencode(path)
    found = int(_libc.syscall(_OPENAT2, at, name, ctypes.byref(how), ctypes.sizeof(how)))
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return found
