"""The side that a pod comes to: Claim, Progress, Take, Confirm, Abandon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from architect.migration.v1 import migration_pb2 as v1
from controlplane import deadlines, matching, records
from controlplane.book import Place
from controlplane.broker import Broker
from controlplane.pods import PodView
from controlplane.records import Record, State, Target, TooLate
from controlplane.refusals import malformed, not_yours
from controlplane.source import CALL_SECONDS, check_pod, fresh

_WRITE_SECONDS: Final = 5.0
"""How far a transfer is goes into its record no more often."""
_STATE: Final = v1.ClaimEvent.State

TargetCall = v1.ProgressRequest | v1.TakeRequest | v1.ConfirmRequest | v1.AbandonRequest


async def claim(broker: Broker, node: str, request: v1.ClaimRequest) -> AsyncIterator[v1.ClaimEvent]:
    """Whether somebody comes to be this container, and where to fetch it. Raises Refusal, Gone, ApiError."""
    check_pod(request.pod)
    if not request.container:
        raise malformed("a container is claimed, by its name")
    async with asyncio.timeout(CALL_SECONDS):
        record = await _predecessor(broker, node, request)
    if record is None:
        yield v1.ClaimEvent(state=_STATE.NOBODY)
        return
    place = record.namespace, record.name
    told: v1.ClaimEvent | None = None
    with broker.book.changes.to(place) as changed:
        while True:
            changed.clear()
            event = _seen_from_target(broker, broker.record(place), request)
            if told is None or not _same(told, event):
                told = event
                yield event
            if event.state not in (_STATE.EXPECTED, _STATE.READY):
                return
            await changed.wait()


async def _predecessor(broker: Broker, node: str, request: v1.ClaimRequest) -> Record | None:
    """The record that the pod has, or gets now."""
    pod = await fresh(broker, request.pod)
    if pod is None:
        raise TooLate(f"there is no pod {request.pod.name} with that uid")
    if pod.node != node:
        raise not_yours(node, f"pod {pod.name}")
    if pod.key is None or pod.owner is None or request.container not in pod.managed:
        return None
    await broker.judged(pod)
    while True:
        known = broker.book.of_owner(pod.owner.uid)
        mine = matching.bound(pod, known)
        if mine is not None:
            return mine if mine.part(request.container) is not None else None
        found = matching.predecessor(pod, request.container, known)
        if found is None:
            return None
        try:
            return await _bind(broker, pod, found)
        except TooLate:
            continue  # another was quicker, which is known by now


async def _bind(broker: Broker, pod: PodView, record: Record) -> Record:
    target = Target(pod.name, pod.uid, pod.node)

    def step(found: Record) -> Record:
        if matching.bound(pod, broker.book.of_owner(found.owner.uid)) not in (None, found):
            raise TooLate(f"{pod.name} has another")
        return records.claimed(found, target, broker.clock())

    return await broker.change((record.namespace, record.name), step)


def _seen_from_target(broker: Broker, record: Record, request: v1.ClaimRequest) -> v1.ClaimEvent:
    part = record.part(request.container)
    if part is None or record.target is None or record.target.uid != request.pod.uid:
        return v1.ClaimEvent(state=_STATE.LOST, migration=record.name, reason="it is another pod's by now")
    event = v1.ClaimEvent(
        migration=record.name, reason=part.reason, asleep=part.asleep, source_node=record.node
    )
    place = record.namespace, record.name
    heard = broker.heard(place, part.name)
    match part.state:
        case State.ARRIVED:
            event.state = _STATE.NOBODY  # it has been here: this is a restart
        case State.TAKEN:
            event.state = _STATE.TAKEN
        case State.KEPT if part.taken:
            event.state = _STATE.TAKEN  # nobody else ever gets it
        case State.KEPT | State.LOST:
            event.state = _STATE.LOST
        case _:
            offer = heard.offer
            event.state = _STATE.EXPECTED
            if offer is not None and offer.ticket and offer.for_node == record.target.node:
                event.state = _STATE.READY
                event.offer.CopyFrom(offer)
            end, _ = deadlines.due(record, part, max(broker.began, heard.progress))
            event.wait_seconds = max(1, int(end - broker.clock()))
    return event


def _same(one: v1.ClaimEvent, other: v1.ClaimEvent) -> bool:
    """Whether there is nothing new in the other: time passes anyway."""
    copy = v1.ClaimEvent()
    copy.CopyFrom(one)
    copy.wait_seconds = other.wait_seconds
    return copy == other


async def progress(broker: Broker, node: str, request: v1.ProgressRequest) -> v1.ProgressResponse:
    """How far the transfer is."""
    place = _place(broker, node, request)
    now = broker.clock()

    def step(found: Record) -> Record:
        return records.progressed(
            found, request.pod.uid, request.container, request.received_bytes, request.size_bytes
        )

    step(broker.book.get(place))  # it may be too late, whether or not it is written now
    heard = broker.hear(place, request.container)
    heard.progress = now
    if now - heard.written >= _WRITE_SECONDS:
        heard.written = now
        async with asyncio.timeout(CALL_SECONDS):
            await broker.change(place, step)
    return v1.ProgressResponse()


async def take(broker: Broker, node: str, request: v1.TakeRequest) -> v1.TakeResponse:
    """From now on it is that pod's, and nobody else's ever."""
    await _change(
        broker,
        node,
        request,
        lambda found, now: records.taken(found, request.pod.uid, request.container, now),
    )
    return v1.TakeResponse()


async def confirm(broker: Broker, node: str, request: v1.ConfirmRequest) -> v1.ConfirmResponse:
    """It runs, or sleeps, there."""
    await _change(
        broker,
        node,
        request,
        lambda found, now: records.confirmed(
            found, request.pod.uid, request.container, request.restore_us, now
        ),
    )
    return v1.ConfirmResponse()


async def abandon(broker: Broker, node: str, request: v1.AbandonRequest) -> v1.AbandonResponse:
    """It starts fresh there; or its pod is told to go before it had anything, and the next one gets it."""
    reason = request.reason or "it could not be restored"
    check_pod(request.pod)
    async with asyncio.timeout(CALL_SECONDS):
        pod = await fresh(broker, request.pod)
    goes = pod is None or not pod.active

    def step(found: Record, now: float) -> Record:
        if goes and not any(part.taken for part in found.parts):
            return records.released(found)
        return records.abandoned(found, request.pod.uid, request.container, reason, now)

    await _change(broker, node, request, step)
    return v1.AbandonResponse()


async def _change(
    broker: Broker, node: str, request: TargetCall, step: Callable[[Record, float], Record]
) -> None:
    place = _place(broker, node, request)
    async with asyncio.timeout(CALL_SECONDS):
        await broker.change(place, lambda found: step(found, broker.clock()))


def _place(broker: Broker, node: str, request: TargetCall) -> Place:
    check_pod(request.pod)
    place = request.pod.namespace, request.migration
    record = broker.book.get(place)
    if record.target is None or record.target.uid != request.pod.uid:
        raise TooLate(f"{record.name} is not {request.pod.name}'s")
    if record.target.node != node:
        raise not_yours(node, f"pod {request.pod.name}")
    if record.part(request.container) is None:
        raise malformed(f"{record.name} has no container {request.container!r}")
    return place
