"""Whose turn it is on a connection that is passed on: whether the client waits for an answer.

A connection may end without harm when nobody waits. In HTTP/1 that is so once the application spoke last. In
HTTP/2 (gRPC) both speak before anything is asked, so requests are told by their frames: a stream is open from
its HEADERS until one side ends or resets it. Source: RFC 9113 sections 3.4, 4.1, 5.1, 6.4, 6.8.
"""

from __future__ import annotations

import struct
from typing import Final, Protocol

_PREFACE_BYTES: Final = 24
_HEAD_BYTES: Final = 9
_DATA, _HEADERS, _RST_STREAM, _GOAWAY = 0, 1, 3, 7
_END_STREAM: Final = 0x1
_STREAMS: Final = 256
"""More calls at once than a prober makes; each would cost memory."""


class Turns(Protocol):
    """What was said so far, and whether the client waits for an answer."""

    @property
    def waiting(self) -> bool:
        """Whether it does."""

    def said(self, data: bytes, *, by_client: bool) -> None:
        """The next bytes of one side. Raises ConnectionError when it asks too much."""

    def farewell(self) -> bytes | None:
        """What the client has to be told before its connection ends, while it does not wait.

        None: what it says next is a question that was not passed on, and may be answered by somebody else.
        """


class Alternating:
    """HTTP/1: one asks, one answers. Begins with a question."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting = True

    def said(self, data: bytes, *, by_client: bool) -> None:
        """Who spoke last."""
        self.waiting = by_client

    def farewell(self) -> bytes | None:
        """Nothing: the next question is whole, from its first byte."""
        return None


class Streams:
    """HTTP/2. Until it has asked something, the client waits: a probe connects in order to ask."""

    __slots__ = ("_app", "_client", "_last", "_open")

    def __init__(self) -> None:
        self._client, self._app = _Frames(_PREFACE_BYTES), _Frames(0)
        self._open: set[int] = set()
        self._last = 0

    @property
    def waiting(self) -> bool:
        """Whether a call is open, or a frame is half said."""
        return not self._last or bool(self._open) or self._app.within or self._client.within

    def said(self, data: bytes, *, by_client: bool) -> None:
        """Reads the frames' heads. Raises ConnectionError at more than 256 open calls."""
        for kind, flags, stream in (self._client if by_client else self._app).feed(data):
            if by_client and kind == _HEADERS and stream > self._last:
                self._last = stream
                self._open.add(stream)
                if len(self._open) > _STREAMS:
                    raise ConnectionError(f"a client has asked {_STREAMS} questions at once")
            if kind == _RST_STREAM or (not by_client and kind in (_DATA, _HEADERS) and flags & _END_STREAM):
                self._open.discard(stream)

    def farewell(self) -> bytes | None:
        """GOAWAY: calls after the last one seen were not made, and may be made elsewhere."""
        return b"\0\0\x08" + struct.pack(">BBIII", _GOAWAY, 0, 0, self._last, 0)


class _Frames:
    """The heads of one side's frames. `within`: the last frame is not whole yet."""

    __slots__ = ("_head", "_skip")

    def __init__(self, skip: int) -> None:
        self._skip = skip
        self._head = b""

    @property
    def within(self) -> bool:
        return bool(self._skip or self._head)

    def feed(self, data: bytes) -> list[tuple[int, int, int]]:
        """(type, flags, stream) of each frame whose head is complete with `data`."""
        heads = []
        view = memoryview(data)
        while view:
            skipped = min(self._skip, len(view))
            self._skip -= skipped
            view = view[skipped:]
            missing = _HEAD_BYTES - len(self._head)
            if self._skip or not view:
                break
            self._head += view[:missing]
            view = view[missing:]
            if len(self._head) == _HEAD_BYTES:
                kind, flags, stream = struct.unpack(">BBI", self._head[3:])
                heads.append((kind, flags, stream & 0x7FFFFFFF))
                self._skip = int.from_bytes(self._head[:3])
                self._head = b""
        return heads
