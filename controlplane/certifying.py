"""Certificates for nodes: who asks is the node that its pod's token names, as the API server says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any, Final

import grpc

from architect import generations
from architect.kube import Client
from architect.migration import methods
from architect.migration.methods import AUDIENCE
from architect.migration.v1 import migration_pb2 as v1
from controlplane import authorities
from controlplane.authorities import Authority, Unsigned
from controlplane.metrics import Metrics
from controlplane.refusals import Refusal, malformed, translated

NODE_NAME: Final = "authentication.kubernetes.io/node-name"
"""In what a token review tells of a token that is bound to a pod; from Kubernetes 1.30 on."""
CALL_SECONDS: Final = 10.0
_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_LONGEST: Final = 16 << 10

log = logging.getLogger(__name__)


class Certifier:
    """The service Certificates. `user`: the service account of nodes; `reserved`: names of no node."""

    def __init__(
        self,
        client: Client,
        user: str,
        reserved: Collection[str],
        known: Callable[[], list[Authority]],
        clock: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._client = client
        self._user = user
        self._reserved = reserved
        self._known = known
        self._clock = clock
        self._metrics = metrics

    def handlers(self) -> grpc.GenericRpcHandler:
        """For a server."""
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
            self._answer,
            request_deserializer=v1.CertifyRequest.FromString,
            response_serializer=v1.CertifyResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(methods.CERTIFICATES, {methods.CERTIFY.name: handler})

    async def _answer(
        self, request: v1.CertifyRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> v1.CertifyResponse | None:
        status, found = "OK", None
        try:
            with translated():
                async with asyncio.timeout(CALL_SECONDS):
                    found = await self.certify(request)
        except Refusal as error:
            status = error.code.name
            log.warning("no certificate is given", extra={"peer": context.peer(), "reason": str(error)})
            await context.abort(error.code, str(error))
        finally:
            self._metrics.calls.labels(methods.CERTIFY.name, status).inc()
        return found

    async def certify(self, request: v1.CertifyRequest) -> v1.CertifyResponse:
        """A certificate for the node that the token is of. Raises Refusal, ApiError."""
        if not request.token or max(len(request.token), len(request.request)) > _LONGEST:
            raise malformed("a token and a request are needed, of 16 KiB at most")
        node = await self._node(request.token)
        known, now = self._known(), int(self._clock())
        if not known:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "there is no authority yet")
        try:
            made = await asyncio.to_thread(
                authorities.for_node, generations.in_use(known, now), node, request.request, now
            )
        except Unsigned as error:
            raise malformed(str(error)) from error
        self._metrics.certificates.inc()
        log.info("certificate given", extra={"node": node})
        return v1.CertifyResponse(
            node=node,
            certificate=made,
            authorities=authorities.bundle(known),
            renew_after_seconds=authorities.RENEW_SECONDS,
        )

    async def _node(self, token: str) -> str:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        status = (await self._client.create(_REVIEWS, body)).get("status") or {}
        if status.get("authenticated") is not True or AUDIENCE not in (status.get("audiences") or []):
            raise Refusal(grpc.StatusCode.UNAUTHENTICATED, "the token is not valid here")
        user = status.get("user") or {}
        if user.get("username") != self._user:
            raise Refusal(grpc.StatusCode.UNAUTHENTICATED, f"the token is not {self._user}'s")
        nodes = (user.get("extra") or {}).get(NODE_NAME) or []
        if len(nodes) != 1 or not nodes[0] or nodes[0] in self._reserved:
            raise Refusal(grpc.StatusCode.UNAUTHENTICATED, "the token is not bound to a pod on a node")
        return str(nodes[0])
