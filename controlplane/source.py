"""The side that a pod leaves: Leave, Follow, Offer, Withdraw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from architect.kube import NotFound, pod_path
from architect.migration.v1 import migration_pb2 as v1
from controlplane import deadlines, records
from controlplane.book import Place
from controlplane.broker import Broker
from controlplane.pods import PodView, reduce
from controlplane.records import Part, Record, State
from controlplane.refusals import malformed, not_yours

CALL_SECONDS: Final = 10.0
_ENDS: Final = v1.LeaveResponse.Verdict.ENDS
_MOVES: Final = v1.LeaveResponse.Verdict.MOVES


async def fresh(broker: Broker, asked: v1.Pod) -> PodView | None:
    """The pod as it is now, with everything before that known; None when it is gone. Raises ApiError."""
    try:
        found = reduce(await broker.client.get(pod_path(asked.namespace, asked.name)))
    except NotFound:
        return None
    if found.uid != asked.uid:
        return None
    if found.managed:
        await broker.roster.caught_up(found)
    return found


def check_pod(asked: v1.Pod) -> None:
    """Raises Refusal when a field is missing."""
    if not (asked.namespace and asked.name and asked.uid):
        raise malformed("the pod needs a namespace, a name and a uid")


async def leave(broker: Broker, node: str, request: v1.LeaveRequest) -> v1.LeaveResponse:
    """Whether the pod moves; if it does, its record is there when this returns."""
    check_pod(request.pod)
    asleep = {each.name: each.asleep for each in request.containers}
    place = request.pod.namespace, records.name_of(request.pod.name, request.pod.uid)
    async with asyncio.timeout(CALL_SECONDS):
        pod = await fresh(broker, request.pod)
        record = broker.book.find(place)
        of_node = pod.node if pod is not None else record.node if record is not None else node
        if of_node != node:
            raise not_yours(node, f"pod {request.pod.name}")
        if pod is not None:
            # Of a pod whose record nobody has claimed, the owner may want something else by now.
            if record is None or (record.target is None and not record.announced):
                judgement = await broker.judge(pod, announced=True)
                if not judgement.moves:
                    await _call_off(broker, place, judgement.reason)
                    return v1.LeaveResponse(verdict=_ENDS, reason=judgement.reason)
        elif record is None:
            return v1.LeaveResponse(verdict=_ENDS, reason="the pod is gone already")
        now = broker.clock()
        record = await broker.change(place, lambda found: records.announced(found, asleep, now))
    if record.ended:
        reasons = [part.reason for part in record.parts if part.reason]
        return v1.LeaveResponse(verdict=_ENDS, reason=reasons[0] if reasons else "it has moved")
    return v1.LeaveResponse(
        verdict=_MOVES,
        reason=record.reason,
        migration=record.name,
        seconds_left=max(0, int(record.kill - broker.clock())),
        keep_seconds=int(deadlines.KEEP),
    )


async def _call_off(broker: Broker, place: Place, reason: str) -> None:
    """It was expected, and does not move after all."""
    if broker.book.find(place) is not None:
        await broker.change(place, lambda found: records.given_up(found, lambda _: reason, broker.clock()))


async def follow(broker: Broker, node: str, request: v1.FollowRequest) -> AsyncIterator[v1.FollowEvent]:
    """What happens to each container, until no copy is needed any more. Raises Gone, Refusal."""
    place = request.namespace, request.migration
    told: dict[str, v1.FollowEvent] = {}
    with broker.book.changes.to(place) as changed:
        while True:
            changed.clear()
            record = broker.record(place)
            _check_source(record, node)
            for part in record.parts:
                event = _seen_from_source(record, part)
                if told.get(part.name) != event:
                    told[part.name] = event
                    yield event
            if all(event.state == v1.FollowEvent.State.DROP for event in told.values()):
                return
            await changed.wait()


def _seen_from_source(record: Record, part: Part) -> v1.FollowEvent:
    state = v1.FollowEvent.State
    event = v1.FollowEvent(container=part.name, reason=part.reason)
    if record.target is not None:
        event.node = record.target.node
        event.target.CopyFrom(
            v1.Pod(namespace=record.namespace, name=record.target.name, uid=record.target.uid)
        )
    match part.state:
        case State.ARRIVED | State.LOST:
            event.state = state.DROP
        case State.KEPT:
            event.state = state.KEEP
        case State.TAKEN:
            event.state = state.TAKEN
        case _:
            event.state = state.CLAIMED if record.target is not None else state.WAITING
    return event


async def offer(broker: Broker, node: str, request: v1.OfferRequest) -> v1.OfferResponse:
    """Where a container's image can be had."""
    place = _place(broker, node, request)
    host, _, port = request.address.rpartition(":")
    if not host or not port.isdigit():
        raise malformed(f"{request.address!r} is no host:port")
    async with asyncio.timeout(CALL_SECONDS):
        if request.complete:
            await broker.change(
                place,
                lambda found: records.offered(
                    found, request.container, request.size_bytes, request.freeze_us, broker.clock()
                ),
            )
        elif (
            part := broker.book.get(place).part(request.container)
        ) is None or part.state is not State.LEAVING:
            raise records.TooLate(f"{request.container} is not leaving")
    broker.hear(place, request.container).offer = request
    broker.book.changes.ring(place)
    return v1.OfferResponse()


async def withdraw(broker: Broker, node: str, request: v1.WithdrawRequest) -> v1.WithdrawResponse:
    """There will be no image of it."""
    place = _place(broker, node, request)
    reason = request.reason or "its node could not save it"
    async with asyncio.timeout(CALL_SECONDS):
        await broker.change(
            place, lambda found: records.withdrawn(found, request.container, reason, broker.clock())
        )
    return v1.WithdrawResponse()


def _place(broker: Broker, node: str, request: v1.OfferRequest | v1.WithdrawRequest) -> Place:
    place = request.namespace, request.migration
    record = broker.book.get(place)
    _check_source(record, node)
    if record.part(request.container) is None:
        raise malformed(f"{request.migration} has no container {request.container!r}")
    return place


def _check_source(record: Record, node: str) -> None:
    if record.node != node:
        raise not_yours(node, f"migration {record.name}")
