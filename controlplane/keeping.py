"""Keeps the authorities: in a Secret that the replicas share, whom to trust in a ConfigMap for the nodes.

Every replica does the same: reads the Secret, makes an authority if one is due, writes what is new; whoever
comes second finds a conflict, and reads again. Nobody is elected for this, and any can die at any point.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from architect import generations
from architect.kube import ApiError, Client, NotFound
from architect.kube.following import Backoff
from architect.untrusted import Unreadable
from controlplane import authorities
from controlplane.authorities import Authority

ENTRY: Final = "authorities.json"
TRUST: Final = "ca.crt"
"""The ConfigMap's entry: whom to trust, PEM."""
LOOK_SECONDS: Final = 600.0

log = logging.getLogger(__name__)


class Keeper:
    """One replica's part in it. `renewed` is told of the authorities at every look."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        renewed: Callable[[list[Authority]], None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        space = f"/api/v1/namespaces/{quote(namespace, safe='')}"
        self._client = client
        self._name = name
        self._secrets, self._maps = f"{space}/secrets", f"{space}/configmaps"
        self._renewed = renewed
        self._clock = clock
        self._known: list[Authority] = []

    async def run(self) -> None:
        """Keeps them until cancelled, through any absence of the API server."""
        backoff = Backoff()
        while True:
            try:
                await self.look()
            except ApiError as error:
                log.warning("authorities could not be looked after", extra={"reason": str(error)})
                await asyncio.sleep(backoff.pause(error.after))
            else:
                backoff.reset()
                await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Does what is due. Raises ApiError."""
        now = int(self._clock())
        stored, version = await self._stored()
        # A Secret that somebody has deleted is written again: certificates of these are in use.
        found = generations.alive(stored or self._known, now)
        if generations.due(found, now):
            begins = now + authorities.SETTLE_SECONDS if found else now
            found.append(await asyncio.to_thread(authorities.make, now, begins=begins))
            log.info("authority made", extra={"begins": begins})
        if found != stored:
            data = {ENTRY: base64.b64encode(authorities.dumped(found).encode()).decode()}
            await self._write(self._secrets, {"data": data}, version)
        await self._publish(authorities.bundle(found))
        self._known = found
        self._renewed(found)

    async def _stored(self) -> tuple[list[Authority], str]:
        try:
            secret = await self._client.get(f"{self._secrets}/{quote(self._name, safe='')}")
        except NotFound:
            return [], ""
        version = str(secret["metadata"]["resourceVersion"])
        try:
            text = base64.b64decode((secret.get("data") or {}).get(ENTRY, "")).decode()
            return (authorities.loaded(text) if text else []), version
        except (Unreadable, binascii.Error, UnicodeDecodeError) as error:
            log.warning(
                "the Secret's authorities cannot be read; new ones follow", extra={"reason": str(error)}
            )
            return [], version

    async def _publish(self, wanted: str) -> None:
        try:
            found = await self._client.get(f"{self._maps}/{quote(self._name, safe='')}")
        except NotFound:
            await self._write(self._maps, {"data": {TRUST: wanted}}, "")
            return
        if (found.get("data") or {}).get(TRUST) != wanted:
            await self._write(
                self._maps, {"data": {TRUST: wanted}}, str(found["metadata"]["resourceVersion"])
            )

    async def _write(self, collection: str, body: dict[str, Any], version: str) -> None:
        if version:
            body = body | {"metadata": {"resourceVersion": version}}
            await self._client.patch(f"{collection}/{quote(self._name, safe='')}", body)
        else:
            labels = {"app.kubernetes.io/name": "architect-controlplane"}
            await self._client.create(collection, body | {"metadata": {"name": self._name, "labels": labels}})
