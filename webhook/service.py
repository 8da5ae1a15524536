"""The webhook as a process: its certificates, from wherever they come, and the server that shows them."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

from architect.kube import Access, Client, NoAccess, in_cluster
from architect.kube.kubeconfig import from_kubeconfig
from architect.program import Unable
from webhook import server, tls
from webhook.arguments import Settings
from webhook.certificates import Generation
from webhook.cluster import ApiCluster
from webhook.keeping import Keeper
from webhook.metrics import Metrics

DRAIN_SECONDS: Final = 5.0
"""How long it goes on answering when it is told to end: until no API server sends it anything any more."""

log = logging.getLogger(__name__)


async def run(
    settings: Settings,
    stop: asyncio.Event,
    *,
    drain: float = DRAIN_SECONDS,
    serving: Callable[[int], None] = lambda port: log.info("serving", extra={"port": port}),
) -> None:
    """Serves until `stop` is set, and `drain` seconds more; `serving` is told the port.

    Raises Unable when it cannot begin, or not go on.
    """
    metrics = Metrics()
    context = tls.context()
    begin = _files if settings.certificate_dir else _own
    async with begin(settings, context, metrics, stop) as trusted:
        if stop.is_set():
            return
        application = server.app(metrics, lambda: trusted() and not stop.is_set())
        try:
            listening = await server.listen(application, context, settings.port)
        except OSError as error:
            raise Unable(f"port {settings.port} cannot be served: {error}") from error
        serving(listening.port)
        try:
            await stop.wait()
            await asyncio.sleep(drain)
        finally:
            await listening.close()


@asynccontextmanager
async def _files(
    settings: Settings, context: ssl.SSLContext, metrics: Metrics, stop: asyncio.Event
) -> AsyncIterator[Callable[[], bool]]:
    tls.show_files(context, settings.certificate_dir)
    metrics.certificate_ends.set(0)
    async with _beside(tls.follow_files(context, settings.certificate_dir), stop):
        yield lambda: True


@asynccontextmanager
async def _own(
    settings: Settings, context: ssl.SSLContext, metrics: Metrics, stop: asyncio.Event
) -> AsyncIterator[Callable[[], bool]]:
    def show(generation: Generation) -> None:
        tls.show(context, generation.certificate, generation.key)
        metrics.certificate_ends.set(generation.ends)
        shown.set()

    shown = asyncio.Event()
    service = f"{settings.service}.{settings.namespace}.svc"
    async with Client(_access(settings)) as client:
        cluster = ApiCluster(
            client,
            namespace=settings.namespace,
            secret=settings.secret,
            configuration=settings.configuration,
        )
        keeper = Keeper(cluster, [service, f"{service}.cluster.local"], show)
        async with _beside(keeper.run(), stop):
            await _either(shown, stop)  # without a certificate there is nothing to serve with
            yield keeper.trusted.is_set


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> AsyncIterator[None]:
    """Runs `work` meanwhile. If it ends by itself, `stop` is set, and what it raised is raised at the end."""
    task = asyncio.create_task(work, name="certificates")
    task.add_done_callback(lambda _: stop.set())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def _either(one: asyncio.Event, other: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in (one, other)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _access(settings: Settings) -> Access:
    try:
        return from_kubeconfig(settings.kubeconfig) if settings.kubeconfig else in_cluster()
    except NoAccess as error:
        raise Unable(str(error)) from error
