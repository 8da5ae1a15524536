"""Frames of the ttrpc stream: a header of ten bytes, then the payload.

Knows lengths, streams and flags, and nothing of what the payload means. The trap: the peers have
no way to resynchronise, so a header that cannot be right ends the connection; frames of unknown types are
handed on, and whoever reads them ignores them, for the sake of later versions.
Source: PROTOCOL.md of containerd/ttrpc.
"""

import struct
from typing import NamedTuple

REQUEST, RESPONSE, DATA = 1, 2, 3
"""Types of frames."""

REMOTE_CLOSED, REMOTE_OPEN, NO_DATA = 1, 2, 4
"""Flags: the sender is done with the stream; it sends more; no message here, not even an empty one."""

MAX_PAYLOAD = 4 << 20
"""Bytes. A longer payload is refused by every implementation."""

_HEADER = struct.Struct(">IIBB")


class FrameError(ValueError):
    """The stream does not hold frames, or one is too long."""


class Frame(NamedTuple):
    """One frame; clients number their streams 1, 3, 5, ..."""

    stream: int
    kind: int
    flags: int
    payload: bytes


def pack(stream: int, kind: int, flags: int, payload: bytes) -> bytes:
    """The bytes of a frame. Raises FrameError when the payload is longer than MAX_PAYLOAD."""
    if len(payload) > MAX_PAYLOAD:
        raise FrameError(
            f"a message of {len(payload)} bytes exceeds the {MAX_PAYLOAD} that a frame can carry"
        )
    return _HEADER.pack(len(payload), stream, kind, flags) + payload


class FrameParser:
    """Turns received bytes into frames, whatever the pieces they arrive in."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. Raises FrameError on a length no frame has: hang up then."""
        source: bytes | bytearray = data
        if self._rest:
            self._rest += data
            source = self._rest
        frames, pos, size = [], 0, len(source)
        while size - pos >= _HEADER.size:
            length, stream, kind, flags = _HEADER.unpack_from(source, pos)
            if length > MAX_PAYLOAD:
                raise FrameError(f"a frame announces {length} bytes; {MAX_PAYLOAD} is the limit")
            start = pos + _HEADER.size
            if size - start < length:
                break
            pos = start + length
            frames.append(Frame(stream, kind, flags, bytes(source[start:pos])))
        if source is self._rest:
            del self._rest[:pos]
        else:
            self._rest += source[pos:]
        return frames
