"""Who leads: one replica at a time holds a Lease (coordination.k8s.io/v1), and renews it.

A lease that was not seen to change for as long as it lasts may be taken over: by our own clock, from when we
saw it last, so that clocks need not agree. Who leads stops to believe it before another may take over. One
that was held at our own address, where we listen now, is of a process that has ended: it is ours at once.
The trap: what was begun while leading may end later. That is no matter: every write goes through a version.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from architect.kube import ApiError, Client, Conflict, NotFound
from controlplane.times import written

LEASE_SECONDS: Final = 10.0
"""After so long without a renewal another may lead."""
BELIEF_SECONDS: Final = 7.0
"""After so long without one, who led does not any more."""
RENEW_SECONDS: Final = 2.0
ADDRESS: Final = "architect.loopholelabs.io/address"
"""The annotation of the Lease with host:port of who leads."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Election:
    """One replica's part in it. `identity`: a name that no other process ever had."""

    client: Client
    namespace: str
    name: str
    identity: str
    address: str
    lease_seconds: float = LEASE_SECONDS
    belief_seconds: float = BELIEF_SECONDS
    renew_seconds: float = RENEW_SECONDS
    monotonic: Callable[[], float] = time.monotonic
    leader: str = ""
    """The address of who leads, as far as known; "": nobody."""
    _held_until: float = field(default=0.0, init=False)
    _seen: tuple[str, float] = field(default=("", 0.0), init=False)
    """The version of the Lease, and when it was first seen with it."""
    _free_at: float = field(default=math.inf, init=False)
    """When another's may be taken over, if it is not renewed."""

    @property
    def leads(self) -> bool:
        """Whether this replica leads, at this moment."""
        return self.monotonic() < self._held_until

    async def acquire(self) -> None:
        """Returns when this replica leads."""
        while not await self._attempt():
            free_in = self._free_at - self.monotonic()
            await asyncio.sleep(free_in if 0 < free_in < self.renew_seconds else self.renew_seconds)
        log.info("this replica leads", extra={"identity": self.identity})

    async def hold(self) -> None:
        """Renews until it cannot; returns when this replica leads no more."""
        while self.leads:
            await asyncio.sleep(min(self.renew_seconds, max(0.0, self._held_until - self.monotonic())))
            if self.leads and not await self._attempt() and self.leader != self.address:
                break
        self._held_until = 0.0
        log.warning("this replica leads no more", extra={"identity": self.identity, "leader": self.leader})

    async def release(self) -> None:
        """Lets another lead at once, if this one does."""
        if not self.leads:
            return
        self._held_until = 0.0
        try:
            async with asyncio.timeout(self.belief_seconds):
                found = await self.client.get(self._path())
                if (found.get("spec") or {}).get("holderIdentity") == self.identity:
                    await self._write(found, holder="")
        except (ApiError, TimeoutError) as error:
            log.info("the lease is not released; it runs out", extra={"reason": str(error)})

    async def _attempt(self) -> bool:
        """Takes or renews the lease; False when it is another's, or the API server cannot be asked."""
        asked = self.monotonic()
        try:
            async with asyncio.timeout(self.belief_seconds):
                won = await self._take()
        except Conflict:
            return False  # another was quicker
        except (ApiError, TimeoutError) as error:
            log.warning("the lease cannot be held", extra={"reason": str(error)})
            return False
        if won:
            self.leader = self.address
            self._held_until = asked + self.belief_seconds
        return won

    async def _take(self) -> bool:
        try:
            found = await self.client.get(self._path())
        except NotFound:
            await self._create()
            return True
        spec, metadata = found.get("spec") or {}, found["metadata"]
        holder = str(spec.get("holderIdentity") or "")
        if str(metadata["resourceVersion"]) != self._seen[0]:
            self._seen = str(metadata["resourceVersion"]), self.monotonic()
        self._free_at = self._seen[1] + float(spec.get("leaseDurationSeconds") or self.lease_seconds)
        leader = str((metadata.get("annotations") or {}).get(ADDRESS, ""))
        theirs = holder not in ("", self.identity) and leader != self.address
        if theirs and self.monotonic() < self._free_at:
            self.leader = leader
            return False
        await self._write(found, holder=self.identity)
        return True

    async def _create(self) -> None:
        body = {
            "metadata": {"name": self.name, "annotations": {ADDRESS: self.address}},
            "spec": self._spec({}, self.identity),
        }
        await self.client.create(f"{self._leases()}", body)

    async def _write(self, found: dict[str, Any], *, holder: str) -> None:
        body = {
            "metadata": {
                "resourceVersion": found["metadata"]["resourceVersion"],
                "annotations": {ADDRESS: self.address if holder else None},
            },
            "spec": self._spec(found.get("spec") or {}, holder),
        }
        await self.client.patch(self._path(), body)

    def _spec(self, before: dict[str, Any], holder: str) -> dict[str, Any]:
        now = written(time.time())
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(self.lease_seconds)),
            "renewTime": now,
        }
        if before.get("holderIdentity") != holder:
            spec |= {"acquireTime": now, "leaseTransitions": int(before.get("leaseTransitions") or 0) + 1}
        return spec

    def _leases(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{quote(self.namespace, safe='')}/leases"

    def _path(self) -> str:
        return f"{self._leases()}/{quote(self.name, safe='')}"
