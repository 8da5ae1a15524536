"""The calling end: one connection, any number of calls and streams on it at once.

Every call has a deadline, which the server is told too. There is no way to cancel on the wire: a stream
that is no longer read goes on until the connection closes, so whoever watches only for a while should do so
on a connection of its own. What it leaves to others: connecting again.

The trap: a stream that is read too slowly stops the reading of the whole connection, and the answer to a
call could sit behind it; so while a call is under way everything is read.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Self, cast

from architect.ttrpc import frames
from architect.ttrpc.codec import DecodeError, decode, encode
from architect.ttrpc.rpc import Code, Request, Response, RpcError, error_of

__all__ = ["Client", "Code", "RpcError"]

_INBOX_FULL = 64  # messages of one stream that nobody has read yet
_LAST_STREAM = 0xFFFFFFFF


class Client:
    """A connection to a ttrpc server; `closed` is set when it has ended, whoever ended it."""

    def __init__(self, protocol: "_Protocol") -> None:
        self._protocol = protocol
        self.closed = protocol.closed

    @classmethod
    async def connect(cls, path: str, *, timeout: float) -> Self:
        """Connect to the unix socket at `path` within `timeout` seconds. Raises OSError or TimeoutError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            _, protocol = await loop.create_unix_connection(_Protocol, path)
        return cls(protocol)

    async def call[R](
        self, service: str, method: str, request: Any, response: type[R], *, timeout: float
    ) -> R:
        """Call a unary method. Raises RpcError (DEADLINE_EXCEEDED after `timeout` s) or ConnectionError."""
        stream = self._protocol.open(service, method, request, timeout, 0)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._protocol.calls[stream] = answer
        self._protocol.adjust_reading()
        try:
            async with asyncio.timeout(timeout):
                payload = await answer
        except TimeoutError:
            raise RpcError(
                Code.DEADLINE_EXCEEDED, f"{service}/{method}: no answer in {timeout:g} s"
            ) from None
        finally:
            self._protocol.calls.pop(stream, None)
            self._protocol.adjust_reading()
        return _message(response, payload, f"{service}/{method}")

    async def stream[R](self, service: str, method: str, request: Any, response: type[R]) -> AsyncIterator[R]:
        """Iterate over what a streaming method answers. Raises RpcError or ConnectionError."""
        stream = self._protocol.open(service, method, request, 0, frames.REMOTE_CLOSED)
        inbox = self._protocol.inboxes[stream] = _Inbox()
        try:
            while (payload := await inbox.get(self._protocol)) is not None:
                yield _message(response, payload, f"{service}/{method}")
        finally:
            self._protocol.inboxes.pop(stream, None)
            self._protocol.adjust_reading()

    async def close(self) -> None:
        """Hang up; calls under way fail with ConnectionError."""
        self._protocol.hang_up()
        await self.closed.wait()


def _message[R](cls: type[R], payload: bytes, what: str) -> R:
    try:
        return decode(cls, payload)
    except DecodeError as error:
        raise RpcError(Code.INTERNAL, f"{what} answered something else than its message: {error}") from error


class _Inbox:
    """The messages of one stream that wait to be read, and how it ended."""

    __slots__ = ("arrived", "end", "ended", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self.arrived = asyncio.Event()
        self.ended = False
        self.end: Exception | None = None

    async def get(self, protocol: "_Protocol") -> bytes | None:
        """The next message; None, or the error, at the end."""
        while not self.waiting:
            if self.ended:
                if self.end:
                    raise self.end
                return None
            self.arrived.clear()
            await self.arrived.wait()
        payload = self.waiting.popleft()
        protocol.adjust_reading()
        return payload

    def put(self, payload: bytes) -> None:
        self.waiting.append(payload)
        self.arrived.set()

    def finish(self, end: Exception | None) -> None:
        self.ended, self.end = True, end
        self.arrived.set()


class _Protocol(asyncio.Protocol):
    """Hands what arrives to the call or stream that waits for it."""

    def __init__(self) -> None:
        self.calls: dict[int, asyncio.Future[bytes]] = {}
        self.inboxes: dict[int, _Inbox] = {}
        self.closed = asyncio.Event()
        self._parser = frames.FrameParser()
        self._transport: asyncio.Transport | None = None
        self._reason = "the connection was closed"
        self._next_stream = 1

    def open(self, service: str, method: str, request: Any, timeout: float, flags: int) -> int:
        """Send a request; the number of its stream."""
        if self._transport is None or self._transport.is_closing() or self._next_stream > _LAST_STREAM:
            raise ConnectionError(f"{service}/{method}: {self._reason}")
        envelope = Request(service, method, encode(request), int(timeout * 1e9))
        try:
            packed = frames.pack(self._next_stream, frames.REQUEST, flags, encode(envelope))
        except frames.FrameError as error:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"{service}/{method}: {error}") from error
        self._transport.write(packed)
        self._next_stream += 2
        return self._next_stream - 2

    def adjust_reading(self) -> None:
        """Read unless a stream's reader lags behind, and always while a call waits for its answer."""
        if self._transport is None or self._transport.is_closing():
            return
        if not self.calls and any(len(inbox.waiting) >= _INBOX_FULL for inbox in self.inboxes.values()):
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def hang_up(self) -> None:
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if exc:
            self._reason = f"the connection was lost: {exc}"
        for answer in self.calls.values():
            if not answer.done():
                answer.set_exception(ConnectionError(self._reason))
        for inbox in self.inboxes.values():
            if not inbox.ended:
                inbox.finish(ConnectionError(self._reason))
        self.closed.set()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._parser.feed(data):
                self._frame(frame)
        except (frames.FrameError, DecodeError) as error:
            self._reason = f"the server sent what is no answer: {error}"
            self.hang_up()
        if self.inboxes:
            self.adjust_reading()

    def _frame(self, frame: frames.Frame) -> None:
        if frame.kind == frames.RESPONSE:
            response = decode(Response, frame.payload)
            self._response(frame.stream, response)
        elif frame.kind == frames.DATA and (inbox := self.inboxes.get(frame.stream)) and not inbox.ended:
            if not frame.flags & frames.NO_DATA:
                inbox.put(frame.payload)
            if frame.flags & frames.REMOTE_CLOSED:
                inbox.finish(None)

    def _response(self, stream: int, response: Response) -> None:
        error = error_of(response.status)
        answer = self.calls.get(stream)
        if answer and not answer.done():
            if error:
                answer.set_exception(error)
            else:
                answer.set_result(response.payload)
        inbox = self.inboxes.get(stream)
        if inbox and not inbox.ended:
            if response.payload and not error:
                inbox.put(response.payload)
            inbox.finish(error)
