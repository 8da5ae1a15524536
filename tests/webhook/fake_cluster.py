"""The Secret and the configuration as an API server keeps them: versions, conflicts, absences."""

from __future__ import annotations

import asyncio

from architect.kube import Conflict, Unreachable
from webhook.cluster import Missing, Secret, Trust


class FakeCluster:
    def __init__(self) -> None:
        self.text = ""
        self.bundles: list[str] | None = ["", ""]
        self.down = False
        self.writes = 0
        self._versions = {"secret": 0, "configuration": 1}
        self.changes = asyncio.Condition()
        self.waiting = 0

    def delete_secret(self) -> None:
        self.text = ""
        self._versions["secret"] = 0

    async def replace_bundles(self, bundles: list[str] | None) -> None:
        async with self.changes:
            self.bundles = bundles
            self._versions["configuration"] += 1
            self.changes.notify_all()

    async def secret(self) -> Secret:
        self._asked()
        await asyncio.sleep(0)
        version = self._versions["secret"]
        return Secret(self.text, str(version)) if version else Secret()

    async def write_secret(self, text: str, version: str) -> None:
        self._asked()
        if (version or "0") != str(self._versions["secret"]):
            raise Conflict("somebody was quicker", status=409)
        self.text = text
        self._versions["secret"] += 1
        self.writes += 1

    async def trust(self) -> Trust:
        self._asked()
        await asyncio.sleep(0)
        if self.bundles is None:
            raise Missing("there is no configuration")
        return Trust(tuple(self.bundles), str(self._versions["configuration"]))

    async def write_trust(self, bundle: str, version: str) -> None:
        self._asked()
        if self.bundles is None:
            raise Missing("there is no configuration")
        if version != str(self._versions["configuration"]):
            raise Conflict("somebody was quicker", status=409)
        await self.replace_bundles([bundle] * len(self.bundles))
        self.writes += 1

    async def changed(self, version: str, seconds: int) -> None:
        self._asked()
        self.waiting += 1
        try:
            async with self.changes:
                await self.changes.wait_for(lambda: str(self._versions["configuration"]) != version)
        finally:
            self.waiting -= 1

    def _asked(self) -> None:
        if self.down:
            raise Unreachable("the API server is away")
