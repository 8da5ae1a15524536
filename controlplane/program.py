"""The control plane as a process: authorities, ports, and the broker for as long as this replica leads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import Callable
from typing import Final

from architect.kube import Access, Client, NoAccess, in_cluster
from architect.kube.kubeconfig import from_kubeconfig
from architect.program import Unable
from controlplane import health, listening
from controlplane.arguments import Settings
from controlplane.authorities import Authority
from controlplane.broker import Broker
from controlplane.certifying import Certifier
from controlplane.election import Election
from controlplane.keeping import Keeper
from controlplane.listening import Identity
from controlplane.metrics import Metrics
from controlplane.service import Calls

_AGAIN_SECONDS: Final = 1.0

log = logging.getLogger(__name__)


class Replica:
    """One process of the control plane. `run` serves until `stop` is set."""

    def __init__(self, settings: Settings, client: Client) -> None:
        self._settings = settings
        self._client = client
        self._metrics = Metrics()
        service = f"{settings.service}.{settings.namespace}.svc"
        self._identity = Identity([service, f"{service}.cluster.local", settings.service])
        self._authorities: list[Authority] = []
        self._certified = asyncio.Event()
        self._election: Election | None = None
        self._broker: Broker | None = None
        self._serving = False

    async def run(self, stop: asyncio.Event, serving: Callable[[int, int, int], None]) -> None:
        """Serves until `stop` is set; `serving` is told the ports. Raises Unable."""
        settings = self._settings
        keeper = Keeper(self._client, settings.namespace, settings.secret, self._renewed)
        stopping = asyncio.create_task(stop.wait(), name="stop")
        tasks = [
            asyncio.create_task(keeper.run(), name="authorities"),
            asyncio.create_task(self._serve(serving), name="serve"),
        ]
        try:
            done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopping, *tasks):
                task.cancel()
            await asyncio.gather(stopping, *tasks, return_exceptions=True)
        for task in done:
            task.result()  # neither of both ends by itself

    async def _serve(self, serving: Callable[[int, int, int], None]) -> None:
        await self._certified.wait()
        settings = self._settings
        user = f"system:serviceaccount:{settings.namespace}:{settings.node_account}"
        certifier = Certifier(
            self._client, user, self._identity.names, lambda: self._authorities, time.time, self._metrics
        )
        async with contextlib.AsyncExitStack() as stack:
            try:
                calls = Calls(self._leading, self._metrics).handlers()
                nodes, port = await listening.listen(calls, self._identity.mutual(), settings.port)
                stack.push_async_callback(nodes.stop, listening.GRACE_SECONDS)
                newcomers, certify_port = await listening.listen(
                    certifier.handlers(), self._identity.plain(), settings.certify_port
                )
                stack.push_async_callback(newcomers.stop, listening.GRACE_SECONDS)
                application = health.app(self._metrics, lambda: self._serving)
                runner, health_port = await health.listen(application, settings.health_port)
                stack.push_async_callback(runner.cleanup)
            except (OSError, RuntimeError) as error:
                raise Unable(f"a port cannot be served: {error}") from error
            self._serving = True
            serving(port, certify_port, health_port)
            await self._lead(port)

    async def _lead(self, port: int) -> None:
        """Leads whenever it can."""
        settings = self._settings
        host = f"[{settings.address}]" if ":" in settings.address else settings.address
        self._election = Election(
            self._client,
            settings.namespace,
            settings.lease,
            identity=f"{socket.gethostname()}_{secrets.token_hex(4)}",
            address=f"{host}:{port}",
        )
        try:
            while True:
                await self._election.acquire()
                await self._led(self._election)
        finally:
            await self._election.release()

    async def _led(self, election: Election) -> None:
        broker = Broker(self._client, self._metrics)
        work = asyncio.create_task(broker.run(), name="broker")
        hold = asyncio.create_task(election.hold(), name="lease")
        self._broker = broker
        self._metrics.leads.set(1)
        try:
            await asyncio.wait([work, hold], return_when=asyncio.FIRST_COMPLETED)
            if work.done() and (error := work.exception()) is not None:
                log.error("the broker has failed; another may lead", exc_info=error)
                await election.release()
                await asyncio.sleep(_AGAIN_SECONDS)
        finally:
            self._broker = None
            self._metrics.leads.set(0)
            broker.end()
            for task in (work, hold):
                task.cancel()
            await asyncio.gather(work, hold, return_exceptions=True)

    def _leading(self) -> tuple[Broker | None, str]:
        if self._election is None:
            return None, ""
        if self._election.leads and self._broker is not None:
            return self._broker, ""
        return None, self._election.leader if self._election.leader != self._election.address else ""

    def _renewed(self, authorities: list[Authority]) -> None:
        now = int(time.time())
        self._identity.renew(authorities, now)
        self._authorities = authorities
        self._metrics.authority_ends.set(max(each.ends for each in authorities))
        self._certified.set()


async def run(
    settings: Settings,
    stop: asyncio.Event,
    *,
    serving: Callable[[int, int, int], None] = lambda port, certify_port, health_port: log.info(
        "serving", extra={"port": port, "certify_port": certify_port, "health_port": health_port}
    ),
) -> None:
    """Serves until `stop` is set. Raises Unable when it cannot begin."""
    async with Client(_access(settings)) as client:
        await Replica(settings, client).run(stop, serving)


def _access(settings: Settings) -> Access:
    try:
        return from_kubeconfig(settings.kubeconfig) if settings.kubeconfig else in_cluster()
    except NoAccess as error:
        raise Unable(str(error)) from error
