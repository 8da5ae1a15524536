"""The HTTPS server that the API server asks: bounded bodies, a deadline on each, a sentence for each refusal.

Whoever reaches its port may ask; nothing is told that the question did not bring, and nothing is done.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from architect.settings import Refused
from architect.untrusted import Unreadable
from webhook import review
from webhook.asking import Namespace
from webhook.configuration import BY_NAMESPACE, BY_POD, BY_UNCLEAR_NAMESPACE, TIMEOUT_SECONDS
from webhook.metrics import CONTENT_TYPE, Metrics
from webhook.mutation import Mutation, mutate

PATHS: Final = {
    BY_POD: Namespace.SILENT,
    BY_NAMESPACE: Namespace.ASKS,
    BY_UNCLEAR_NAMESPACE: Namespace.UNCLEAR,
}

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def app(metrics: Metrics, ready: Callable[[], bool]) -> web.Application:
    """The application; `ready` says whether the API server should send its questions here."""
    found = web.Application(middlewares=[_errors_as_json], client_max_size=review.MAX_BYTES)

    async def health(_: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def readiness(_: web.Request) -> web.Response:
        return _json({"status": "ready"} if ready() else {"error": "not ready"}, 200 if ready() else 503)

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    for path, namespace in PATHS.items():
        found.router.add_post(path, _answering(namespace, metrics))
    found.router.add_get("/healthz", health)
    found.router.add_get("/readyz", readiness)
    found.router.add_get("/metrics", exposition)
    return found


class Listening:
    """The server while it runs."""

    def __init__(self, runner: web.AppRunner, port: int) -> None:
        self._runner = runner
        self.port = port

    async def close(self) -> None:
        """Stops listening; what is being answered may end."""
        await self._runner.cleanup()


async def listen(application: web.Application, tls: ssl.SSLContext, port: int) -> Listening:
    """Serves on `port` (0: any) of all addresses. Raises OSError."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=TIMEOUT_SECONDS)
    await runner.setup()
    try:
        listener = _listener(port)
        await web.SockSite(runner, listener, ssl_context=tls).start()
    except OSError:
        await runner.cleanup()
        raise
    return Listening(runner, listener.getsockname()[1])


def _listener(port: int) -> socket.socket:
    """One socket for both families, where the kernel has both."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _answering(namespace: Namespace, metrics: Metrics) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        started = time.monotonic()
        outcome = "failed"
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                body = await request.read()
            outcome, answered = _answered(body, namespace, metrics)
            return web.Response(body=answered, content_type="application/json")
        except Unreadable as error:
            outcome = "unreadable"
            return _json({"error": f"this is no admission review: {error}"}, 400)
        except TimeoutError:
            outcome = "unreadable"
            return _json({"error": f"no whole question within {TIMEOUT_SECONDS} s"}, 408)
        finally:
            metrics.reviews.labels(outcome).inc()
            metrics.seconds.observe(time.monotonic() - started)

    return answer


def _answered(body: bytes, namespace: Namespace, metrics: Metrics) -> tuple[str, bytes]:
    question = review.read(body)
    if question.pod is None:
        return "untouched", review.allowed(question.uid, Mutation())
    about = {"namespace": question.namespace, "pod": question.name, "dry_run": question.dry_run}
    try:
        mutation = mutate(question.pod, namespace)
    except Refused as error:
        log.info("pod refused", extra=about | {"reason": str(error)})
        return "refused", review.denied(question.uid, error)
    metrics.warnings.inc(len(mutation.warnings))
    if mutation.patch or mutation.warnings:
        log.info(
            "pod let pass", extra=about | {"changes": len(mutation.patch), "warnings": mutation.warnings}
        )
    return ("prepared" if mutation.patch else "untouched"), review.allowed(question.uid, mutation)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return _json({"error": f"{request.method} {request.path[:200]}: {error.reason}"}, error.status, allow)
    except Exception:  # the border: a bug must not leave the API server without an answer
        log.exception("a question failed", extra={"path": request.path[:200]})
        return _json({"error": "the webhook failed to answer; its log says why"}, 500)


def _json(body: dict[str, str], status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(body, status=status, headers=headers, dumps=json.dumps)
