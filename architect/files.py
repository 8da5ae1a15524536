"""Small files that outlive a process: written whole or not at all, read with a limit, never through a
symbolic link.

The directories are root's alone (0700). Still nothing found in them is trusted to be what it should: a link,
a FIFO that would block the reader, or a file without end is an error, not an adventure.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

__all__ = ["make_private_dirs", "names", "read_whole", "remove_empty", "remove_flat", "sync_directory",
           "write_whole"]  # fmt: skip

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def make_private_dirs(path: str) -> None:
    """Makes directory `path` and what is missing above it, 0700 each. Raises OSError (also for a link at its
    end).
    """
    missing: list[str] = []
    current = path
    while not os.path.lexists(current):
        missing.append(current)
        current = os.path.dirname(current)
    for directory in reversed(missing):
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass  # somebody else was quicker; whether it is a directory is looked at below
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "is no directory", path)


def write_whole(path: str, data: bytes, *, durable: bool) -> None:
    """Replaces file `path` (0600) by `data` in one step: readers see the old or the new content, never a
    mixture.

    `durable`: return only when it would survive the loss of power. Raises OSError.
    """
    fresh = f"{path}.new"  # one writer per file: a leftover of a killed one is simply replaced
    try:
        os.unlink(fresh)
    except FileNotFoundError:
        pass
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
            if durable:
                os.fsync(file.fileno())
        os.rename(fresh, path)
    except OSError:
        os.unlink(fresh)
        raise
    if durable:
        sync_directory(os.path.dirname(path) or ".")


def read_whole(path: str, limit: int) -> bytes:
    """The content of regular file `path`. Raises OSError; EFBIG for more than `limit` bytes, EINVAL for what
    is no file.
    """
    descriptor = os.open(path, _READ)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", path)
        data = bytearray()
        while chunk := os.read(descriptor, min(limit + 1 - len(data), 1 << 20)):
            data += chunk
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"is longer than {limit} bytes", path)
    return bytes(data)


def names(path: str) -> list[str]:
    """The entries of directory `path`, sorted; none when it is gone or no directory. Raises OSError."""
    try:
        return sorted(os.listdir(path)) if not os.path.islink(path) else []
    except (FileNotFoundError, NotADirectoryError):
        return []


def sync_directory(path: str) -> None:
    """Makes the names in directory `path` survive the loss of power. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_empty(path: str, root: str) -> None:
    """Removes the directory `path` and those above it, as far as they are empty and below `root`."""
    while path.startswith(root + "/"):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError:
            return  # somebody else's files
        path = os.path.dirname(path)


def remove_flat(path: str) -> None:
    """Removes a directory of plain files; none there is no error, and what holds directories is left. Raises
    OSError.
    """
    try:
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)
    except (FileNotFoundError, IsADirectoryError):
        return
