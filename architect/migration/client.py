"""Calls to whichever replica of the control plane leads.

The Service leads to any of them; one that does not lead says who does, and from then on calls go there, until
that one says otherwise or is gone. A call is repeated until its time is over: each of the contract may be.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, Self

import grpc
from google.protobuf.message import Message

from architect.migration.identity import Identity
from architect.migration.methods import LEADER, Method

CALL_SECONDS: Final = 10.0
_ATTEMPT_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
# CANCELLED: of a replica that ends and breaks off what it was answering; our own end is not seen as a status.
_LATER: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)
_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),
)

log = logging.getLogger(__name__)


class Refused(Exception):
    """The control plane said no; repeated, the call would not be better."""

    def __init__(self, code: grpc.StatusCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Unavailable(Exception):
    """No replica that leads was found in time."""


@dataclass(eq=False, slots=True)
class _Line:
    channel: grpc.aio.Channel
    users: int = 0


class ControlPlane:
    """The control plane, as the node `identity` names. `address`: host:port of its Service."""

    def __init__(self, address: str, server_name: str, identity: Identity) -> None:
        self._service = address
        self._server_name = server_name
        self._identity = identity
        self._leader = ""
        self._lines: dict[str, _Line] = {}
        self._replaced: set[_Line] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        lines = [*self._lines.values(), *self._replaced]
        self._lines, self._replaced = {}, set()
        for line in lines:
            await line.channel.close()

    def renew(self, identity: Identity) -> None:
        """Calls show another certificate from now on. Streams that are open go on with theirs."""
        self._identity = identity
        self._replaced |= set(self._lines.values())
        self._lines = {}

    async def call[Q: Message, A: Message](
        self, method: Method[Q, A], request: Q, *, timeout: float = CALL_SECONDS
    ) -> A:
        """The answer to a call. Raises Refused, and Unavailable when `timeout` s are over."""
        deadline = time.monotonic() + timeout
        failures = 0
        while True:
            left = deadline - time.monotonic()
            line = self._line()
            try:
                made = line.channel.unary_unary(
                    method.path,
                    request_serializer=method.request.SerializeToString,
                    response_deserializer=method.answer.FromString,
                )
                answer: A = await made(request, timeout=max(0.1, min(left, _ATTEMPT_SECONDS)))
                return answer
            except grpc.aio.AioRpcError as error:
                failures += 1
                await self._after(error, failures, deadline)
            finally:
                await self._give_back(line)

    async def stream[Q: Message, A: Message](
        self, method: Method[Q, A], request: Q, *, patience: float = 60.0
    ) -> AsyncIterator[A]:
        """The answers to a call, asked anew whenever its replica goes: what is told is how things are, so
        that to hear it twice does no harm.

        Raises Refused, and Unavailable when nobody who leads is found for `patience` s.
        """
        deadline, failures = time.monotonic() + patience, 0
        while True:
            line = self._line()
            make: Any = line.channel.unary_stream(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.answer.FromString,
            )
            stream = make(request)
            try:
                async for answer in stream:
                    deadline, failures = time.monotonic() + patience, 0
                    yield answer
                return
            except grpc.aio.AioRpcError as error:
                failures += 1
                await self._after(error, failures, deadline)
            finally:
                stream.cancel()
                await self._give_back(line)

    async def _after(self, error: grpc.aio.AioRpcError, failures: int, deadline: float) -> None:
        """Returns when to ask again; raises Refused, Unavailable."""
        said = error.details() or error.code().name
        if error.code() not in _LATER:
            raise Refused(error.code(), said) from error
        trailing = dict(error.trailing_metadata() or ())
        leader, before = str(trailing.get(LEADER, "")), self._leader
        self._leader = leader
        at_once = bool(leader) and leader != before
        pause = 0.0 if at_once else _AGAIN_SECONDS[min(failures, len(_AGAIN_SECONDS)) - 1]
        if time.monotonic() + pause >= deadline:
            raise Unavailable(f"the control plane cannot be asked: {said}") from error
        log.debug("the control plane is asked again", extra={"leader": leader, "reason": said})
        await asyncio.sleep(pause)

    def _line(self) -> _Line:
        """A connection to who leads, or to the Service; to be given back."""
        address = self._leader or self._service
        if address not in self._lines:
            who = self._identity
            credentials = grpc.ssl_channel_credentials(
                who.authorities.encode(), who.key.encode(), who.certificate.encode()
            )
            options = (("grpc.ssl_target_name_override", self._server_name), *_OPTIONS)
            self._lines[address] = _Line(grpc.aio.secure_channel(address, credentials, options))
        line = self._lines[address]
        line.users += 1
        return line

    async def _give_back(self, line: _Line) -> None:
        """One that was replaced meanwhile is closed by its last user."""
        line.users -= 1
        if not line.users and line in self._replaced:
            self._replaced.discard(line)
            await line.channel.close()
