"""What people and Prometheus ask the daemon, over HTTP: a unix socket that is root's alone, and `/metrics` on
TCP.

Errors are `{"error": sentence}`. Nothing here takes a request body.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from architect.ttrpc.client import Code, RpcError
from daemon import VERSION
from daemon.containers import Container, NoSuch
from daemon.explain import explained, listed
from daemon.metrics import CONTENT_TYPE
from daemon.node import Node

_STATUS: Final = {
    Code.NOT_FOUND: 404,
    Code.FAILED_PRECONDITION: 409,
    Code.ABORTED: 409,
    Code.DEADLINE_EXCEEDED: 504,
    Code.RESOURCE_EXHAUSTED: 503,
}
_BODY_BYTES: Final = 4096

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def metrics_app(node: Node) -> web.Application:
    """`/metrics` and nothing else."""
    app = web.Application(middlewares=[_errors_as_json], client_max_size=_BODY_BYTES)
    _add_metrics(app, node)
    return app


def people_app(node: Node) -> web.Application:
    """The whole API."""
    app = web.Application(middlewares=[_errors_as_json], client_max_size=_BODY_BYTES)
    _add_metrics(app, node)

    async def health(_: web.Request) -> web.Response:
        return _json(
            {
                "status": "ok",
                "version": VERSION,
                "shims": len(node.shims),
                "containers": len(node.containers),
                "kubernetes": node.audience.health(),
            }
        )

    async def containers(_: web.Request) -> web.Response:
        # The pod's sandbox is a container to containerd and of no interest to people; it has no name.
        named = sorted((c for c in node.containers if c.status.name), key=lambda c: (c.path, c.status.id))
        return _json({"containers": [listed(container) for container in named]})

    async def kept(_: web.Request) -> web.Response:
        return _json({"kept": [] if node.kept is None else await node.kept()})

    async def explain(request: web.Request) -> web.Response:
        container = _find(node, request)
        return _json(explained(container, node.audience.explained(container)))

    async def hibernate(request: web.Request) -> web.Response:
        container = _find(node, request)
        await _asked(node.sleeping.hibernate(container), container)
        return _json(listed(container))

    async def wake(request: web.Request) -> web.Response:
        container = _find(node, request)
        await _asked(node.waking.wake(container, "request"), container)
        return _json(listed(container))

    app.router.add_get("/v1/health", health)
    app.router.add_get("/v1/containers", containers)
    app.router.add_get("/v1/kept", kept)
    app.router.add_get("/v1/containers/{reference:.+}/explain", explain)
    app.router.add_post("/v1/containers/{reference:.+}/hibernate", hibernate)
    app.router.add_post("/v1/containers/{reference:.+}/wake", wake)
    return app


def private_socket(path: str) -> socket.socket:
    """A listening unix socket at `path`, 0600, in the place of a predecessor's. Raises OSError."""
    fresh = f"{path}.new"
    try:
        os.unlink(fresh)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(fresh)
        os.chmod(fresh, 0o600)
        listener.listen()
        os.rename(fresh, path)  # whoever sees the socket can use it, or is not allowed to
    except OSError:
        listener.close()
        raise
    return listener


def _add_metrics(app: web.Application, node: Node) -> None:
    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=node.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    app.router.add_get("/metrics", metrics)


def _find(node: Node, request: web.Request) -> Container:
    try:
        return node.containers.find(request.match_info["reference"])
    except NoSuch as error:
        raise _Failed(409 if error.ambiguous else 404, str(error)) from error


class _Failed(Exception):
    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


async def _asked(work: Awaitable[None], container: Container) -> None:
    try:
        await work
    except RpcError as error:
        raise _Failed(_STATUS.get(error.code, 502), error.message) from error
    except ConnectionError as error:
        raise _Failed(503, f"the shim of {container.path} is gone: {error}") from error


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except _Failed as error:
        return _json({"error": str(error)}, error.status)
    except web.HTTPException as error:
        sentence = f"{request.method} {request.path[:200]}: {error.reason}"
        return _json(
            {"error": sentence},
            error.status,
            {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {},
        )
    except Exception:  # the border: a bug must not leave whoever asked without an answer
        log.exception("a request failed", extra={"path": request.path[:200]})
        return _json({"error": "the daemon failed to answer; its log says why"}, 500)


def _json(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(body, status=status, headers=headers or {}, dumps=json.dumps)
