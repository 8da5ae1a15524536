"""All pods that could move, as the API server tells of them."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from architect.kube import Client, pods_path
from architect.kube.following import Backoff, Following
from controlplane.listeners import Listeners
from controlplane.pods import PodView, reduce

_EVERYTHING: Final = ""

log = logging.getLogger(__name__)


class Roster:
    """Managed pods, by uid and by owner. `noticed(pod, gone)` is told of each change."""

    def __init__(
        self,
        client: Client,
        noticed: Callable[[PodView, bool], None],
        *,
        backoff: Backoff | None = None,
    ) -> None:
        self._noticed = noticed
        self._pods: dict[str, PodView] = {}
        self._by_owner: dict[str, set[str]] = defaultdict(set)
        self._following = Following(client, pods_path(), self, reduce, backoff=backoff)
        self._version = 0
        self._changes = Listeners()
        self.complete = asyncio.Event()
        """Set once all there are have been read."""

    async def run(self) -> None:
        """Follows the pods until cancelled."""
        await self._following.run()

    def get(self, uid: str) -> PodView | None:
        """A managed pod that is there."""
        return self._pods.get(uid)

    def of_owner(self, uid: str) -> list[PodView]:
        """The pods of an owner."""
        return [self._pods[each] for each in self._by_owner.get(uid, ())]

    def all(self) -> list[PodView]:
        """All of them."""
        return list(self._pods.values())

    async def caught_up(self, pod: PodView) -> None:
        """Returns when all that was so before `pod`, freshly read, became what it is, is known here."""

        def known() -> bool:
            found = self._pods.get(pod.uid)
            return self._version >= pod.version or (found is not None and found.version >= pod.version)

        await self._changes.until(_EVERYTHING, known)

    def listed(self, items: list[PodView]) -> None:
        """All there is."""
        found = {each.uid for each in items}
        for gone in [pod for uid, pod in self._pods.items() if uid not in found]:
            self.deleted(gone)
        for each in items:
            self.changed(each)
        self.complete.set()
        self._changes.ring(_EVERYTHING)

    def changed(self, item: PodView) -> None:
        """One is new, or another now."""
        self._version = max(self._version, item.version)
        if item.managed:
            self._pods[item.uid] = item
            if item.owner is not None:
                self._by_owner[item.owner.uid].add(item.uid)
            self._noticed(item, False)
        self._changes.ring(_EVERYTHING)

    def deleted(self, item: PodView) -> None:
        """One is gone."""
        self._version = max(self._version, item.version)
        known = self._pods.pop(item.uid, None)
        if known is not None and known.owner is not None:
            pods = self._by_owner[known.owner.uid]
            pods.discard(item.uid)
            if not pods:
                del self._by_owner[known.owner.uid]
        if known is not None:
            self._noticed(known, True)
        self._changes.ring(_EVERYTHING)

    def lost(self, reason: str) -> None:
        """Nothing is heard at the moment."""
        log.warning("pods are not followed", extra={"reason": reason})
