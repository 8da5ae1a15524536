"""Where a parcel arrives: a private directory beside its last place, proved piece by piece, then renamed.

    <into>.partial/<name>...   while it arrives; the next fetch goes on with what a killed one has left
    <into>/<name>...           all of it, every digest right; not durable yet

A piece that comes in order is hashed as it is written. All others, as holes and the halves that an earlier
connection or process has left, are read back: it does not matter who wrote them.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, Self

from architect.files import make_private_dirs
from architect.images.manifest import MAX_FILE_BYTES, MAX_FILES, PIECE, pieces
from daemon.transfer.contents import Contents, checked_name
from daemon.transfer.errors import Corrupt, NoSpace, Refused

PARTIAL: Final = ".partial"
_THREADS: Final = 2
_BUFFER: Final = 256 << 10
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Landing:
    """A parcel that arrives. To be used by one thread, as a context."""

    def __init__(self, into: str, limit: int) -> None:
        """`limit`: bytes that all files may have together, holes included.

        Raises Refused when something is there already or is being fetched to there; NoSpace, OSError.
        """
        self.path = f"{into}{PARTIAL}"
        self.bytes = 0
        self._into = into
        self._limit = limit
        self._sizes: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._open: tuple[int, int] | None = None
        self._proofs: dict[tuple[str, int], str | Future[str]] = {}
        """Digests of pieces, by file and number."""
        self._piece: tuple[str, int, hashlib._Hash] | None = None
        """File and offset up to which the piece that is written at present is hashed."""
        if os.path.lexists(into):
            raise Refused(f"{into} exists already")
        with _disk(self.path):
            make_private_dirs(self.path)
            self._root = os.open(self.path, _DIRECTORY)
        try:
            fcntl.flock(self._root, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._look()
        except BlockingIOError:
            os.close(self._root)
            raise Refused(f"{into} is being fetched already") from None
        except BaseException:
            os.close(self._root)
            raise
        self._pool = ThreadPoolExecutor(_THREADS, "transfer digest")
        for name, size in self._sizes.items():
            for number in range(size // PIECE):
                self._prove(name, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_file()
        self._pool.shutdown(cancel_futures=True)
        os.close(self._root)

    @property
    def have(self) -> dict[str, int]:
        """Bytes of each file that are here."""
        return dict(self._sizes)

    def again(self) -> None:
        """A new connection: its numbers of files are its own."""
        self._close_file()
        self._names.clear()

    def begin(self, number: int, name: str) -> None:
        """File `number` is `name`. Raises Corrupt, NoSpace, OSError."""
        try:
            checked_name(name)
        except ValueError as error:
            raise Corrupt(str(error)) from None
        if name not in self._sizes and len(self._sizes) >= MAX_FILES:
            raise Corrupt(f"more than {MAX_FILES} files came")
        if number >= MAX_FILES or number in self._names:
            raise Corrupt(f"file {number} came twice, or is one too many")
        self._names[number] = name
        self._descriptor(number)
        self._sizes.setdefault(name, 0)

    def data(self, number: int, offset: int, data: bytes | memoryview) -> None:
        """The next bytes of a file. Raises Corrupt, NoSpace, OSError."""
        name = self._place(number, offset, len(data))
        with _disk(self.path):
            descriptor = self._descriptor(number)
            left = memoryview(data)
            at = offset
            while left:
                count = os.pwrite(descriptor, left, at)
                left = left[count:]
                at += count
        self._hash(name, offset, memoryview(data))
        self._grown(name, offset + len(data))

    def hole(self, number: int, offset: int, length: int) -> None:
        """The next bytes of a file are zeros. Raises as `data` does."""
        name = self._place(number, offset, length)
        with _disk(self.path):
            os.ftruncate(self._descriptor(number), offset + length)
        self._grown(name, offset + length)

    def settle(self, contents: Contents) -> str:
        """Proves that all of `contents` is here, and removes what is not of it.

        Returns "" when all is right. Else what is wrong; it is taken back as far as it has to come again.
        Raises NoSpace when it is more than may come, OSError.
        """
        if sum(file.size for file in contents.values()) > self._limit:
            raise NoSpace(f"the parcel is larger than the {self._limit} bytes that were announced")
        for name in self._sizes.keys() - contents.keys():
            os.unlink(f"{self.path}/{name}")
            self._shrunk(name, 0)
            del self._sizes[name]
        wrong = ""
        for name, file in contents.items():
            if self._sizes.get(name, 0) > file.size:
                self._truncate(name, file.size)
            for number in range(pieces(min(self._sizes.get(name, 0), file.size))):
                self._prove(name, number)
        for name, file in contents.items():
            bad = next((n for n, each in enumerate(file.sha256) if not self._is(name, n, each)), None)
            if bad is not None:
                wrong = f"{name} has changed at byte {bad * PIECE} or after"
                self._truncate(name, min(bad * PIECE, self._sizes.get(name, 0)))
            elif name not in self._sizes:
                wrong = f"{name} has not come"
        return wrong

    def complete(self) -> None:
        """It is right: puts it in its last place, in one step. Raises OSError."""
        self._close_file()
        os.rename(self.path, self._into)

    def _look(self) -> None:
        """What an earlier fetch left; anything that is not a parcel's file is removed with all the rest."""
        try:
            self._sizes = dict(_files(self._root, "", 0))
        except ValueError:
            _empty(self.path)
        self.bytes = sum(self._sizes.values())
        if self.bytes > self._limit:
            _empty(self.path)
            self._sizes, self.bytes = {}, 0

    def _place(self, number: int, offset: int, length: int) -> str:
        name = self._names.get(number)
        if name is None:
            raise Corrupt(f"bytes of an unknown file {number} came")
        if offset > self._sizes[name] or offset + length > MAX_FILE_BYTES:
            raise Corrupt(f"bytes {offset} to {offset + length} of {name} came after {self._sizes[name]}")
        if offset < self._sizes[name]:
            self._truncate(name, offset)
        if self.bytes + length > self._limit:
            raise NoSpace(f"the parcel is larger than the {self._limit} bytes that were announced")
        return name

    def _grown(self, name: str, size: int) -> None:
        before = self._sizes[name]
        self.bytes += size - before
        self._sizes[name] = size
        for number in range(before // PIECE, size // PIECE):
            self._prove(name, number)

    def _hash(self, name: str, offset: int, data: memoryview) -> None:
        """Hashes what was written, as long as it comes in order: it is in the processor's cache still."""
        while data:
            if offset % PIECE == 0:
                self._piece = name, offset, hashlib.sha256(usedforsecurity=False)
            part = data[: PIECE - offset % PIECE]
            data = data[len(part) :]
            if self._piece is not None and self._piece[:2] == (name, offset):
                found = self._piece[2]
                found.update(part)
                self._piece = name, offset + len(part), found
                if (offset + len(part)) % PIECE == 0:
                    self._proofs[name, offset // PIECE] = found.hexdigest()
            offset += len(part)

    def _truncate(self, name: str, size: int) -> None:
        if name not in self._sizes:
            return
        self._close_file()
        os.truncate(f"{self.path}/{name}", size)
        self._shrunk(name, size)

    def _shrunk(self, name: str, size: int) -> None:
        self._piece = None
        for number in range(size // PIECE, pieces(self._sizes[name])):
            self._proofs.pop((name, number), None)
        self.bytes -= self._sizes[name] - size
        self._sizes[name] = size

    def _prove(self, name: str, number: int) -> None:
        if (name, number) not in self._proofs:
            length = min(PIECE, self._sizes[name] - number * PIECE)
            path = f"{self.path}/{name}"
            self._proofs[name, number] = self._pool.submit(_digest, path, number * PIECE, length)

    def _is(self, name: str, number: int, wanted: str) -> bool:
        proof = self._proofs.get((name, number), "")
        return wanted == (proof if isinstance(proof, str) else proof.result())

    def _descriptor(self, number: int) -> int:
        if self._open is not None and self._open[0] == number:
            return self._open[1]
        self._close_file()
        *folders, base = self._names[number].split("/")
        with _disk(self.path), _descended(self._root, folders) as directory:
            descriptor = os.open(base, _FILE, 0o600, dir_fd=directory)
        self._open = number, descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Corrupt(f"{self._names[number]} is no regular file here")
        return descriptor

    def _close_file(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None


def discard(into: str) -> None:
    """Removes what an unfinished fetch to `into` has left; nothing there is no error. Raises OSError."""
    try:
        shutil.rmtree(f"{into}{PARTIAL}")
    except FileNotFoundError:
        return


@contextmanager
def _disk(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpace(f"the parcel does not fit where {path} is: {error.strerror}") from error
        if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ELOOP):
            raise Corrupt(f"a name of the parcel is a file and a directory: {error.strerror}") from error
        raise


@contextmanager
def _descended(root: int, folders: list[str]) -> Iterator[int]:
    """A descriptor of a directory below `root`, made if need be, found without following a link."""
    current = os.dup(root)
    try:
        for folder in folders:
            try:
                os.mkdir(folder, 0o700, dir_fd=current)
            except FileExistsError:
                pass  # whether it is a directory, the next line finds out
            deeper = os.open(folder, _DIRECTORY, dir_fd=current)
            os.close(current)
            current = deeper
        yield current
    finally:
        os.close(current)


def _files(directory: int, prefix: str, depth: int) -> Iterator[tuple[str, int]]:
    """Name and size of each file below; ValueError for what no parcel has."""
    for name in os.listdir(directory):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        checked_name(prefix + name)
        if stat.S_ISREG(status.st_mode):
            yield prefix + name, status.st_size
        elif stat.S_ISDIR(status.st_mode):
            descriptor = os.open(name, _DIRECTORY, dir_fd=directory)
            try:
                yield from _files(descriptor, f"{prefix}{name}/", depth + 1)
            finally:
                os.close(descriptor)
        else:
            raise ValueError(f"{name} is no file")


def _empty(path: str) -> None:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def _digest(path: str, offset: int, length: int) -> str:
    """Of a part of a file; "" when the file is shorter by now."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        try:
            if os.lseek(descriptor, offset, os.SEEK_DATA) >= offset + length:
                return _zeros(length)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if os.fstat(descriptor).st_size >= offset + length:
                return _zeros(length)
            return ""
        found = hashlib.sha256(usedforsecurity=False)
        buffer = memoryview(bytearray(_BUFFER))
        end = offset + length
        while offset < end:
            count = os.preadv(descriptor, [buffer[: min(_BUFFER, end - offset)]], offset)
            if count == 0:
                return ""
            found.update(buffer[:count])
            offset += count
        return found.hexdigest()
    finally:
        os.close(descriptor)


@functools.lru_cache(maxsize=4)
def _zeros(length: int) -> str:
    return hashlib.sha256(bytes(length), usedforsecurity=False).hexdigest()
