"""Keeps the webhook's own certificates: in a Secret that its replicas share, trusted by the API server.

Every replica does the same: read the Secret, make a generation if one is due, write what is new (whoever
comes second finds a conflict, and reads again), see to it that the configuration trusts all of them, show the
one that is due. Nobody is elected, and any of them can die at any point.

The trap: a new certificate is shown only once its authority was found in the configuration, not when it has
just been put there: the API server takes a moment to notice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from architect import generations
from architect.untrusted import Unreadable
from webhook import certificates
from webhook.certificates import Generation
from webhook.cluster import ApiError, Cluster, Missing

LOOK_SECONDS: Final = 600
_RETRY_SECONDS: Final = (1, 2, 5, 10, 30)

log = logging.getLogger(__name__)


class Keeper:
    """One replica's part in it. `show` is told of every generation to serve with from then on."""

    def __init__(
        self,
        cluster: Cluster,
        names: Sequence[str],
        show: Callable[[Generation], None],
        *,
        clock: Callable[[], float] = time.time,
        retry: Sequence[float] = _RETRY_SECONDS,
    ) -> None:
        self._cluster = cluster
        self._names = names
        self._show = show
        self._clock = clock
        self._retry = retry
        self._known: list[Generation] = []
        self._version = ""
        self.shown: Generation | None = None
        self.trusted = asyncio.Event()
        """Set once the API server trusts what is shown."""

    async def run(self) -> None:
        """Keeps them until cancelled, through any absence of the API server."""
        failures = 0
        while True:
            try:
                settled = await self.look()
                if settled:
                    failures = 0
                    await self._cluster.changed(self._version, LOOK_SECONDS)
                    continue
            except (ApiError, Missing) as error:
                log.warning("certificates could not be looked after", extra={"reason": str(error)})
            await asyncio.sleep(self._retry[min(failures, len(self._retry) - 1)])
            failures += 1

    async def look(self) -> bool:
        """Does what is due; False when it has to look again soon. Raises ApiError, Missing."""
        now = int(self._clock())
        known = await self._generations(now)
        trust = await self._cluster.trust()
        self._version = trust.version
        wanted = certificates.bundle(known)
        settled = True
        if any(found != wanted for found in trust.bundles):
            await self._cluster.write_trust(wanted, trust.version)
            log.info("the API server is told whom to trust", extra={"generations": len(known)})
            settled = False
        chosen = generations.in_use(known, now)
        trusted = all(chosen.authority in found for found in trust.bundles)
        if chosen != self.shown and (trusted or self.shown is None):
            self._show(chosen)
            self.shown = chosen
            log.info("certificate shown", extra={"made": chosen.made, "ends": chosen.ends})
        if trusted and chosen == self.shown:
            self.trusted.set()
        return settled

    async def _generations(self, now: int) -> list[Generation]:
        """Those of the Secret, after what is due has been written there."""
        secret = await self._cluster.secret()
        stored = self._stored(secret.text)
        # A Secret that somebody has deleted is written again: what is shown must stay trusted.
        known = generations.alive(stored or self._known, now)
        if generations.due(known, now):
            begins = now + certificates.SETTLE_SECONDS if known else now
            known.append(certificates.make(self._names, now, begins=begins))
            log.info("certificate made", extra={"begins": begins})
        if known != stored:
            await self._cluster.write_secret(certificates.dumped(known), secret.version)
        self._known = known
        return known

    def _stored(self, text: str) -> list[Generation]:
        if not text:
            return []
        try:
            return certificates.loaded(text)
        except Unreadable as error:
            log.warning(
                "the Secret's certificates cannot be read; new ones follow", extra={"reason": str(error)}
            )
            return []
