"""Frames between two nodes, over one TLS connection that one side at a time speaks on.

    header, big endian: kind u8, flags u8, zero u16, length of the payload u32, file number u32, value u64

    source > target   HELLO     value: the protocol's version
    target > source   ASK       {"ticket", "compression": [...], "have": {name: bytes}}
    source > target   REFUSED   {"reason"}, and the connection ends; or any of:
                      TOTAL     value: bytes of the parcel, as far as is known
                      FILE      number is from now on the file with the payload's name
                      DATA      bytes of file `number` from offset `value` on; flag COMPRESSED: one zstd frame
                      HOLE      payload: u64, so many zeros from offset `value` on
                      STILL     nothing to send at the moment
                      CONTENTS  the last one: what the parcel is made of (`contents`)
    target > source   TAKEN     payload: the parcel's digest; all of it is here and right
    source > target   BYE

The source speaks first: only then has it looked at the target's certificate, and can say that it is refused.
A file's bytes come in order. An offset lower than what has come already takes back what lies beyond it. The
trap: an `ssl` socket is not to be read and written at the same time; here nobody needs to.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from daemon.transfer.contents import MAX_CONTENTS_BYTES, MAX_NAME
from daemon.transfer.errors import Broken, Corrupt, Refused, TooLate

VERSION: Final = 1
CHUNK: Final = 1 << 20
"""Bytes of a file in one frame at most; divides the pieces that are hashed."""
COMPRESSED: Final = 1
_SLICE: Final = 64 << 10
_SMALL: Final = 16 << 10  # what fits into one record of TLS
HEADER: Final = struct.Struct(">BBxxIIQ")
LENGTH: Final = struct.Struct(">Q")


class Kind(IntEnum):
    """See above."""

    ASK = 1
    REFUSED = 2
    TOTAL = 3
    FILE = 4
    DATA = 5
    HOLE = 6
    STILL = 7
    CONTENTS = 8
    TAKEN = 9
    BYE = 10
    HELLO = 11


_MAX_PAYLOAD: Final = {
    Kind.ASK: 8 << 20,
    Kind.REFUSED: 16 << 10,
    Kind.FILE: MAX_NAME,
    Kind.DATA: CHUNK,
    Kind.HOLE: LENGTH.size,
    Kind.CONTENTS: MAX_CONTENTS_BYTES,
    Kind.TAKEN: 64,
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame."""

    kind: Kind
    number: int = 0
    value: int = 0
    payload: bytes | memoryview = b""
    flags: int = 0


class Channel:
    """Frames on a connected socket, each wait of which has an end."""

    def __init__(self, connection: socket.socket, *, patience: float, until: float) -> None:
        """`patience`: seconds that the other side may be silent, or take nothing; `until`: when all ends, by
        the monotonic clock.
        """
        self._socket = connection
        self._header = memoryview(bytearray(HEADER.size))
        self._buffer = memoryview(bytearray(_SMALL))
        self.patience = patience
        self.paced: Callable[[int], None] | None = None
        """Waits until so many more bytes may be sent."""
        self.until = until
        self.received = 0
        """Bytes so far, frame by frame."""

    def send(self, frame: Frame) -> None:
        """Raises Broken, TooLate."""
        header = HEADER.pack(frame.kind, frame.flags, len(frame.payload), frame.number, frame.value)
        # Paced, a chunk goes in slices: else whoever receives would wait for all of it at once.
        step = _SLICE if self.paced else CHUNK
        try:
            self._socket.settimeout(self._seconds())
            small = len(frame.payload) <= _SMALL
            self._socket.sendall(header + frame.payload if small else header)
            left = memoryview(b"" if small else frame.payload)
            while left:
                if self.paced:
                    self.paced(min(step, len(left)))
                self._socket.settimeout(self._seconds())
                self._socket.sendall(left[:step])
                left = left[step:]
        except TimeoutError as error:
            self._seconds()
            raise Broken(f"the other side took nothing for {self.patience:g} s") from error
        except OSError as error:
            raise Broken(f"sending failed: {error}") from error

    def receive(self, buffer: memoryview | None = None) -> Frame:
        """The next frame; a payload that fits is in `buffer`, or valid until the next one is received.

        Raises Broken, TooLate; Corrupt for what is no frame; Refused when our certificate is.
        """
        self._fill(self._header)
        number, flags, length, file, value = HEADER.unpack(self._header)
        try:
            kind = Kind(number)
        except ValueError:
            raise Corrupt(f"a frame of unknown kind {number} came") from None
        if length > _MAX_PAYLOAD.get(kind, 0):
            raise Corrupt(f"a {kind.name} frame of {length} bytes came")
        room = self._buffer if buffer is None else buffer
        payload = room[:length] if length <= len(room) else memoryview(bytearray(length))
        self._fill(payload)
        self.received += HEADER.size + length
        return Frame(kind, file, value, payload, flags)

    def expect(self, kind: Kind) -> Frame:
        """The next frame, which is of this kind. Raises as `receive` does."""
        frame = self.receive()
        if frame.kind != kind:
            raise Corrupt(f"a {frame.kind.name} frame came where {kind.name} belongs")
        return frame

    def _fill(self, into: memoryview) -> None:
        at = 0
        self._socket.settimeout(self._seconds())  # once: it is a system call
        while at < len(into):
            try:
                count = self._socket.recv_into(into[at:])
            except ssl.SSLError as error:
                if "CERTIFICATE" in (error.reason or "") or "UNKNOWN_CA" in (error.reason or ""):
                    raise Refused(
                        f"the other side does not trust this node's certificate: {error}"
                    ) from error
                raise Broken(f"receiving failed: {error}") from error
            except TimeoutError as error:
                self._seconds()
                raise Broken(f"nothing came for {self.patience:g} s") from error
            except OSError as error:
                raise Broken(f"receiving failed: {error}") from error
            if count == 0:
                raise Broken("the connection was closed")
            at += count
            self._seconds()

    def _seconds(self) -> float:
        """How long to wait for the next step; raises TooLate when there is no time left."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise TooLate("the deadline is over")
        return min(self.patience, left)
