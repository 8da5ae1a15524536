"""A control plane in memory: the contract of one-container moves, without an API server behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from architect.kube import NotFound
from architect.migration.client import Refused, Unavailable
from architect.migration.v1 import migration_pb2 as v1
from daemon.transfer import Credentials, Server, Shelf

FOLLOW, CLAIM = v1.FollowEvent.State, v1.ClaimEvent.State
_SEEN = {"arrived": FOLLOW.DROP, "lost": FOLLOW.DROP, "kept": FOLLOW.KEEP, "taken": FOLLOW.TAKEN}


def no(sentence: str, code: grpc.StatusCode = grpc.StatusCode.FAILED_PRECONDITION) -> Refused:
    return Refused(code, sentence)


@dataclass
class Record:
    """A container that moves: leaving, offered, taken, arrived, kept, lost."""

    pod: v1.Pod
    node: str
    container: str
    asleep: bool = False
    state: str = "leaving"
    reason: str = ""
    target: v1.Pod | None = None
    target_node: str = ""
    offer: v1.OfferRequest | None = None
    offers: int = 0


@dataclass
class Plane:
    """Who moves is what `moving` says, by pod uid. `away`: nobody gets an answer."""

    moving: set[str] = field(default_factory=set)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Pod objects by path, for the API client's `get`."""
    records: dict[str, Record] = field(default_factory=dict)
    away: bool = False
    delay: float = 0.0
    """Seconds until a stream begins."""
    seconds_left: int = 60
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def get(self, path: str) -> dict[str, Any]:
        if path not in self.pods:
            raise NotFound("there is no such pod")
        return self.pods[path]

    async def change(self, record: Record, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(record, name, value)
        async with self._changed:
            self._changed.notify_all()

    async def until(self, said: Any) -> None:
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(said), 60)

    async def call(self, node: str, name: str, request: Any) -> Any:
        if self.away:
            await asyncio.sleep(0.05)
            raise Unavailable("the control plane is away")
        if name == "Leave":
            return await self._leave(node, request)
        record = self.records.get(request.migration)
        if record is None:
            raise no("there is no such record", grpc.StatusCode.NOT_FOUND)
        if name == "Offer":
            if record.state not in ("leaving", "offered", "kept"):
                raise no(f"it is {record.state}")
            state = "offered" if request.complete and record.state == "leaving" else record.state
            await self.change(record, offer=request, state=state, offers=record.offers + 1)
            return v1.OfferResponse()
        if name == "Withdraw":
            await self.change(record, state="lost", reason=request.reason)
            return v1.WithdrawResponse()
        if record.target is None or record.target.uid != request.pod.uid:
            raise no("it is another pod's")
        return await self._of_target(record, name, request)

    async def _leave(self, node: str, request: Any) -> Any:
        if request.pod.uid not in self.moving:
            return v1.LeaveResponse(verdict=v1.LeaveResponse.Verdict.ENDS, reason="it is only restarted")
        [container] = request.containers
        migration = f"move-{request.pod.uid[:8]}"
        self.records.setdefault(migration, Record(request.pod, node, container.name, container.asleep))
        await self.change(self.records[migration])
        return v1.LeaveResponse(
            verdict=v1.LeaveResponse.Verdict.MOVES,
            reason="it is evicted",
            migration=migration,
            seconds_left=self.seconds_left,
            keep_seconds=3600,
        )

    async def _of_target(self, record: Record, name: str, request: Any) -> Any:
        allowed = {
            "Progress": ("leaving", "offered"),
            "Take": ("leaving", "offered", "taken"),
            "Confirm": ("taken", "arrived"),
            "Abandon": ("leaving", "offered", "taken", "kept"),
        }
        if record.state not in allowed[name]:
            raise no(f"it is {record.state}")
        after = {"Take": "taken", "Confirm": "arrived", "Abandon": "kept"}.get(name, record.state)
        await self.change(record, state=after, reason=getattr(request, "reason", ""))
        return None

    async def follow(self, request: Any) -> AsyncIterator[v1.FollowEvent]:
        told = None
        while True:
            record = self._present(request.migration)
            seen = _SEEN.get(record.state, FOLLOW.CLAIMED if record.target else FOLLOW.WAITING)
            event = v1.FollowEvent(
                container=record.container,
                state=seen,
                node=record.target_node,
                reason=record.reason if seen in (FOLLOW.KEEP, FOLLOW.DROP) else "",
            )
            if event != told:
                told = event
                yield event
            if seen == FOLLOW.DROP:
                return
            await self._next()

    async def claim(self, node: str, request: Any) -> AsyncIterator[v1.ClaimEvent]:
        found = [
            (name, record)
            for name, record in self.records.items()
            if (record.target is None and record.state in ("leaving", "offered"))
            or (record.target is not None and record.target.uid == request.pod.uid)
        ]
        if not found:
            yield v1.ClaimEvent(state=CLAIM.NOBODY)
            return
        name, record = found[0]
        if record.target is None:
            await self.change(record, target=request.pod, target_node=node)
        told = None
        while True:
            if record.target is None or record.target.uid != request.pod.uid:
                yield v1.ClaimEvent(state=CLAIM.LOST, migration=name, reason="it is another pod's by now")
                return
            event = v1.ClaimEvent(
                migration=name, reason=record.reason, asleep=record.asleep, source_node=record.node
            )
            event.state = {
                "arrived": CLAIM.NOBODY, "taken": CLAIM.TAKEN, "kept": CLAIM.LOST, "lost": CLAIM.LOST,
            }.get(record.state, CLAIM.EXPECTED)  # fmt: skip
            if event.state == CLAIM.EXPECTED and record.offer is not None and record.offer.for_node == node:
                event.state = CLAIM.READY
                event.offer.CopyFrom(record.offer)
            if event != told:
                told = event
                yield event
            if event.state not in (CLAIM.EXPECTED, CLAIM.READY):
                return
            await self._next()

    def _present(self, migration: str) -> Record:
        if migration not in self.records:
            raise no("there is no such record", grpc.StatusCode.NOT_FOUND)
        return self.records[migration]

    async def _next(self) -> None:
        async with self._changed:
            await self._changed.wait()


class PlaneLink:
    """A node's way to it (`daemon.moving.link.Link`), and a real transfer server on loopback."""

    def __init__(self, node: str, plane: Plane, credentials: Credentials) -> None:
        self.node = node
        self.plane = plane
        self.credentials = credentials
        self.shelf = Shelf()
        self._server = Server(self.shelf, credentials)
        self._address = f"127.0.0.1:{self._server.start('127.0.0.1', 0)}"

    async def close(self) -> None:
        await self._server.close()

    async def served(self) -> str:
        return self._address

    async def call(self, method: Any, request: Any, *, timeout: float) -> Any:
        async with asyncio.timeout(timeout):
            await asyncio.sleep(self.plane.delay)
            return await self.plane.call(self.node, method.name, request)

    async def stream(self, method: Any, request: Any) -> AsyncIterator[Any]:
        if self.plane.away:
            await asyncio.sleep(0.05)
            raise Unavailable("the control plane is away")
        plane = self.plane
        await asyncio.sleep(plane.delay)
        told = plane.follow(request) if method.name == "Follow" else plane.claim(self.node, request)
        async for event in told:
            yield event
