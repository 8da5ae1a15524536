"""The serving end: accepts connections on a listening unix socket and runs a handler per request.

Each request is a task of its own, started at once: handlers begin in the order of arrival, and a quick one
has answered before the next is looked at. A unary call goes on when its connection ends (containerd may be
restarting, and the container should start nevertheless); a stream is cancelled, and so is a call that only
waits for something. What it leaves to others: the socket file, who may connect, and what the methods do.

The traps: a peer that does not read its answers is not read from either, or it could fill our memory; a
handler that awaits what others cancel ends in CancelledError, and its caller must still be answered.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from architect.ttrpc import frames
from architect.ttrpc.codec import DecodeError, EncodeError, decode, encode
from architect.ttrpc.rpc import Code, Request, Response, RpcError, Status, status_of

__all__ = ["Code", "Method", "RpcError", "Server", "Stream"]

_log = logging.getLogger(__name__)
_UNREAD_BYTES = 1 << 20  # answers that a client has not taken; beyond, it is not read from
_FLUSH_SECONDS = 1.0  # how long closing waits for peers to take the answers already written
_BACKLOG = 100  # clients that may wait to be accepted
_RETRY_SECONDS = 1.0  # until accepting is tried again when descriptors have run out


@dataclass(slots=True, frozen=True)
class Method[Q, R]:
    """A unary method: the class of its request, what answers it, and whether that only waits (and changes
    nothing): then it ends with its connection.
    """

    request: type[Q]
    handler: Callable[[Q], Awaitable[R]]
    waits: bool = False


@dataclass(slots=True, frozen=True)
class Stream[Q, R]:
    """A method that answers with a stream: an async generator, closed when the client goes away."""

    request: type[Q]
    handler: Callable[[Q], AsyncIterator[R]]


type Services = Mapping[str, Mapping[str, Method[Any, Any] | Stream[Any, Any]]]


class Server:
    """Serves `{service: {method: Method or Stream}}` on one listening socket."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.connections: set[_Connection] = set()
        self.calls: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._opening: set[asyncio.Task[Any]] = set()
        self.closed = False

    async def start(self, sock: socket.socket) -> None:
        """Serve `sock`, a unix stream socket, from now on. It is ours to close; its file is not."""
        # Not asyncio's server: what that accepts in the moment of its closing, it never closes.
        sock.setblocking(False)
        sock.listen(_BACKLOG)
        self._listener = sock
        self._listen(sock)

    async def close(self) -> None:
        """Stop accepting, cancel what runs, deliver the answers given (in a second at most), hang up.

        No handler may await this: it would cancel itself. Let it set an event that another task awaits.
        """
        self.closed = True
        if self._listener:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        if self._opening:
            await asyncio.wait(self._opening)
        calls = list(self.calls)
        for call in calls:
            call.cancel()
        connections = list(self.connections)
        for connection in connections:
            connection.hang_up()
        waits = [*calls, *(connection.lost for connection in connections)]
        if waits:
            await asyncio.wait(waits, timeout=_FLUSH_SECONDS)
        for connection in self.connections:
            connection.abort()

    def _listen(self, sock: socket.socket) -> None:
        if not self.closed:
            asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            client, _ = sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # whoever it was is gone
        except OSError as error:
            _log.error("no client can be accepted for now: %s", error)
            loop.remove_reader(sock)
            loop.call_later(_RETRY_SECONDS, self._listen, sock)
            return
        opening = loop.create_task(loop.connect_accepted_socket(lambda: _Connection(self), client))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)


