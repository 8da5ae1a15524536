"""The book of all records: in memory as last written or told, written through to the API server.

A change is a pure function of the record as it is; the API server takes it only if nobody else has written
meanwhile, and then it is done again with what is there now. So even two who both believe that they lead
decide nothing twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final
from weakref import WeakValueDictionary

from architect.kube import Client, Conflict, NotFound
from architect.kube.following import Backoff, Following
from controlplane import resource
from controlplane.listeners import Listeners
from controlplane.records import Record

_TRIES: Final = 10

log = logging.getLogger(__name__)
Place = tuple[str, str]
"""Namespace and name."""


class Ended(Exception):
    """This replica leads no more."""


class Gone(Exception):
    """There is no such record (any more)."""


class Book:
    """The records. `run` follows what others do to them."""

    def __init__(self, client: Client, *, backoff: Backoff | None = None) -> None:
        self._client = client
        self._records: dict[Place, Record] = {}
        self._by_owner: dict[str, set[Place]] = defaultdict(set)
        self._locks: WeakValueDictionary[Place, asyncio.Lock] = WeakValueDictionary()
        self._following = Following(client, resource.ALL, self, _read, backoff=backoff)
        self.changes = Listeners()
        self.complete = asyncio.Event()
        """Set once all there are have been read."""

    async def run(self) -> None:
        """Follows the records until cancelled."""
        await self._following.run()

    def get(self, place: Place) -> Record:
        """Raises Gone."""
        found = self._records.get(place)
        if found is None:
            raise Gone(f"there is no migration {place[1]} in {place[0]}")
        return found

    def find(self, place: Place) -> Record | None:
        """As get, None when there is none."""
        return self._records.get(place)

    def of_owner(self, uid: str) -> list[Record]:
        """The records of an owner's pods."""
        return [self._records[place] for place in self._by_owner.get(uid, ())]

    def all(self) -> Iterable[Record]:
        """All of them."""
        return list(self._records.values())

    async def begin(self, record: Record) -> Record:
        """Writes a new record; answers the one that is there, if there is one. Raises ApiError."""
        try:
            made = resource.to_create(record)
            return self._learn(await self._client.create(resource.collection(record.namespace), made))
        except Conflict:
            return self._learn(await self._client.get(resource.path(record)))

    async def change(self, place: Place, step: Callable[[Record], Record]) -> Record:
        """Writes what `step` makes of the record, if it changes it.

        Raises Gone, ApiError, and what `step` raises (TooLate).
        """
        async with self._locks.setdefault(place, asyncio.Lock()):
            for _ in range(_TRIES):
                before = self.get(place)
                after = step(before)
                if after == before:
                    return before
                body = {"metadata": {"resourceVersion": before.version}, "status": resource.status(after)}
                try:
                    return self._learn(await self._client.patch(resource.path(before, "status"), body))
                except Conflict:
                    await self._read_again(before)
                except NotFound as error:
                    self._forget(place)
                    raise Gone(str(error)) from error
            raise Conflict(f"the record {place[1]} is written by others all the time")

    async def let_go(self, record: Record) -> None:
        """Takes our finalizer off; what is being deleted is gone then. Raises ApiError."""
        try:
            body = {"metadata": {"resourceVersion": record.version, "finalizers": None}}
            self._learn(await self._client.patch(resource.path(record), body))
        except NotFound:
            self._forget((record.namespace, record.name))
        except Conflict:
            await self._read_again(record)

    async def unwant(self, record: Record) -> None:
        """Takes away the wish to have its copy again. Raises ApiError."""
        try:
            body = {"metadata": {"annotations": {resource.RESTORE: None}}}
            self._learn(await self._client.patch(resource.path(record), body))
        except NotFound:
            self._forget((record.namespace, record.name))

    async def remove(self, record: Record) -> None:
        """Deletes the record. Raises ApiError."""
        try:
            await self._client.delete(resource.path(record))
        except NotFound:
            pass  # somebody else was quicker
        self._forget((record.namespace, record.name))

    async def _read_again(self, record: Record) -> None:
        try:
            self._learn(await self._client.get(resource.path(record)))
        except NotFound:
            self._forget((record.namespace, record.name))

    def _learn(self, found: dict[str, Any]) -> Record:
        record = resource.record(found)
        self._put(record)
        return record

    def _put(self, record: Record) -> None:
        place = record.namespace, record.name
        known = self._records.get(place)
        if known is not None and _number(known.version) >= _number(record.version):
            return  # what we have written ourselves comes back, perhaps after the next
        self._records[place] = record
        self._by_owner[record.owner.uid].add(place)
        self.changes.ring(place)

    def _forget(self, place: Place) -> None:
        record = self._records.pop(place, None)
        if record is not None:
            places = self._by_owner[record.owner.uid]
            places.discard(place)
            if not places:
                del self._by_owner[record.owner.uid]
            self.changes.ring(place)

    # What the API server tells

    def listed(self, items: list[Record | None]) -> None:
        """All there is."""
        found = {(each.namespace, each.name): each for each in items if each is not None}
        for place in self._records.keys() - found.keys():
            self._forget(place)
        for each in found.values():
            self._put(each)
        self.complete.set()
        self.changes.ring_all()

    def changed(self, item: Record | None) -> None:
        """One is new, or another now."""
        if item is not None:
            self._put(item)

    def deleted(self, item: Record | None) -> None:
        """One is gone."""
        if item is not None:
            self._forget((item.namespace, item.name))

    def lost(self, reason: str) -> None:
        """Nothing is heard at the moment."""
        log.warning("records are not followed", extra={"reason": reason})


def _number(version: str) -> int:
    return int(version) if version.isdigit() else 0


def _read(found: dict[str, Any]) -> Record | None:
    try:
        return resource.record(found)
    except resource.Unreadable as error:
        about = {"migration": str((found.get("metadata") or {}).get("name")), "reason": str(error)}
        log.warning("a record cannot be read", extra=about)
        return None
