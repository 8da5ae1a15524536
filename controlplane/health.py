"""What the cluster asks this process: whether it lives, whether it is ready, its metrics. Plain HTTP."""

from __future__ import annotations

import socket
from collections.abc import Callable

from aiohttp import web

from controlplane.metrics import CONTENT_TYPE, Metrics


def app(metrics: Metrics, ready: Callable[[], bool]) -> web.Application:
    """The application; `ready` says whether nodes may be sent here."""
    found = web.Application(client_max_size=1 << 10)

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readiness(_: web.Request) -> web.Response:
        is_ready = ready()
        return web.json_response({"ready": is_ready}, status=200 if is_ready else 503)

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    found.router.add_get("/healthz", health)
    found.router.add_get("/readyz", readiness)
    found.router.add_get("/metrics", exposition)
    return found


async def listen(application: web.Application, port: int) -> tuple[web.AppRunner, int]:
    """Serves it on all addresses; answers the runner to clean up, and the port. Raises OSError."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    if socket.has_dualstack_ipv6():
        listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    else:
        listener = socket.create_server(("", port))
    await web.SockSite(runner, listener).start()
    return runner, int(listener.getsockname()[1])
