"""A tree of files as one stream (`records`): a container's writable layer, or a volume.

Read through descriptors of directories, following no link and leaving no trace (access times stay). What can
not travel is left out and noted; what vanishes or shrinks while it is read is, too: only a tree that nobody
writes to comes over exactly.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from daemon.transfer import records
from daemon.transfer.errors import Refused
from daemon.transfer.records import DATA_BYTES, MAX_DEPTH, Attributes, Kind, Output

MAX_NOTES: Final = 100
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_ANOTHER: Final = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO)
_WHITEOUT: Final = os.makedev(0, 0)


@dataclass(slots=True)
class Packed:
    """What was packed, or unpacked: how many entries, how many bytes of data, and what did not travel."""

    entries: int = 0
    size: int = 0
    notes: list[str] = field(default_factory=list)

    def note(self, path: bytes, sentence: str) -> None:
        """`path` did not travel as it was."""
        if len(self.notes) < MAX_NOTES:
            self.notes.append(f"{os.fsdecode(path).encode('ascii', 'backslashreplace').decode()} {sentence}")


def pack(root: str, output: Output, *, layer: bool) -> Packed:
    """Writes the tree below directory `root`, and its own attributes, to `output`.

    `layer`: it is the upper directory of an overlay, with whiteouts and the like; else a volume. Blocks.
    Raises OSError, Refused when it is nested too deep.
    """
    return _Packing(output, layer).run(root)


class _Packing:
    def __init__(self, output: Output, layer: bool) -> None:
        self._output = output
        self._layer = layer
        self._packed = Packed()
        self._device = 0
        self._numbers = count()
        self._shared: dict[int, int] = {}
        """Inode to its number, of what has several names."""

    def run(self, root: str) -> Packed:
        top = _open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            status = os.fstat(top)
            self._device = status.st_dev
            self._output.write(records.MAGIC)
            records.write(
                self._output, Kind.ROOT, body=self._attributes(status, f"/proc/self/fd/{top}", b".")
            )
            self._directory(top, b"", 1)
        finally:
            os.close(top)
        totals = records.totals(self._packed.entries, self._packed.size)
        records.write(self._output, Kind.END, body=totals)
        return self._packed

    def _directory(self, directory: int, path: bytes, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Refused(f"{path[:200]!a} is nested deeper than {MAX_DEPTH} directories")
        for name in sorted(map(os.fsencode, os.listdir(directory))):
            inner = path + b"/" + name if path else name
            try:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                self._entry(directory, name, status, inner, depth)
            except OSError as error:
                if error.errno not in _ANOTHER:
                    raise
                self._packed.note(inner, "was replaced or removed while it was read")

    def _entry(self, directory: int, name: bytes, status: os.stat_result, path: bytes, depth: int) -> None:
        if status.st_dev != self._device:
            self._packed.note(path, "is another file system")
            return
        if self._layer and stat.S_ISCHR(status.st_mode) and status.st_rdev == _WHITEOUT:
            self._begin(Kind.WHITEOUT, name)
            return
        if stat.S_ISDIR(status.st_mode):
            self._subdirectory(directory, name, path, depth)
            return
        if status.st_ino in self._shared:
            self._begin(Kind.LINK, name, records.number(self._shared[status.st_ino]))
            return
        place = f"/proc/self/fd/{directory}/{os.fsdecode(name)}"
        if stat.S_ISREG(status.st_mode):
            self._file(directory, name, path)
        elif stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=directory)
            self._begin(Kind.SYMLINK, name, self._attributes(status, place, path, rest=target))
            self._share(status)
        elif stat.S_ISFIFO(status.st_mode):
            self._begin(Kind.FIFO, name, self._attributes(status, place, path))
            self._share(status)
        elif stat.S_ISSOCK(status.st_mode):
            self._packed.note(path, "is a socket, which only its process can make anew")
        else:
            self._packed.note(path, "is a device")

    def _subdirectory(self, directory: int, name: bytes, path: bytes, depth: int) -> None:
        descriptor = _open(name, _DIRECTORY, directory)
        try:
            status = os.fstat(descriptor)
            body = self._attributes(status, f"/proc/self/fd/{descriptor}", path)
            self._begin(Kind.DIR, name, body)
            self._directory(descriptor, path, depth + 1)
        finally:
            os.close(descriptor)
        records.write(self._output, Kind.UP)

    def _file(self, directory: int, name: bytes, path: bytes) -> None:
        descriptor = _open(name, _FILE, directory)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                self._packed.note(path, "was replaced or removed while it was read")
                return
            body = self._attributes(status, f"/proc/self/fd/{descriptor}", path, size=status.st_size)
            self._begin(Kind.FILE, name, body)
            self._share(status)
            self._content(descriptor, status.st_size, path)
        finally:
            os.close(descriptor)

    def _content(self, descriptor: int, size: int, path: bytes) -> None:
        at = 0
        while at < size:
            try:
                at = os.lseek(descriptor, at, os.SEEK_DATA)
                end = min(os.lseek(descriptor, at, os.SEEK_HOLE), size)
            except OSError:  # ENXIO: a hole up to the end
                return
            while at < end:
                content = os.pread(descriptor, min(DATA_BYTES, end - at), at)
                if not content:
                    self._packed.note(path, "became shorter while it was read")
                    return
                records.write(self._output, Kind.DATA, body=records.data(at, content))
                self._packed.size += len(content)
                at += len(content)

    def _begin(self, kind: Kind, name: bytes, body: bytes = b"") -> None:
        records.write(self._output, kind, name, body)
        self._packed.entries += 1

    def _share(self, status: os.stat_result) -> None:
        if status.st_nlink > 1:
            self._shared[status.st_ino] = next(self._numbers)

    def _attributes(
        self, status: os.stat_result, place: str, path: bytes, *, size: int = 0, rest: bytes = b""
    ) -> bytes:
        follow = not stat.S_ISLNK(status.st_mode)
        xattrs: list[tuple[str, bytes]] = []
        for name in _xattrs(place, follow):
            if records.travels(name, layer=self._layer):
                xattrs.append((name, os.getxattr(place, name, follow_symlinks=follow)))
            elif records.worth_a_note(name):
                self._packed.note(path, f"has the attribute {name}, which stays here")
        found = Attributes(
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            modified=status.st_mtime_ns,
            accessed=status.st_atime_ns,
            size=size,
            shared=status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode),
            xattrs=tuple(xattrs),
        )
        try:
            return records.attributes(found, rest)
        except ValueError as error:
            raise Refused(f"{path[:200]!a} {error}") from error


def _open(name: str | bytes, flags: int, directory: int | None = None) -> int:
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=directory)
    except PermissionError:  # another one's, and we are not root
        return os.open(name, flags, dir_fd=directory)


def _xattrs(place: str, follow: bool) -> list[str]:
    try:
        return sorted(os.listxattr(place, follow_symlinks=follow))
    except OSError:  # the file system has none
        return []
