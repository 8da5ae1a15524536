"""What a shadow port says itself while the container sleeps: to HTTP, and to gRPC's health protocol.

As little of both as a client needs. Whatever is asked of a gRPC port gets the one answer; the names of what
is asked are not decoded (RFC 7541). Sources: RFC 9112; RFC 9113; gRPC's PROTOCOL-HTTP2.md and
health/v1/health.proto.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Final

from shim.passage import Plain

_HEAD_MAX: Final = 1 << 14
_TALK_MAX: Final = 1 << 16
_SECONDS: Final = 10.0
_FAREWELL_SECONDS: Final = 1.0

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY = 0, 1, 4, 6, 7
_ACK, _END_STREAM, _END_HEADERS = 0x1, 0x1, 0x4
_FRAME_MAX: Final = 1 << 14
# HPACK: ":status: 200" is entry 8 of the static table, "content-type" entry 31; the rest is literal.
_HEADER_BLOCK: Final = b"\x88\x0f\x10\x10application/grpc"
_TRAILER_BLOCK: Final = b"\x00\x0bgrpc-status\x010"
_SERVING: Final = b"\x00\x00\x00\x00\x02\x08\x01"  # not compressed, two bytes: status (field 1) SERVING (1)


class Nonsense(Exception):
    """The client does not speak the protocol."""


async def http(client: Plain, first: bytes, status: str, body: str) -> None:
    """Answers one HTTP request that begins with `first`. Raises Nonsense, OSError, TimeoutError."""
    async with asyncio.timeout(_SECONDS):
        head = first
        while b"\r\n\r\n" not in head:
            more = await client.receive()
            head += more
            if not more or len(head) > _HEAD_MAX:
                raise Nonsense("no HTTP request")
        text = f"{body}\n".encode()
        await client.send(
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(text)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + (b"" if head.startswith(b"HEAD ") else text)
        )
    await _farewell(client)


async def serving(client: Plain, first: bytes) -> None:
    """Answers one gRPC call with SERVING and ends the connection. Raises Nonsense, OSError, TimeoutError."""
    async with asyncio.timeout(_SECONDS):
        await client.send(_frame(_SETTINGS, 0, 0))
        talk = _Talk(client, first)
        if await talk.take(len(_PREFACE)) != _PREFACE:
            raise Nonsense("no HTTP/2")
        stream = 0
        while not stream:
            stream = await _step(client, talk)
        await client.send(
            _frame(_HEADERS, _END_HEADERS, stream, _HEADER_BLOCK)
            + _frame(_DATA, 0, stream, _SERVING)
            + _frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, _TRAILER_BLOCK)
            # What is asked next may be for the application, on a connection of its own.
            + _frame(_GOAWAY, 0, 0, struct.pack(">II", stream, 0))
        )
    await _farewell(client)


async def _step(client: Plain, talk: _Talk) -> int:
    """Takes one frame; returns the stream whose request is complete with it, or 0."""
    length, kind, flags, stream = _head(await talk.take(9))
    if length > _FRAME_MAX:
        raise Nonsense("a frame that is too large")
    payload = await talk.take(length)
    if kind == _SETTINGS and not flags & _ACK:
        await client.send(_frame(_SETTINGS, _ACK, 0))
    elif kind == _PING and not flags & _ACK:
        await client.send(_frame(_PING, _ACK, 0, payload))
    elif kind in (_DATA, _HEADERS) and flags & _END_STREAM:
        return stream
    return 0


class _Talk:
    """What the client says, in pieces of the wanted length, bounded in all."""

    def __init__(self, client: Plain, first: bytes) -> None:
        self._client = client
        self._buffer = first
        self._left = _TALK_MAX

    async def take(self, length: int) -> bytes:
        while len(self._buffer) < length:
            more = await self._client.receive()
            self._left -= len(more)
            if not more or self._left < 0:
                raise Nonsense("no gRPC call")
            self._buffer += more
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
        return taken


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _head(head: bytes) -> tuple[int, int, int, int]:
    """Length, type, flags and stream of a frame."""
    kind, flags, stream = struct.unpack(">BBI", head[3:])
    return int.from_bytes(head[:3]), kind, flags, stream & 0x7FFFFFFF


async def _farewell(client: Plain) -> None:
    """Waits until the client has gone: closed before, the kernel would throw away what it has not read."""
    try:
        await client.end()
        async with asyncio.timeout(_FAREWELL_SECONDS):
            while await client.receive():
                pass
    except (TimeoutError, OSError):
        pass