class _Connection(asyncio.Protocol):
    """One client: parses what it sends, runs the handlers, writes what they answer."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._parser = frames.FrameParser()
        self._last_stream = 0
        self._streams: dict[int, asyncio.Task[None]] = {}
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.lost: asyncio.Future[None] = self._loop.create_future()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)
        if self._server.closed:  # it was accepted just before
            self.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        self._server.connections.discard(self)
        for task in self._streams.values():
            task.cancel()
        self._writable.set()
        if not self.lost.done():
            self.lost.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
        if self._transport:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        try:
            received = self._parser.feed(data)
        except frames.FrameError as error:
            _log.warning("hanging up on a client: %s", error)
            self.abort()
            return
        for frame in received:
            if frame.kind == frames.REQUEST:
                self._request(frame)
            elif frame.kind == frames.DATA:
                self._data(frame)

    def hang_up(self) -> None:
        """Close once the peer has taken what is written."""
        if self._transport:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._transport:
            self._transport.abort()

    # Frames.

    def _request(self, frame: frames.Frame) -> None:
        stream = frame.stream
        if stream % 2 == 0 or stream <= self._last_stream:
            self._fail(stream, RpcError(Code.INVALID_ARGUMENT, f"stream {stream} is even, or not a new one"))
            return
        self._last_stream = stream
        try:
            envelope = decode(Request, frame.payload)
            method = self._server.services.get(envelope.service, {}).get(envelope.method)
            if method is None:
                reason = f"there is no {envelope.service[:100]}/{envelope.method[:100]} here"
                raise RpcError(Code.UNIMPLEMENTED, reason)
            request = decode(method.request, envelope.payload)
        except DecodeError as error:
            self._fail(stream, RpcError(Code.INVALID_ARGUMENT, f"malformed request: {error}"))
            return
        except RpcError as error:
            self._fail(stream, error)
            return
        seconds = envelope.timeout_nano / 1e9 if envelope.timeout_nano else None
        name = f"{envelope.service}/{envelope.method}"
        if isinstance(method, Stream):
            work = self._produce(stream, method, request)
        else:
            work = self._call(stream, method, request)
        task = asyncio.Task(self._run(stream, work, seconds, name), loop=self._loop, eager_start=True)
        if task.done():
            return
        self._server.calls.add(task)
        task.add_done_callback(self._server.calls.discard)
        if isinstance(method, Stream) or method.waits:
            self._streams[stream] = task
            task.add_done_callback(lambda _: self._streams.pop(stream, None))

    def _data(self, frame: frames.Frame) -> None:
        """Methods take one message; the only data frame in order is the empty one that ends it."""
        if frame.payload and frame.stream in self._streams:
            self._streams[frame.stream].cancel("the method takes one message, not a stream of them")
        elif frame.stream > self._last_stream:
            self._fail(frame.stream, RpcError(Code.INVALID_ARGUMENT, "the stream was never opened"))

    # Calls.

    async def _run(self, stream: int, work: Awaitable[None], seconds: float | None, name: str) -> None:
        """Do the work before its deadline, and answer whatever error ends it."""
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                await work
        except RpcError as error:
            self._fail(stream, error)
        except EncodeError as error:
            _log.exception("%s answered what its message cannot hold", name)
            self._fail(stream, RpcError(Code.INTERNAL, str(error)))
        except frames.FrameError as error:
            self._fail(stream, RpcError(Code.RESOURCE_EXHAUSTED, str(error)))
        except asyncio.CancelledError as error:
            self._fail(stream, RpcError(Code.CANCELLED, f"{name} was cancelled {error}".rstrip()))
            raise
        except TimeoutError as error:
            if deadline.expired():
                self._fail(
                    stream, RpcError(Code.DEADLINE_EXCEEDED, f"{name} took longer than {seconds:.3f} s")
                )
            else:
                self._unexpected(stream, name, error)
        except Exception as error:  # noqa: BLE001 the border: a bug in one handler must not silence its caller
            self._unexpected(stream, name, error)

    async def _call(self, stream: int, method: Method[Any, Any], request: Any) -> None:
        answer = encode(Response(Status(), encode(await method.handler(request))))
        self._write(stream, frames.RESPONSE, 0, answer)

    async def _produce(self, stream: int, method: Stream[Any, Any], request: Any) -> None:
        async with aclosing(cast(Any, method.handler(request))) as messages:
            async for message in messages:
                self._write(stream, frames.DATA, 0, encode(message))
                await self._writable.wait()
                await asyncio.sleep(0)  # a generator that always has more would let nobody else run
        self._write(stream, frames.DATA, frames.REMOTE_CLOSED | frames.NO_DATA, b"")

    def _unexpected(self, stream: int, name: str, error: Exception) -> None:
        _log.error("%s failed", name, exc_info=error)
        self._fail(stream, RpcError(Code.UNKNOWN, f"{type(error).__name__}: {error}"))

    def _fail(self, stream: int, error: RpcError) -> None:
        self._write(stream, frames.RESPONSE, 0, encode(Response(status_of(error))))

    def _write(self, stream: int, kind: int, flags: int, payload: bytes) -> None:
        packed = frames.pack(stream, kind, flags, payload)
        if self._transport is None or self._transport.is_closing():
            return  # nobody is left to hear it
        self._transport.write(packed)
        if kind == frames.RESPONSE and self._transport.get_write_buffer_size() > _UNREAD_BYTES:
            self._transport.pause_reading()  # until resume_writing; streams wait by themselves
