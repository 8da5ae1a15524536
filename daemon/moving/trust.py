"""Whom this node trusts to be the control plane: what the ConfigMap says, from the moment it does.

Read and followed by the daemon itself. As a volume it would come through kubelet, which looks again after a
minute or more: on a new cluster, where the control plane has not written it yet when the daemons begin, no
pod would move for as long.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final
from urllib.parse import quote

from architect.kube import Client
from architect.kube.following import Following

NAME: Final = "architect-migration"
ENTRY: Final = "ca.crt"

log = logging.getLogger(__name__)
Object = dict[str, Any]


class Trust:
    """The authorities in the ConfigMap of our namespace. `run` follows it."""

    def __init__(self, client: Client) -> None:
        path = f"/api/v1/namespaces/{quote(client.access.namespace, safe='')}/configmaps"
        one: dict[str, Any] = {"fieldSelector": f"metadata.name={NAME}"}
        self._following = Following(client, path, self, _authorities, **one)
        self._known = ""
        self._given = asyncio.Event()

    async def run(self) -> None:
        """Follows it until cancelled."""
        await self._following.run()

    async def given(self) -> None:
        """Returns when there is somebody to trust."""
        await self._given.wait()

    def get(self) -> str:
        """Their certificates, PEM. Raises OSError while there are none."""
        if not self._known:
            raise OSError(f"nobody to trust yet: the ConfigMap {NAME} has no {ENTRY}")
        return self._known

    # What the API server tells

    def listed(self, items: list[str]) -> None:
        """All there is: one, or none."""
        for each in items:
            self.changed(each)

    def changed(self, item: str) -> None:
        """What is empty makes nobody untrusted: certificates of those before are in use."""
        if item and item != self._known:
            log.info("whom to trust is known", extra={"authorities": item.count("BEGIN CERTIFICATE")})
            self._known = item
            self._given.set()

    def deleted(self, item: str) -> None:
        """It is made again."""

    def lost(self, reason: str) -> None:
        """Nothing is heard at the moment."""
        log.warning("whom to trust is not followed", extra={"reason": reason})


def _authorities(found: Object) -> str:
    value = (found.get("data") or {}).get(ENTRY)
    return value if isinstance(value, str) else ""
