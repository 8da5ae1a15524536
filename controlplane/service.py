"""The calls of nodes, as gRPC: whose certificate it is, who leads, which status an error gets.

What a call means is in `source.py` and `target.py`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from architect.migration import methods
from architect.migration.methods import LEADER, Method
from controlplane import source, target
from controlplane.broker import Broker
from controlplane.metrics import Metrics
from controlplane.refusals import Refusal, translated

NODE_URI: Final = "architect://node/"

log = logging.getLogger(__name__)

Unary = Callable[[Broker, str, Any], Awaitable[Message]]
Stream = Callable[[Broker, str, Any], AsyncIterator[Message]]
Leading = Callable[[], tuple[Broker | None, str]]
"""The broker of a replica that leads, or None and the address of who does ("": nobody)."""

UNARY: Final[tuple[tuple[Method[Any, Any], Unary], ...]] = (
    (methods.LEAVE, source.leave),
    (methods.OFFER, source.offer),
    (methods.WITHDRAW, source.withdraw),
    (methods.PROGRESS, target.progress),
    (methods.TAKE, target.take),
    (methods.CONFIRM, target.confirm),
    (methods.ABANDON, target.abandon),
)
STREAMS: Final[tuple[tuple[Method[Any, Any], Stream], ...]] = (
    (methods.FOLLOW, source.follow),
    (methods.CLAIM, target.claim),
)


def node_of(names: list[bytes]) -> str:
    """The node that a certificate's subjectAltName names; "" when it is no node's."""
    found = [name.decode("ascii", "replace") for name in names]
    nodes = [name.removeprefix(NODE_URI) for name in found if name.startswith(NODE_URI)]
    return nodes[0] if len(nodes) == 1 else ""


class Calls:
    """The handlers of the service Migrations."""

    def __init__(self, leading: Leading, metrics: Metrics) -> None:
        self._leading = leading
        self._metrics = metrics

    def handlers(self) -> grpc.GenericRpcHandler:
        """For a server."""
        found: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for method, unary in UNARY:
            found[method.name] = grpc.unary_unary_rpc_method_handler(
                self._unary(method, unary),
                request_deserializer=method.request.FromString,
                response_serializer=method.answer.SerializeToString,
            )
        for method, stream in STREAMS:
            found[method.name] = grpc.unary_stream_rpc_method_handler(
                self._stream(method, stream),
                request_deserializer=method.request.FromString,
                response_serializer=method.answer.SerializeToString,
            )
        return grpc.method_handlers_generic_handler(methods.MIGRATIONS, found)

    def _unary(self, method: Method[Any, Any], call: Unary) -> Any:
        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Message | None:
            try:
                with translated():
                    broker, node = self._asked(context)
                    found = await call(broker, node, request)
                self._count(method, "OK")
                return found
            except Refusal as error:
                await self._refuse(method, context, error)
                return None

        return answer

    def _stream(self, method: Method[Any, Any], call: Stream) -> Any:
        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Message]:
            try:
                with translated():
                    broker, node = self._asked(context)
                    async for event in call(broker, node, request):
                        yield event
                self._count(method, "OK")
            except Refusal as error:
                await self._refuse(method, context, error)

        return answer

    def _asked(self, context: grpc.aio.ServicerContext[Any, Any]) -> tuple[Broker, str]:
        node = node_of(list(context.auth_context().get("x509_subject_alternative_name", [])))
        if not node:
            raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "the certificate is no node's")
        broker, leader = self._leading()
        if broker is None:
            if leader:
                context.set_trailing_metadata(((LEADER, leader),))
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "this replica does not lead")
        if not broker.complete:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "this replica has only begun to lead")
        return broker, node

    async def _refuse(
        self, method: Method[Any, Any], context: grpc.aio.ServicerContext[Any, Any], error: Refusal
    ) -> None:
        self._count(method, error.code.name)
        log.info("a call is refused", extra={"method": method.name, "reason": str(error)})
        await context.abort(error.code, str(error))

    def _count(self, method: Method[Any, Any], status: str) -> None:
        self._metrics.calls.labels(method.name, status).inc()
