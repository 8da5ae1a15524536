"""One connection, from the side that fetches: lands what comes, frame by frame.

Two threads and a short line between them: one receives and decrypts while the other unpacks, writes and
hashes the chunks before. What was received when a connection breaks is landed, the next one goes on there.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from architect.untrusted import Unreadable, parse
from daemon.transfer import compression, line
from daemon.transfer.contents import Contents, decode
from daemon.transfer.errors import Broken, Corrupt, Refused
from daemon.transfer.frames import CHUNK, COMPRESSED, LENGTH, Channel, Frame, Kind
from daemon.transfer.landing import Landing
from daemon.transfer.line import Line

_TOLD_SECONDS: Final = 0.1

Progress = Callable[[int, int], None]
"""Told (bytes that are here, bytes of the whole as far as is known), now and then and at the end."""


class _Item(NamedTuple):
    frame: Frame
    buffer: bytearray
    """Where its payload is; to be given back."""


class Receiving:
    """Receives a parcel over a channel, once."""

    def __init__(self, channel: Channel, landing: Landing, tell: Progress) -> None:
        self._channel = channel
        self._landing = landing
        self._tell = tell
        self._line = Line[_Item]()
        self._free = deque(bytearray(CHUNK) for _ in range(line.LENGTH + 2))
        self._failure: Exception | None = None
        self._total = 0
        self._told = 0.0

    def run(self) -> Contents:
        """Returns what the parcel is made of when all of it has come; nothing is proved yet.

        Raises Broken, TooLate, Refused, Corrupt, NoSpace, OSError.
        """
        self._landing.again()
        lander = threading.Thread(target=self._land_all, name="transfer land")
        lander.start()
        try:
            last = self._receive()
        finally:
            self._finish(lander)
        if last.kind == Kind.REFUSED:
            raise Refused(reason(last))
        try:
            return decode(bytes(last.payload))
        except Unreadable as error:
            raise Corrupt(f"the parcel's contents: {error}") from error

    def _receive(self) -> Frame:
        """Hands on what comes, up to the last frame, which it returns."""
        while True:
            # As many buffers as can be in the line and in the two threads' hands: there is always one.
            buffer = self._free.popleft()
            frame = self._channel.receive(memoryview(buffer))
            if frame.kind in (Kind.CONTENTS, Kind.REFUSED):
                return frame
            self._line.put(_Item(frame, buffer))

    def _finish(self, lander: threading.Thread) -> None:
        """Returns when all is landed; raises what kept it from that."""
        try:
            self._line.put(None)
        except Broken:
            pass  # it has ended already
        lander.join()
        if self._failure is not None:
            raise self._failure

    def _land_all(self) -> None:
        try:
            while (item := self._line.get()) is not None:
                self._land(item.frame)
                self._free.append(item.buffer)
        except Exception as error:  # noqa: BLE001  the other thread raises it
            self._failure = error
        finally:
            self._line.end()

    def _land(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.DATA:
                packed = frame.flags & COMPRESSED
                data = compression.plain(memoryview(frame.payload)) if packed else frame.payload
                self._landing.data(frame.number, frame.value, data)
                self._report()
            case Kind.HOLE:
                if len(frame.payload) != LENGTH.size:
                    raise Corrupt("a hole without a length came")
                self._landing.hole(frame.number, frame.value, LENGTH.unpack(frame.payload)[0])
                self._report()
            case Kind.FILE:
                self._landing.begin(frame.number, _name(frame))
            case Kind.TOTAL:
                self._total = frame.value
                self._tell(self._landing.bytes, max(self._total, self._landing.bytes))
            case Kind.STILL:
                return
            case _:
                raise Corrupt(f"a {frame.kind.name} frame came from a source")

    def _report(self) -> None:
        now = time.monotonic()
        if now >= self._told + _TOLD_SECONDS:
            self._told = now
            self._tell(self._landing.bytes, max(self._total, self._landing.bytes))


def reason(frame: Frame) -> str:
    """What a REFUSED frame says, fit for a log and a terminal."""
    try:
        said = parse(bytes(frame.payload), limit=16 << 10).member("reason").text(limit=4096)
    except Unreadable:
        return "the source refuses, and not in words"
    return "".join(each if each.isprintable() else "?" for each in said)


def _name(frame: Frame) -> str:
    try:
        return bytes(frame.payload).decode("ascii")
    except UnicodeDecodeError:
        raise Corrupt("a file's name is not ASCII") from None
