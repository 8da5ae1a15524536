"""inotify(7) for asyncio: what the kernel says of a file or of names in a directory. No thread, no polling.

The trap: the kernel drops events when its queue is full and says so once (`OVERFLOW`); whoever listens must
then look at the directory itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple, Self

# linux/inotify.h
MODIFY: Final = 0x2
ATTRIB: Final = 0x4
MOVED_FROM: Final = 0x40
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
DELETE: Final = 0x200
DELETE_SELF: Final = 0x400
MOVE_SELF: Final = 0x800
OVERFLOW: Final = 0x4000
IGNORED: Final = 0x8000
ONLYDIR: Final = 0x01000000

_EVENT: Final = struct.Struct("iIII")  # watch, mask, cookie, length of the name
_READ_BYTES: Final = 64 << 10


class Change(NamedTuple):
    """One event: what happened (the bits above) to which name; "" is the directory itself."""

    mask: int
    name: str


class Inotify:
    """The changes of one path. To be made and closed within the event loop."""

    def __init__(self, path: str, mask: int) -> None:
        """Watches from now on. Raises OSError (EMFILE: see fs.inotify.max_user_instances)."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(
                ctypes.get_errno(), "inotify_init1 failed; fs.inotify.max_user_instances may be too low"
            )
        if libc.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(mask)) < 0:
            number = ctypes.get_errno()
            os.close(self._fd)
            raise OSError(number, f"{os.strerror(number)}: cannot be watched", path)
        self._waiting: deque[Change] = deque()
        self._arrived = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    async def next(self) -> Change:
        """The next change, waiting for it if need be."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    def close(self) -> None:
        """Stops watching."""
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        self._waiting.extend(changes(data))
        self._arrived.set()


def changes(data: bytes) -> Iterator[Change]:
    """Reads `struct inotify_event`s; an incomplete one at the end, which no kernel writes, is left out."""
    position = 0
    while position + _EVENT.size <= len(data):
        _, mask, _, length = _EVENT.unpack_from(data, position)
        position += _EVENT.size
        if position + length > len(data):
            return
        yield Change(mask, os.fsdecode(data[position : position + length].split(b"\0", 1)[0]))
        position += length
