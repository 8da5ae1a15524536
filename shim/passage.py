"""Passing a probe's or a scraper's bytes on to the application, and seeing how it ends.

Nothing is read into the bytes but what tells whether the application is well; a deadline is the asker's own.
The trap: a connection that this end closed first must not be left to the kernel. Its last packets would come
from no socket, without our mark, and count as activity; and the dump would find the other end of it open. So
we wait until the application has closed too, and reset what it leaves open.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from typing import Any, Final

from architect.probes import Protocol
from shim.turns import Turns

_PIECE: Final = 1 << 16
_KEPT: Final = 4096
_IDLE_SECONDS: Final = 120.0
_LINGER_SECONDS: Final = 2.0
_STOCK_SECONDS: Final = 0.1
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time
_SERVING: Final = b"\0\0\0\0\2\10\1"  # a gRPC message of two bytes: HealthCheckResponse{status: SERVING}


class Plain:
    """One end of a TCP connection, as it is. Owns a socket that does not block."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._loop = asyncio.get_running_loop()

    async def receive(self) -> bytes:
        """The next bytes; none at the end. Raises OSError."""
        return await self._loop.sock_recv(self.socket, _PIECE)

    async def send(self, data: bytes) -> None:
        """Returns when the kernel has taken all of it. Raises OSError."""
        await self._loop.sock_sendall(self.socket, data)

    async def end(self) -> None:
        """Sends no more. Raises OSError."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self, *, reset: bool = False) -> None:
        """Closes; `reset`: at once, with nothing left for the kernel to do."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.socket.close()


class Tls(Plain):
    """The client's end of a TLS connection that believes any certificate, as kubelet's probes do.

    asyncio's own TLS is not there: the zygote imports it without ssl, a third of a shim's memory. Only a shim
    with an HTTPS probe imports it, with the first one.
    """

    def __init__(self, end: socket.socket) -> None:
        super().__init__(end)
        if sys.modules.get("ssl", self) is None:
            del sys.modules["ssl"]
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # whether it answers is asked, not how safe it is
        self._ssl = ssl
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        self._sending = asyncio.Lock()

    async def shake_hands(self) -> None:
        """To be done first. Raises OSError (ssl.SSLError is one)."""
        await self._do(self._tls.do_handshake)

    async def receive(self) -> bytes:
        """The next bytes; none at the end. Raises OSError."""
        try:
            data: bytes = await self._do(self._tls.read, _PIECE)
        except (self._ssl.SSLZeroReturnError, self._ssl.SSLEOFError):
            return b""
        return data

    async def send(self, data: bytes) -> None:
        """Returns when the kernel has taken all of it. Raises OSError."""
        await self._do(self._tls.write, data)

    async def end(self) -> None:
        """Says that no more will come. Raises OSError."""
        try:
            self._tls.unwrap()  # also waits for the other's good-bye, which we do not
        except self._ssl.SSLError:
            pass
        await self._flush()
        await super().end()

    async def _do(self, step: Any, *arguments: Any) -> Any:
        while True:
            try:
                result = step(*arguments)
            except self._ssl.SSLWantReadError:
                await self._flush()
                if data := await self._loop.sock_recv(self.socket, _PIECE):
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                await self._flush()
                return result

    async def _flush(self) -> None:
        async with self._sending:  # two directions send, and records must not mix
            if data := self._outgoing.read():
                await self._loop.sock_sendall(self.socket, data)


class Passage:
    """One connection passed on. `answer`: how the application's answer begins."""

    def __init__(self, client: Plain, app: Plain, turns: Turns) -> None:
        self._client = client
        self._app = app
        self._turns = turns
        self._loop = asyncio.get_running_loop()
        self._moved = self._loop.time()
        self._leaving = False
        self._left = False
        self._next = b""
        self.answer = b""

    async def run(self, first: bytes) -> bytes:
        """Passes on `first`, then everything both ways; closes the application's end. Raises OSError.

        Returns the next question when it was to leave and has not passed that on; the client waits for the
        answer.
        """
        done = False
        try:
            self._turns.said(first, by_client=True)
            await self._app.send(first)
            done = await self._both_ways()
        finally:
            self._app.close(reset=not done)
        return self._next

    async def _both_ways(self) -> bool:
        """Returns whether both have ended as they should."""
        pending = {
            asyncio.create_task(self._pump(self._client, self._app)),
            asyncio.create_task(self._pump(self._app, self._client)),
        }
        tasks = set(pending)
        try:
            while pending:
                limit = _IDLE_SECONDS if len(pending) == len(tasks) else _LINGER_SECONDS
                left = self._moved + limit - self._loop.time()
                if left <= 0:
                    return False
                done, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return True

    async def _pump(self, source: Plain, target: Plain) -> None:
        by_client = source is self._client
        while data := await source.receive():
            if by_client and self._leaving and not self._turns.waiting:
                if self._turns.farewell() is None:
                    self._next = data
                else:
                    self._left = True
                break
            self._moved = self._loop.time()
            self._turns.said(data, by_client=by_client)
            if not by_client and len(self.answer) < _KEPT:
                self.answer += data[: _KEPT - len(self.answer)]
            await target.send(data)
        self._moved = self._loop.time()
        if by_client and self._left and (farewell := self._turns.farewell()):
            await source.send(farewell)
        if by_client or not self._next:
            await target.end()

    def leave(self) -> None:
        """From now on ends when what was asked is answered; again and again, until it has ended.

        A client that keeps its connection in stock asks nothing for a while, and loses it.
        """
        self._leaving = True
        if not self._turns.waiting and not self._next and self._loop.time() - self._moved >= _STOCK_SECONDS:
            try:
                self._client.socket.shutdown(socket.SHUT_RD)  # is the client's end, to `_pump`
                self._left = True
            except OSError:
                pass  # it has just gone by itself


def complaint(protocol: Protocol, answer: bytes) -> str:
    """What is wrong with how an answer began, as a sentence; "" when the application is well by it."""
    if not answer:
        return "its last probe got no answer"
    if protocol is Protocol.GRPC:
        return "" if _SERVING in answer else "its last gRPC probe was not answered SERVING"
    code = answer[9:12]
    return "" if code[:1] in (b"2", b"3") else f"its last probe was answered {code.decode('latin-1')!a}"


async def is_left_alone(app: Plain) -> None:
    """Closes a connection that was only to be opened, when the application has seen it go."""
    done = False
    try:
        await app.end()
        async with asyncio.timeout(_LINGER_SECONDS):
            while await app.receive():
                pass
        done = True
    except (TimeoutError, OSError):
        pass
    finally:
        app.close(reset=not done)
