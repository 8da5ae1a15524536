"""Where other nodes fetch: accepts them, knows them by their certificates, sends what their tickets are for.

A thread per connection, a bounded number of them. Not one byte of a parcel goes through the daemon's event
loop, which has pods to wake meanwhile; blocking TLS is faster than asyncio's, besides.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Final

from architect.images.manifest import MAX_FILE_BYTES, MAX_FILES
from architect.untrusted import Unreadable, parse
from daemon.transfer import compression
from daemon.transfer.contents import checked_name
from daemon.transfer.credentials import Credentials, end, peer
from daemon.transfer.errors import Broken, Corrupt, Refused, TransferError
from daemon.transfer.frames import VERSION, Channel, Frame, Kind
from daemon.transfer.pace import Pace
from daemon.transfer.parcel import Parcel
from daemon.transfer.sending import Sending
from daemon.transfer.shelf import Offer, Shelf

MAX_CONNECTIONS: Final = 32
MAX_STRANGERS: Final = 8
"""Connections from one address that have not said yet what they want: any pod may connect, no pod is to keep
nodes out.
"""
PATIENCE_SECONDS: Final = 10.0
_MOST: Final = 256
_HELLO_SECONDS: Final = 10.0
_STREAM_SECONDS: Final = 3600.0
_PROOF_SECONDS: Final = 120.0
_MAX_ASK_BYTES: Final = 8 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Ask:
    ticket: str
    compress: bool
    have: dict[str, int]


class _Connection:
    """One that is open, and what it is about."""

    def __init__(self, line: socket.socket, address: str) -> None:
        self.line = line
        self.address = address
        self.parcel: Parcel | None = None
        self.thread: threading.Thread | None = None

    def hang_up(self) -> None:
        """Ends it, from any thread."""
        end(self.line)
        if self.parcel is not None:
            self.parcel.grew()  # who waits for more of it finds out that there is nobody to send it to


class Server:
    """Listens from `start` to `close`."""

    def __init__(
        self,
        shelf: Shelf,
        credentials: Credentials,
        *,
        bytes_per_second: int = 0,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """`bytes_per_second`: of the whole node, 0 for no limit; `patience`: see `frames.Channel`. Raises
        Refused when the credentials are none.
        """
        self._shelf = shelf
        self._context = credentials.server()
        self._pace = Pace(bytes_per_second)
        self._patience = patience
        self._hello_seconds = min(_HELLO_SECONDS, patience)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None

    def start(self, host: str, port: int = 0) -> int:
        """Listens on an address of this node; returns the port. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = self._listener = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
        self._acceptor = threading.Thread(target=self._accept, args=(listener,), name="transfer accept")
        self._acceptor.start()
        return int(listener.getsockname()[1])

    def renew(self, credentials: Credentials) -> None:
        """New connections are made with these. Raises Refused, and goes on with the old ones."""
        self._context = credentials.server()

    async def close(self) -> None:
        """Ends all connections; offers stay on the shelf."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._stopped.set()
        if self._listener is not None and self._acceptor is not None:
            end(self._listener)  # wakes accept(2)
            self._acceptor.join()
            self._listener.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.hang_up()
        for connection in connections:
            if connection.thread is not None:
                connection.thread.join()

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopped.is_set():
            try:
                line, address = listener.accept()
            except OSError as error:
                if self._stopped.is_set():
                    return
                log.warning("a connection could not be accepted", extra={"reason": str(error)})
                self._stopped.wait(0.1)  # of descriptors there may be more then
                continue
            with self._lock:
                connection = _Connection(line, str(address[0]))
                if self._crowded(connection.address):
                    line.close()  # whoever it is tries again
                    continue
                connection.thread = threading.Thread(target=self._serve, args=(connection,), name="transfer")
                self._connections.add(connection)
                connection.thread.start()

    def _crowded(self, address: str) -> bool:
        known = sum(each.parcel is not None for each in self._connections)
        strangers = sum(each.parcel is None and each.address == address for each in self._connections)
        return known >= MAX_CONNECTIONS or strangers >= MAX_STRANGERS or len(self._connections) >= _MOST

    def _serve(self, connection: _Connection) -> None:
        fields: dict[str, object] = {"address": connection.address}
        try:
            connection.line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.line.settimeout(self._hello_seconds)
            secure = self._context.wrap_socket(
                connection.line, server_side=True, do_handshake_on_connect=False
            )
            connection.line = secure  # the plain one has lost its descriptor to this
            if self._stopped.is_set():
                return
            secure.do_handshake()
            self._talk(connection, secure, fields)
        except (OSError, TransferError) as error:  # ssl.SSLError is an OSError
            log.warning("a transfer has ended early", extra={**fields, "reason": str(error)})
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.line.close()

    def _talk(self, connection: _Connection, secure: ssl.SSLSocket, fields: dict[str, object]) -> None:
        channel = Channel(secure, patience=self._patience, until=time.monotonic() + self._hello_seconds)
        hang_up = connection.hang_up
        try:
            fields["node"] = node = peer(secure)
            channel.send(Frame(Kind.HELLO, value=VERSION))
            ask = _read_ask(channel.expect(Kind.ASK))
            offer = self._shelf.claim(ask.ticket, node, hang_up)
        except (Refused, Corrupt) as error:
            _refuse(channel, str(error))
            raise
        connection.parcel = offer.parcel
        began = time.monotonic()
        channel.until = began + _STREAM_SECONDS
        if self._pace.limited:
            channel.paced = lambda count: self._pace.wait(count, self._stopped)
        try:
            self._send(channel, offer, ask)
            channel.patience = _PROOF_SECONDS
            digest = bytes(channel.expect(Kind.TAKEN).payload).decode("ascii", "replace")
            if digest != offer.parcel.digest:
                raise Corrupt("what was taken is not what was sent")
            self._shelf.took(offer, digest)
            channel.send(Frame(Kind.BYE))
        finally:
            self._shelf.release(offer, hang_up)
        log.info(
            "a parcel was taken",
            extra={**fields, "bytes": offer.sent, "seconds": round(time.monotonic() - began, 3)},
        )

    def _send(self, channel: Channel, offer: Offer, ask: _Ask) -> None:
        def sent(count: int) -> None:
            offer.sent += count

        sending = Sending(
            offer.parcel,
            channel,
            have=ask.have,
            compress=ask.compress and bool(compression.OFFERED),
            sent=sent,
        )
        try:
            sending.run()
        except Broken:
            raise
        except (OSError, Refused) as error:
            _refuse(channel, f"the source: {error}")
            raise


def _refuse(channel: Channel, reason: str) -> None:
    try:
        channel.send(Frame(Kind.REFUSED, payload=json.dumps({"reason": reason[:2000]}).encode()))
    except (Broken, TransferError):
        return  # whoever asked is gone


def _read_ask(frame: Frame) -> _Ask:
    try:
        body = parse(bytes(frame.payload), limit=_MAX_ASK_BYTES)
        known = [each.text(limit=32) for each in body.member("compression").items(limit=16)]
        have = body.member("have").members(limit=MAX_FILES)
        return _Ask(
            ticket=body.member("ticket").text(limit=200),
            compress="zstd" in known,
            have={checked_name(name): size.integer(high=MAX_FILE_BYTES) for name, size in have.items()},
        )
    except (Unreadable, ValueError) as error:
        raise Corrupt(f"the question can not be read: {error}") from error
