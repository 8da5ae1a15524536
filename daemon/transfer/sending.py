"""One connection, from the side that has the parcel: reads, compresses and sends what is not there yet.

Two threads and a short line between them: one reads and compresses the next chunks while the other sends.
A chunk is compressed when the line is full, for then the network is slower than we are and the time costs
nothing; on a fast one most goes as it is. Runs of zeros and holes are never sent.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from daemon.transfer import compression, line
from daemon.transfer.contents import Contents, encode
from daemon.transfer.errors import Broken, Refused
from daemon.transfer.frames import CHUNK, COMPRESSED, LENGTH, Channel, Frame, Kind
from daemon.transfer.line import Line
from daemon.transfer.parcel import Look, Parcel

_WORTH: Final = 0.9  # of its size: a chunk that does not get below goes as it is,
_SPARED: Final = 16  # and so many after it, untried
_ZEROS: Final = bytes(CHUNK)
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class _Item(NamedTuple):
    frame: Frame
    plain: int
    """Bytes of files that it brings."""
    buffer: bytearray | None
    """To be given back when it was sent."""


class Sending:
    """Sends a parcel over a channel, once."""

    def __init__(
        self,
        parcel: Parcel,
        channel: Channel,
        *,
        have: Mapping[str, int],
        compress: bool,
        sent: Callable[[int], None],
    ) -> None:
        """`have`: bytes of each file that need not be sent; `sent` is told of every chunk's bytes."""
        self._parcel = parcel
        self._channel = channel
        self._have = have
        self._compress = compress
        self._sent = sent
        self._line = Line[_Item]()
        self._free = deque(bytearray(CHUNK) for _ in range(line.LENGTH + 2))
        self._numbers: dict[str, int] = {}
        self._offsets: list[int] = []
        self._spared = 0
        self._total = -CHUNK
        self._failure: Exception | None = None

    def run(self) -> None:
        """Returns when the last frame is out. Raises Broken, TooLate; Refused when the parcel is abandoned;
        OSError when a file can not be read.
        """
        reader = threading.Thread(target=self._read, name="transfer read")
        reader.start()
        try:
            while (item := self._line.get()) is not None:
                self._channel.send(item.frame)
                if item.buffer is not None:
                    self._free.append(item.buffer)
                self._sent(item.plain)
        finally:
            self._line.end()
            self._parcel.grew()  # the reader may wait for more of it
            reader.join()
        if self._failure is not None:
            raise self._failure

    def _read(self) -> None:
        try:
            self._read_all()
            self._line.put(None)
        except Broken:
            return  # the other thread knows why
        except Exception as error:  # noqa: BLE001  the other thread raises it
            self._failure = error
            try:
                self._line.put(None)
            except Broken:
                return

    def _read_all(self) -> None:
        while True:
            look = self._parcel.look()
            if look.failure:
                raise Refused(look.failure)
            self._pass(look)
            if look.contents is not None:
                self._put(Frame(Kind.CONTENTS, payload=encode(look.contents)))
                return
            # Also seldom: whoever receives would think us dead, and a broken connection is to be noticed.
            if not self._parcel.wait(look.version, self._channel.patience / 4):
                self._put(Frame(Kind.STILL))

    def _pass(self, look: Look) -> None:
        """Everything that is there and was not sent yet."""
        sizes: dict[str, int] = {}
        for name, path in look.paths.items():
            size = _size(name, path, look.contents)
            if size is not None:
                sizes[name] = size
        total = sum(sizes.values())
        # While it is written it grows by a page at a time.
        if not self._total <= total < self._total + CHUNK:
            self._total = total
            self._put(Frame(Kind.TOTAL, value=total))
        more = False
        for name, size in sizes.items():
            # Of an unfinished parcel, whole chunks: its files are written in small pieces.
            end = size if look.contents is not None else size - size % CHUNK
            if name not in self._numbers and (end or look.contents is not None):
                self._begin(name, size)
            if name in self._numbers and self._offsets[self._numbers[name]] < end:
                try:
                    self._send(name, look.paths[name], end)
                except FileNotFoundError:
                    if look.contents is not None:
                        raise
                    continue  # it was seen while the engine wrote, and is gone
                more = True
        if more:  # that all of it has come is told at once, and not with the next chunk
            self._put(Frame(Kind.TOTAL, value=total))

    def _begin(self, name: str, size: int) -> None:
        had = self._have.get(name, 0)
        number = self._numbers[name] = len(self._offsets)
        self._offsets.append(had if had <= size else 0)
        self._put(Frame(Kind.FILE, number, self._offsets[number], name.encode()))

    def _send(self, name: str, path: str, end: int) -> None:
        number = self._numbers[name]
        descriptor = _open(path, end)
        try:
            for offset, length, hole in extents(descriptor, self._offsets[number], end):
                if hole:
                    self._put(Frame(Kind.HOLE, number, offset, LENGTH.pack(length)), length)
                else:
                    self._chunk(descriptor, number, offset, length)
                self._offsets[number] = offset + length
        finally:
            os.close(descriptor)

    def _chunk(self, descriptor: int, number: int, offset: int, length: int) -> None:
        # As many buffers as can be in the line and in the two threads' hands: there is always one.
        buffer = self._free.popleft()
        view = memoryview(buffer)[:length]
        at = 0
        while at < length:
            count = os.preadv(descriptor, [view[at:]], offset + at)
            if count == 0:
                raise Refused("a file of the parcel became shorter while it was sent")
            at += count
        payload: bytes | memoryview = view
        flags = 0
        kind = Kind.DATA
        if view[:64] == _ZEROS[:64] and view == _ZEROS[:length]:
            kind, payload = Kind.HOLE, LENGTH.pack(length)
        elif self._compress and self._spared:
            self._spared -= 1
        elif self._compress and self._line.full():
            packed = compression.smaller(view)
            if len(packed) < length * _WORTH:
                payload, flags = packed, COMPRESSED
            else:
                self._spared = _SPARED
        if payload is not view:
            self._free.append(buffer)
        self._put(Frame(kind, number, offset, payload, flags), length, buffer if payload is view else None)

    def _put(self, frame: Frame, plain: int = 0, buffer: bytearray | None = None) -> None:
        self._line.put(_Item(frame, plain, buffer))


def extents(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """(offset, length, whether it is a hole) from `start` to `end`, data in chunks. Raises OSError."""
    at = start
    while at < end:
        try:
            data = min(os.lseek(descriptor, at, os.SEEK_DATA), end)
        except OSError:  # ENXIO: a hole up to the end
            data = end
        if data > at:
            yield at, data - at, True
            at = data
            continue
        hole = min(os.lseek(descriptor, at, os.SEEK_HOLE), end)
        while at < hole:
            length = min(CHUNK, hole - at)
            yield at, length, False
            at += length


def _open(path: str, size: int) -> int:
    descriptor = os.open(path, _READ)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size < size:
        os.close(descriptor)
        raise Refused("a file of the parcel became shorter, or is no regular file (any more)")
    return descriptor


def _size(name: str, path: str, contents: Contents | None) -> int | None:
    """How much of a file there is; None when it is gone from an unfinished parcel."""
    if contents is not None:
        return contents[name].size
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except FileNotFoundError:
        return None
