"""Fetching a parcel from another node: connected again and again until all of it is here, or the deadline is
over.

The work is done by a thread of its own; the event loop only waits for it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from daemon.transfer import compression
from daemon.transfer.contents import Contents, digest
from daemon.transfer.credentials import Credentials, end, peer
from daemon.transfer.errors import Broken, Corrupt, Refused, TooLate, TransferError
from daemon.transfer.frames import VERSION, Channel, Frame, Kind
from daemon.transfer.landing import Landing, discard
from daemon.transfer.receiving import Progress, Receiving, reason
from daemon.transfer.server import PATIENCE_SECONDS

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_REPAIRS: Final = 3  # times that a file may turn out to have changed while it was sent
_BYE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Source:
    """Where a parcel is: an address and port, the node that must answer there, and the ticket."""

    host: str
    port: int
    node: str
    ticket: str


@dataclass(frozen=True, slots=True)
class Received:
    """A parcel that is here, whole and right, in directory `path`; the files not durable yet."""

    path: str
    contents: Contents
    digest: str
    bytes: int
    wire_bytes: int
    connections: int
    seconds: float


async def fetch(
    source: Source,
    credentials: Credentials,
    *,
    into: str,
    limit: int,
    seconds: float,
    digest: str = "",
    progress: Progress | None = None,
    patience: float = PATIENCE_SECONDS,
) -> Received:
    """Fetches a parcel to `into`, which must not exist: it appears there at once, or not at all.

    `limit`: bytes that it may have, holes included; `seconds`: until TooLate; `digest`: the parcel's, if
    known. Raises Refused, Corrupt, NoSpace, TooLate, after which nothing is left; OSError when the disk
    fails. When cancelled (or killed), what came stays: the next fetch to the same place goes on with it, or
    `discard`.
    """
    loop = asyncio.get_running_loop()

    def tell(done: int, total: int) -> None:
        if progress is not None:
            loop.call_soon_threadsafe(progress, done, total)

    fetching = _Fetching(
        source, credentials.client(), into, limit, time.monotonic() + seconds, patience, tell
    )
    pool = ThreadPoolExecutor(1, "transfer fetch")
    work = loop.run_in_executor(pool, fetching.run, digest)
    try:
        return await asyncio.shield(work)
    finally:
        fetching.stop()
        while not work.done():
            try:
                await asyncio.wait({work})
            except asyncio.CancelledError:
                continue  # it is ending; a file half-written by a thread of nobody's would be worse
        if not work.cancelled():
            work.exception()  # seen: nobody else may look
        pool.shutdown()


class _Repair(Exception):
    """Some of what came has to come again."""


class _Fetching:
    def __init__(
        self,
        source: Source,
        context: ssl.SSLContext,
        into: str,
        limit: int,
        until: float,
        patience: float,
        tell: Progress,
    ) -> None:
        self._source = source
        self._context = context
        self._into = into
        self._limit = limit
        self._until = until
        self._patience = patience
        self._tell = tell
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._wire_bytes = 0
        self._connections = 0

    def stop(self) -> None:
        """Ends `run` soon, from another thread."""
        self._stopped.set()
        with self._lock:
            if self._connection is not None:
                end(self._connection)

    def run(self, wanted: str) -> Received:
        """Raises as `fetch` does; Broken when stopped."""
        began = time.monotonic()
        with Landing(self._into, self._limit) as landing:
            try:
                contents = self._insist(landing, wanted)
            except Broken:
                raise
            except (OSError, TransferError):
                discard(self._into)
                raise
        return Received(
            self._into,
            contents,
            digest(contents),
            sum(file.size for file in contents.values()),
            self._wire_bytes,
            self._connections,
            time.monotonic() - began,
        )

    def _insist(self, landing: Landing, wanted: str) -> Contents:
        pause = _FIRST_PAUSE
        repairs = 0
        while True:
            before = landing.bytes
            try:
                return self._once(landing, wanted)
            except _Repair as error:
                repairs += 1
                if repairs > _REPAIRS:
                    raise Corrupt(f"what came is not what was announced: {error}") from None
                problem: Exception = error
            except Broken as error:
                problem = error
            if self._stopped.is_set():
                raise Broken("the fetch was called off")
            pause = _FIRST_PAUSE if landing.bytes > before else min(2 * pause, _LONGEST_PAUSE)
            if time.monotonic() + pause >= self._until:
                raise TooLate(
                    f"the parcel did not come in time: {landing.bytes} bytes did, then: {problem}"
                ) from problem
            self._stopped.wait(pause)

    def _once(self, landing: Landing, wanted: str) -> Contents:
        connection = self._connect()
        try:
            channel = Channel(connection, patience=self._patience, until=self._until)
            try:
                return self._talk(channel, landing, wanted)
            except TooLate as error:
                raise TooLate(f"the parcel did not come in time: {landing.bytes} bytes did") from error
            finally:
                self._wire_bytes += channel.received
        finally:
            with self._lock:
                self._connection = None
            connection.close()

    def _connect(self) -> ssl.SSLSocket:
        family = socket.AF_INET6 if ":" in self._source.host else socket.AF_INET
        raw = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection: socket.socket = raw
        try:
            raw.settimeout(max(0.001, min(self._patience, self._until - time.monotonic())))
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._hold(raw)
            raw.connect((self._source.host, self._source.port))
            connection = secure = self._context.wrap_socket(raw, do_handshake_on_connect=False)
            self._hold(secure)
            secure.do_handshake()
            node = peer(secure)
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise Refused(f"the source's certificate is not to be trusted: {error.verify_message}") from error
        except OSError as error:
            connection.close()
            raise Broken(f"no connection to {self._source.host}: {error}") from error
        except BaseException:
            connection.close()
            raise
        if node != self._source.node:
            connection.close()
            raise Refused(f"{self._source.host} is node {node[:100]}, not {self._source.node}")
        self._connections += 1
        return secure

    def _hold(self, connection: socket.socket) -> None:
        with self._lock:
            self._connection = connection
        if self._stopped.is_set():
            raise Broken("the fetch was called off")

    def _talk(self, channel: Channel, landing: Landing, wanted: str) -> Contents:
        hello = channel.receive()
        if hello.kind == Kind.REFUSED:
            raise Refused(reason(hello))
        version = hello.value if hello.kind == Kind.HELLO else 0
        if version != VERSION:
            raise Refused(f"the source speaks version {version} of the protocol; this node speaks {VERSION}")
        ask = {
            "ticket": self._source.ticket,
            "compression": list(compression.OFFERED),
            "have": landing.have,
        }
        channel.send(Frame(Kind.ASK, payload=json.dumps(ask).encode()))
        contents = Receiving(channel, landing, self._tell).run()
        found = digest(contents)
        if wanted and found != wanted:
            raise Corrupt(f"the parcel has the digest {found}; {wanted} was announced")
        wrong = landing.settle(contents)
        if wrong:
            raise _Repair(wrong)
        landing.complete()
        self._tell(landing.bytes, landing.bytes)
        channel.until = time.monotonic() + _BYE_SECONDS
        try:
            channel.send(Frame(Kind.TAKEN, payload=found.encode()))
            channel.expect(Kind.BYE)
        except (Broken, TransferError):
            pass  # it is here; that the source was not told is for whoever brought the two together
        return contents
