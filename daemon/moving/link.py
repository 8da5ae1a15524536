"""This node's way to the control plane and to other nodes: its identity, and what is made with it.

There is none until the control plane has given the first certificate; who wants something before waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from google.protobuf.message import Message

from architect.migration.client import ControlPlane, Unavailable
from architect.migration.identity import Identity, Issuer, keep
from architect.migration.methods import Method
from daemon.moving.trust import Trust
from daemon.transfer import Credentials, Refused, Server, Shelf

log = logging.getLogger(__name__)


class Link:
    """Of the node called `node`. `control`: host:port of the control plane, for those with a certificate;
    `listen`: where this node's parcels are fetched, port 0 lets the kernel choose; `bytes_per_second`: how
    quickly, in all, 0 for no limit.
    """

    def __init__(
        self,
        node: str,
        control: str,
        issuer: Issuer,
        trust: Trust,
        listen: tuple[str, int],
        bytes_per_second: int = 0,
    ) -> None:
        self.shelf = Shelf()
        self._address = ""
        self._node = node
        self._control = control
        self._issuer = issuer
        self._trust = trust
        self._listen = listen
        self._bytes_per_second = bytes_per_second
        self._certified = asyncio.Event()
        self._identity: Identity | None = None
        self._plane: ControlPlane | None = None
        self._server: Server | None = None

    async def run(self) -> None:
        """Keeps the identity until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._trust.run(), name="trust")
            await self._trust.given()
            await keep(self._issuer, self._renewed)

    async def close(self) -> None:
        """Ends all connections."""
        if self._server is not None:
            await self._server.close()
        if self._plane is not None:
            await self._plane.__aexit__()

    @property
    def ready(self) -> bool:
        """Whether there is an identity."""
        return self._certified.is_set()

    @property
    def credentials(self) -> Credentials:
        """What this node shows to others; only when it is ready."""
        assert self._identity is not None, "asked before there was an identity"
        return _credentials(self._identity)

    async def call[Q: Message, A: Message](self, method: Method[Q, A], request: Q, *, timeout: float) -> A:
        """As ControlPlane.call. Raises Refused (the control plane's), Unavailable."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        plane = await self._within(timeout)
        return await plane.call(method, request, timeout=max(0.05, until - loop.time()))

    async def stream[Q: Message, A: Message](self, method: Method[Q, A], request: Q) -> AsyncIterator[A]:
        """As ControlPlane.stream. Raises Refused (the control plane's), Unavailable."""
        plane = await self._within(60.0)
        async for answer in plane.stream(method, request):
            yield answer

    async def served(self) -> str:
        """host:port where this node's parcels are fetched."""
        await self._certified.wait()
        return self._address

    async def _within(self, timeout: float) -> ControlPlane:
        try:
            async with asyncio.timeout(timeout):
                await self._certified.wait()
        except TimeoutError:
            raise Unavailable("the control plane has given this node no certificate yet") from None
        assert self._plane is not None, "made with the identity"
        return self._plane

    def _renewed(self, identity: Identity) -> None:
        if identity.node != self._node:
            log.error("the certificate is another node's", extra={"node": identity.node})
            return
        try:
            self._use(identity)
        except (Refused, OSError) as error:
            log.error(  # noqa: TRY400 the reason is all there is to say
                "this node cannot serve what leaves it", extra={"listen": self._listen, "reason": str(error)}
            )

    def _use(self, identity: Identity) -> None:
        if self._server is None:
            server = Server(self.shelf, _credentials(identity), bytes_per_second=self._bytes_per_second)
            host = f"[{self._listen[0]}]" if ":" in self._listen[0] else self._listen[0]
            self._address = f"{host}:{server.start(*self._listen)}"
            self._server = server
        else:
            self._server.renew(_credentials(identity))
        self._identity = identity
        if self._plane is None:
            self._plane = ControlPlane(self._control, self._issuer.server_name, identity)
        else:
            self._plane.renew(identity)
        self._certified.set()


def _credentials(identity: Identity) -> Credentials:
    return Credentials(identity.certificate, identity.key, identity.authorities)
