"""A tree of files out of a pack, below a directory that exists. Nothing the pack says is believed.

Every entry is made by its one name in a directory that is held open, never through a path; a link that is
there, or comes, is replaced and never followed, so that even somebody who can write into the tree meanwhile
gains nothing by it. What is there under a name that comes is replaced, directories are merged, other things
stay.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from typing import Final

from daemon.transfer import records
from daemon.transfer.errors import Corrupt, NoSpace
from daemon.transfer.pack import Packed
from daemon.transfer.records import MAX_DEPTH, MAX_TARGET, Attributes, Input, Kind, Record

MAX_ENTRIES: Final = 1 << 21
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACE: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_HERE: Final = (errno.ENOTSUP, errno.EINVAL, errno.EPERM, errno.ERANGE, errno.E2BIG)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def unpack(path: str, root: str, *, layer: bool, limit: int, entries: int = MAX_ENTRIES) -> Packed:
    """Makes what the pack in file `path` holds below directory `root`, and gives `root` its attributes.

    `layer`: as when it was packed; a volume has no whiteouts. At most `limit` bytes of data and so many
    `entries`. Blocks. Raises Corrupt, NoSpace, OSError; what was made until then is the caller's to remove.
    """
    with open(path, "rb", buffering=1 << 20) as source:
        return unpack_from(source, root, layer=layer, limit=limit, entries=entries)


def unpack_from(source: Input, root: str, *, layer: bool, limit: int, entries: int = MAX_ENTRIES) -> Packed:
    """`unpack`, of an open file."""
    unpacking = _Unpacking(source, layer, limit, entries)
    try:
        unpacking.run(root)
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(f"the pack does not fit below {root}: {error.strerror}") from error
        raise
    finally:
        unpacking.close()
    return unpacking.made


class _Unpacking:
    def __init__(self, source: Input, layer: bool, limit: int, entries: int) -> None:
        self.made = Packed()
        self._source = source
        self._layer = layer
        self._limit = limit
        self._entries = entries
        self._above: list[tuple[int, bytes, Attributes]] = []
        """Directories that are open, from the root on: descriptor, name, what they will get when they are
        left.
        """
        self._shared: list[tuple[tuple[bytes, ...], int]] = []
        """By its number, where what may get further names is: components below the root, inode."""

    def run(self, root: str) -> None:
        if records.exactly(self._source, len(records.MAGIC)) != records.MAGIC:
            raise Corrupt("this is no pack, or one of another version")
        first = records.read(self._source)
        if first.kind != Kind.ROOT:
            raise Corrupt(f"the pack begins with {first.kind.name}")
        found = self._attributes(first)
        self._above.append((os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), b"", found))
        record = records.read(self._source)
        while record.kind != Kind.END:
            record = self._entry(record)
        if len(self._above) != 1:
            raise Corrupt("the pack ends within a directory")
        if record.body != records.totals(self.made.entries, self.made.size) or self._source.read(1):
            raise Corrupt("the pack does not hold what its end says")
        self._leave()

    def close(self) -> None:
        while self._above:
            os.close(self._above.pop()[0])

    @property
    def _here(self) -> int:
        return self._above[-1][0]

    def _entry(self, record: Record) -> Record:
        """Makes what a record says; returns the record after it."""
        if record.kind == Kind.UP:
            if len(self._above) == 1:
                raise Corrupt("the pack leaves more directories than it has entered")
            self._leave()
            return records.read(self._source)
        self.made.entries += 1
        if self.made.entries > self._entries:
            raise Corrupt(f"the pack has more than {self._entries} entries")
        match record.kind:
            case Kind.DIR:
                self._enter(record)
            case Kind.FILE:
                return self._file(record)
            case Kind.SYMLINK | Kind.FIFO:
                self._special(record)
            case Kind.WHITEOUT if self._layer:
                self._vacate(record.name)
                os.mknod(record.name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=self._here)
            case Kind.LINK:
                self._link(record)
            case _:
                raise Corrupt(f"the pack has {record.kind.name} where it does not belong")
        return records.read(self._source)

    def _enter(self, record: Record) -> None:
        if len(self._above) >= MAX_DEPTH:
            raise Corrupt(f"the pack is nested deeper than {MAX_DEPTH} directories")
        found = self._attributes(record)
        try:
            os.mkdir(record.name, 0o700, dir_fd=self._here)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(record.name, dir_fd=self._here, follow_symlinks=False).st_mode):
                os.unlink(record.name, dir_fd=self._here)
                os.mkdir(record.name, 0o700, dir_fd=self._here)
        descriptor = os.open(record.name, _DIRECTORY, dir_fd=self._here)
        self._above.append((descriptor, record.name, found))

    def _leave(self) -> None:
        # Last of all: filling a directory changes its times, and its mode may forbid to.
        descriptor, name, found = self._above.pop()
        try:
            self._give(f"/proc/self/fd/{descriptor}", name or b".", found)
        finally:
            os.close(descriptor)

    def _file(self, record: Record) -> Record:
        found = self._attributes(record)
        self._vacate(record.name)
        descriptor = os.open(record.name, _NEW, 0o600, dir_fd=self._here)
        try:
            after = self._content(descriptor, found.size)
            os.ftruncate(descriptor, found.size)
            self._give(f"/proc/self/fd/{descriptor}", record.name, found)
            self._share(record.name, found, descriptor)
        finally:
            os.close(descriptor)
        return after

    def _content(self, descriptor: int, size: int) -> Record:
        end = 0
        while (record := records.read(self._source)).kind == Kind.DATA:
            offset, content = records.read_data(record)
            if offset < end or offset + len(content) > size:
                raise Corrupt(f"the pack has bytes {offset} to {offset + len(content)} of a file of {size}")
            self.made.size += len(content)
            if self.made.size > self._limit:
                raise NoSpace(f"the pack holds more than the {self._limit} bytes that were announced")
            end = offset
            while content:
                count = os.pwrite(descriptor, content, end)
                content = content[count:]
                end += count
        return record

    def _special(self, record: Record) -> None:
        found, target = records.read_attributes(record, layer=self._layer)
        if found.size or (record.kind == Kind.FIFO and target):
            raise Corrupt(f"the pack has a {record.kind.name} record with more in it than that")
        self._vacate(record.name)
        if record.kind == Kind.FIFO:
            os.mkfifo(record.name, 0o600, dir_fd=self._here)
        else:
            if not target or b"\0" in target or len(target) > MAX_TARGET:
                raise Corrupt("the pack has a symbolic link that leads nowhere")
            os.symlink(target, record.name, dir_fd=self._here)
        descriptor = os.open(record.name, _PLACE, dir_fd=self._here)
        try:
            kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
            if kind != (stat.S_IFIFO if record.kind == Kind.FIFO else stat.S_IFLNK):
                raise Corrupt("somebody else writes into the tree")
            # Through the descriptor: it is what was made, whoever has renamed it since.
            self._give(f"/proc/self/fd/{descriptor}", record.name, found, link=record.kind == Kind.SYMLINK)
            self._share(record.name, found, descriptor)
        finally:
            os.close(descriptor)

    def _link(self, record: Record) -> None:
        number = records.read_number(record)
        if number >= len(self._shared):
            raise Corrupt("the pack has a further name for what has not come")
        (*folders, name), inode = self._shared[number]
        directory = os.dup(self._above[0][0])
        try:
            for folder in folders:
                deeper = os.open(folder, _DIRECTORY, dir_fd=directory)
                os.close(directory)
                directory = deeper
            if os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino != inode:
                raise Corrupt("the pack replaces what it has a further name for")
            self._vacate(record.name)
            os.link(name, record.name, src_dir_fd=directory, dst_dir_fd=self._here, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Corrupt("the pack replaces what it has a further name for") from error
        finally:
            os.close(directory)

    def _share(self, name: bytes, found: Attributes, descriptor: int) -> None:
        if found.shared:
            folders = tuple(each[1] for each in self._above[1:])
            self._shared.append(((*folders, name), os.fstat(descriptor).st_ino))

    def _vacate(self, name: bytes) -> None:
        try:
            os.unlink(name, dir_fd=self._here)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            shutil.rmtree(os.fsdecode(name), dir_fd=self._here)

    def _attributes(self, record: Record) -> Attributes:
        found, rest = records.read_attributes(record, layer=self._layer)
        if rest or (found.size and record.kind != Kind.FILE):
            raise Corrupt(f"the pack has a {record.kind.name} record with more in it than that")
        return found

    def _give(self, place: str, name: bytes, found: Attributes, *, link: bool = False) -> None:
        # In this order: a new owner takes set-user-id bits and capabilities away.
        os.chown(place, found.uid, found.gid)
        for key, value in found.xattrs:
            try:
                os.setxattr(place, key, value)
            except OSError as error:
                # What overlayfs notes is content: without it, what was deleted would be there again.
                if key.startswith("trusted.") or error.errno not in _NOT_HERE:
                    raise
                self.made.note(name, f"can not have the attribute {key} here: {error.strerror}")
        if not link:
            os.chmod(place, found.mode)
        os.utime(place, ns=(found.accessed, found.modified))
