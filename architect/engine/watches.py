"""Files that processes watch (inotify, fanotify): where they lie, and whether events wait to be read.

CRIU 4.2 finds a watched file by its handle, which overlayfs, a container's root, does not open; then it looks
for the inode in the places that it is told. Events that nobody has read yet it drops with a warning.
"""

from __future__ import annotations

import ctypes
import os
import select
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from architect.engine.undumpable import inner_pid

_KINDS: Final = ("anon_inode:inotify", "anon_inode:[fanotify]")
_PIDFD_GETFD: Final = 438  # the same number on every architecture (pidfd_getfd(2))
_ENTRIES_MAX: Final = 50_000
"""So many names are looked through: some 50 ms, which the container spends frozen."""


def unread(pids: Iterable[int]) -> str:
    """A sentence about the first process with an event that it has not read; "" for none."""
    for pid, number in _watchers(pids):
        if _readable(pid, number):
            return f"its process {inner_pid(pid)} has not read yet what became of a file that it watches"
    return ""


def places(pids: Iterable[int]) -> list[str]:
    """The paths in the container of watched files of its root file system, as far as they are found."""
    watchers = list(_watchers(pids))
    if not watchers:
        return []
    root = f"/proc/{watchers[0][0]}/root"
    device = os.stat(root).st_dev
    wanted = {inode for pid, number in watchers for inode in _inodes(pid, number, device)}
    return _found(root, device, wanted) if wanted else []


def _watchers(pids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The (pid, descriptor) of everything that watches files."""
    for pid in pids:
        try:
            numbers = [int(name) for name in os.listdir(f"/proc/{pid}/fd")]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        for number in numbers:
            try:
                if os.readlink(f"/proc/{pid}/fd/{number}") in _KINDS:
                    yield pid, number
            except OSError:
                continue


def _readable(pid: int, number: int) -> bool:
    """Whether something can be read from a descriptor of another process. Raises OSError."""
    process = os.pidfd_open(pid)
    try:
        twin = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, process, number, 0)
    finally:
        os.close(process)
    if twin < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"descriptor {number} of process {pid} cannot be looked at: {os.strerror(code)}")
    try:
        poll = select.poll()
        poll.register(twin, select.POLLIN)
        return bool(poll.poll(0))
    finally:
        os.close(twin)


def _inodes(pid: int, number: int, device: int) -> Iterator[int]:
    """The inodes of `device` in a row such as "inotify wd:1 ino:280120 sdev:6f ..." (numbers in hex)."""
    with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii", errors="replace") as file:
        for line in file:
            fields = dict(part.split(":", 1) for part in line.split() if ":" in part)
            if line.startswith(("inotify", "fanotify")) and {"ino", "sdev"} <= fields.keys():
                kernel = int(fields["sdev"], 16)  # twelve bits of major, twenty of minor
                if os.makedev(kernel >> 20, kernel & 0xFFFFF) == device:
                    yield int(fields["ino"], 16)


def _found(root: str, device: int, wanted: set[int]) -> list[str]:
    """Looks for inodes, the shallow places first; what lies on other devices is passed by."""
    missing = set(wanted)
    found = []
    if os.stat(root).st_ino in missing:
        missing.discard(os.stat(root).st_ino)
        found.append("/.")
    folders, seen = deque([""]), 0
    while folders and missing and seen < _ENTRIES_MAX:
        folder = folders.popleft()
        try:
            entries = list(os.scandir(f"{root}{folder}/"))
        except OSError:
            continue  # not ours to read, or gone
        seen += len(entries)
        for entry in entries:
            path = f"{folder}/{entry.name}"
            about = entry.stat(follow_symlinks=False) if entry.inode() in missing else None
            if about is not None and (about.st_dev, about.st_ino) == (device, entry.inode()):
                missing.discard(entry.inode())
                found.append(path)
            if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_dev == device:
                folders.append(path)
    return found
