"""A container's writable layer: where it is, and how it becomes another container's.

It is the upper directory of an overlay. Whiteouts are devices 0:0, opaque and renamed folders bear extended
attributes (trusted.overlay.*): copied as they are, they mean the same over the same lower layers. The trap:
the kernel forbids changes to an upper directory under a mounted overlay, so this is done while none is.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Sequence
from typing import Final

from architect.ttrpc.containerd import Mount

MAX_DEPTH: Final = 200
"""Folders in folders: a deeper layer is nobody's honest work, and the interpreter's stack ends."""
_PIECE: Final = 64 << 20
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def of(mounts: Sequence[Mount]) -> tuple[str, str]:
    """The writable layer in the mounts of a root file system, and a digest of what it lies on; ("", "") for
    anything but one overlay.
    """
    if len(mounts) != 1 or mounts[0].type != "overlay":
        return "", ""
    options = dict(option.partition("=")[::2] for option in mounts[0].options)
    upper, lower = options.get("upperdir", ""), options.get("lowerdir", "")
    if not upper.startswith("/"):
        return "", ""
    return upper, "sha256:" + hashlib.sha256(lower.encode("utf-8", "surrogateescape")).hexdigest()


class TooSlow(Exception):
    """The layer was not copied within its time."""


def carry(source: str, target: str, seconds: float) -> None:
    """Makes directory `target` what directory `source` is: content, owners, modes, times, attributes, hard
    links, devices, holes.

    What is in `target` is removed first. Blocks; no link is followed. Raises OSError, TooSlow; what is in
    `target` then is incomplete.
    """
    clear(target)
    _Copy(time.monotonic() + seconds).folder(source, target, 0)


def clear(target: str) -> None:
    """Removes everything in a directory. Raises OSError."""
    with os.scandir(target) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                clear(entry.path)
                os.rmdir(entry.path)
            else:
                os.unlink(entry.path)


class _Copy:
    """One copy; hard links within it are links in it again."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._links: dict[tuple[int, int], str] = {}

    def folder(self, source: str, target: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise OSError(errno.ELOOP, f"is nested deeper than {MAX_DEPTH} directories", source)
        with os.scandir(source) as entries:
            for entry in entries:
                self._in_time()
                self._entry(entry.path, f"{target}/{entry.name}", depth)
        _dress(source, target, os.lstat(source))  # last: what is made in it changes its times

    def _entry(self, source: str, target: str, depth: int) -> None:
        about = os.lstat(source)
        if stat.S_ISDIR(about.st_mode):
            os.mkdir(target, 0o700)
            self.folder(source, target, depth + 1)
            return
        twin = self._links.get((about.st_dev, about.st_ino))
        if twin is not None:
            os.link(twin, target, follow_symlinks=False)
            return
        if about.st_nlink > 1:
            self._links[about.st_dev, about.st_ino] = target
        if stat.S_ISREG(about.st_mode):
            self._file(source, target, about.st_size)
        elif stat.S_ISLNK(about.st_mode):
            os.symlink(os.readlink(source), target)
        else:  # a device (a whiteout is one), a FIFO, a socket's name
            os.mknod(target, about.st_mode, about.st_rdev)
        _dress(source, target, about)

    def _file(self, source: str, target: str, size: int) -> None:
        """Copies the content, holes as holes; a file system that can shares the blocks."""
        reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME)
        try:
            writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(writer, size)
                start = _next(reader, 0, os.SEEK_DATA)
                while start < size:
                    end = _next(reader, start, os.SEEK_HOLE)
                    while start < end:
                        self._in_time()
                        moved = os.copy_file_range(reader, writer, min(end - start, _PIECE), start, start)
                        if moved == 0:
                            raise OSError(errno.EIO, "ends before its size", source)
                        start += moved
                    start = _next(reader, end, os.SEEK_DATA)
            finally:
                os.close(writer)
        finally:
            os.close(reader)

    def _in_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise TooSlow


def _next(descriptor: int, start: int, what: int) -> int:
    """Where the next data, or hole, begins; beyond every file when there is none."""
    try:
        return os.lseek(descriptor, start, what)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return 1 << 62


def _dress(source: str, target: str, about: os.stat_result) -> None:
    """Gives `target` the owner, mode, attributes and times of `source`, in an order in which none undoes
    another.
    """
    os.lchown(target, about.st_uid, about.st_gid)
    if not stat.S_ISLNK(about.st_mode):
        os.chmod(target, stat.S_IMODE(about.st_mode))
    wanted = os.listxattr(source, follow_symlinks=False)
    for name in wanted:
        value = os.getxattr(source, name, follow_symlinks=False)
        os.setxattr(target, name, value, follow_symlinks=False)
    os.utime(target, ns=(about.st_atime_ns, about.st_mtime_ns), follow_symlinks=False)


def sync(layer: str) -> None:
    """Returns when the layer would survive the loss of power. Raises OSError."""
    for folder, _, names, descriptor in os.fwalk(layer, follow_symlinks=False):
        for name in names:
            about = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISREG(about.st_mode):
                _sync(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, descriptor)
        _sync(folder, _DIRECTORY, None)


def _sync(name: str, flags: int, directory: int | None) -> None:
    descriptor = os.open(name, flags, dir_fd=directory)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
