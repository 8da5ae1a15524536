"""A containerd that tells which containers there are, and nothing else, on a node's socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from architect.ttrpc.codec import decode, encode
from daemon.moving import runtime
from tests.daemon.moving.shims import Object, PlayedNode

LIST = "/runtime.v1.RuntimeService/ListContainers"


def made(pod: Object, image: str, *, name: str = "app", created: int = 1) -> runtime._Container:
    """A container of a pod, made from an image."""
    labels = {"io.kubernetes.pod.uid": pod["metadata"]["uid"], "io.kubernetes.container.name": name}
    return runtime._Container(image, created, labels)


@asynccontextmanager
async def telling(node: PlayedNode, containers: Sequence[Any]) -> AsyncIterator[None]:
    """Meanwhile the node's containerd tells of these containers."""

    async def listed(request: bytes, _: Any) -> bytes:
        wanted = decode(runtime._Request, request).filter
        assert wanted is not None
        fit = [each for each in containers if wanted.labels.items() <= each.labels.items()]
        return encode(runtime._Response(fit))

    server = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(listed)
    service, method = LIST[1:].split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    server.add_insecure_port(f"unix:{node.root}/run/containerd.sock")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)
