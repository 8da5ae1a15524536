"""Containers that come to this node: whether they do, as their shims ask; what has come; what became of it.

A state is given to one container, once: a container that is started again in the same pod begins fresh.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from architect.kube import Client
from architect.migration import methods
from architect.migration.client import Refused, Unavailable
from architect.migration.v1 import migration_pb2 as v1
from architect.ttrpc import node_v1
from architect.ttrpc.node_v1 import ARRIVAL_SECONDS, State
from architect.ttrpc.rpc import Code, RpcError
from daemon.containers import Pod
from daemon.kubernetes.pods import PodView
from daemon.moving import telling
from daemon.moving.arrival import Arrival, Arrivals, Step
from daemon.moving.coming import PATIENCE_SECONDS, Coming, Lost, arrival_of
from daemon.moving.link import Link
from daemon.moving.places import Places
from daemon.moving.runtime import Runtime
from daemon.moving.telling import MoveMetrics, Tell
from daemon.supervision import Tasks

CLAIM_SECONDS: Final = 14.0
"""In which it has to be known whether anybody comes: a container's start waits for it, and containerd two
minutes. Another replica leads twelve seconds after one was lost.
"""
_LATE_SECONDS: Final = 60.0
_CALL_SECONDS: Final = 10.0
_AGAIN_SECONDS: Final = 2.0
_STATE: Final = v1.ClaimEvent.State

log = logging.getLogger(__name__)
Key = tuple[str, str]
"""Pod uid, container."""


@dataclass(slots=True)
class _Expected:
    """An arrival and its way here."""

    arrival: Arrival
    way: asyncio.Task[None] | None = None
    coming: Coming | None = None
    known: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is here, or lost."""
    lost: str = ""
    """Why it does not come."""
    told: bool = False
    """A container has been told that it comes, or that it does not."""

    def wanted(self) -> None:
        """Its container is there, and waits."""
        if self.coming is not None:
            self.coming.wanted()


class Arriving:
    """What comes to this node."""

    def __init__(self, link: Link, places: Places, client: Client, tell: Tell, metrics: MoveMetrics) -> None:
        self._link = link
        self._client = client
        self._tell = tell
        self._metrics = metrics
        self._arrivals = Arrivals(places)
        self._runtime = Runtime(places.runtime)
        self._tasks = Tasks()
        self._expected: dict[Key, _Expected] = {}
        self._asking: dict[Key, asyncio.Task[node_v1.ArrivesResponse]] = {}
        self._foreseeing: dict[Key, asyncio.Task[None]] = {}
        metrics.arriving.set_function(lambda: sum(not e.known.is_set() for e in self._expected.values()))

    async def start(self) -> None:
        """Goes on with what was arriving when a daemon before this one ended. Raises OSError."""
        for arrival in await asyncio.to_thread(self._arrivals.found):
            expected = self._expected[arrival.pod_uid, arrival.container] = _Expected(arrival)
            if arrival.step is Step.EXPECTED:
                request = v1.ClaimRequest(pod=_pod(arrival), container=arrival.container)
                self._bring(expected, self._link.stream(methods.CLAIM, request), None)
                continue
            expected.known.set()
            if arrival.step in (Step.SETTLED, Step.OVER):
                expected.lost = arrival.reason or "it has arrived before"
                expected.told = True
                self._tasks.start("conclude", self._conclude(expected))

    async def close(self) -> None:
        """Ends; a successor goes on."""
        await self._tasks.close()

    # ---- before shims ask

    def appeared(self, pod: PodView) -> None:
        """A pod of this node is to begin: what comes to it is fetched while kubelet still makes it."""
        for container in () if pod.over else pod.awaited:
            key = pod.uid, container
            if key not in self._expected and key not in self._asking and key not in self._foreseeing:
                of = v1.Pod(namespace=pod.namespace, name=pod.name, uid=pod.uid)
                task = self._foreseeing[key] = self._tasks.start("foresee", self._foresee(of, container))
                task.add_done_callback(partial(self._foreseen, key))

    def _foreseen(self, key: Key, _: object) -> None:
        self._foreseeing.pop(key, None)

    async def _foresee(self, pod: v1.Pod, container: str) -> None:
        """Claims ahead. Whatever comes to nothing here, its shim will ask for again."""
        try:
            await self._claimed(pod, container, asyncio.get_running_loop().time() + CLAIM_SECONDS)
        except (Refused, Unavailable, TimeoutError, OSError, ValueError) as error:
            about = {"container": f"{pod.namespace}/{pod.name}/{container}", "reason": str(error)}
            log.info("whether a container has a predecessor is not known yet", extra=about)

    # ---- what shims ask

    async def arrives(self, asked: node_v1.Container) -> node_v1.ArrivesResponse:
        """Whether somebody comes to be a container that is being created."""
        key = asked.pod_uid, asked.name
        foreseeing, until = self._foreseeing.get(key), asyncio.get_running_loop().time() + CLAIM_SECONDS
        if foreseeing is not None:
            await asyncio.wait({foreseeing})
        known = self._expected.get(key)
        if known is not None:
            known.wanted()
            return await self._again(known, asked)
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = self._tasks.start("claim", self._claim(asked, until))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    async def arrival(self, asked: node_v1.Container) -> node_v1.ArrivalResponse:
        """What has come, when that is known. Raises RpcError: to be asked again."""
        known = self._expected.get((asked.pod_uid, asked.name))
        if known is None:
            return node_v1.ArrivalResponse(state=State.LOST, reason="nothing is known of an arrival")
        known.wanted()
        try:
            async with asyncio.timeout(ARRIVAL_SECONDS):
                await known.known.wait()
        except TimeoutError:
            return node_v1.ArrivalResponse(state=State.WAITING)
        arrival = known.arrival
        if known.lost:
            return node_v1.ArrivalResponse(state=State.LOST, reason=known.lost)
        if arrival.given_to not in ("", asked.id):
            reason = "it was given to a container of this pod that has ended since"
            return node_v1.ArrivalResponse(state=State.LOST, reason=reason)
        if arrival.step is Step.HERE:
            arrival.given_to, arrival.step = asked.id, Step.GIVEN
        try:  # before it is given, for nobody else may get it then
            await asyncio.to_thread(self._arrivals.write, arrival)
        except OSError as error:
            raise RpcError(Code.UNAVAILABLE, f"the arrival cannot be noted: {error}") from error
        home = self._arrivals.home(arrival)
        return node_v1.ArrivalResponse(
            state=State.HERE,
            asleep=arrival.asleep,
            image=f"{home}/{arrival.image}",
            layer=f"{home}/{arrival.layer}" if arrival.layer else "",
        )

    async def settled(self, request: node_v1.SettledRequest) -> None:
        """What became of it. Raises RpcError."""
        asked = request.container or node_v1.Container()
        known = self._expected.get((asked.pod_uid, asked.name))
        if known is None or known.lost or known.arrival.step in (Step.SETTLED, Step.OVER):
            return
        arrival = known.arrival
        if request.here and (arrival.step, arrival.given_to) != (Step.GIVEN, asked.id):
            raise RpcError(Code.FAILED_PRECONDITION, "it was not given to this container")
        if known.way is not None and not known.way.done():
            known.way.cancel()
            await asyncio.wait({known.way})
        await self._settle(known, request)

    # ---- asking

    async def _again(self, known: _Expected, asked: node_v1.Container) -> node_v1.ArrivesResponse:
        """A container is created whose arrival is known."""
        arrival = known.arrival
        told, known.told = known.told, True
        if known.lost and not told:
            return _wait()  # it hears at once that nothing comes, and why: it starts fresh, and says so
        if known.lost or arrival.step in (Step.SETTLED, Step.OVER):
            return node_v1.ArrivesResponse(expected=False, reason=known.lost or "it has arrived before")
        if arrival.given_to in ("", asked.id):
            return _wait()
        reason = "the container that it was given to has ended before it said what became of it"
        await self._settle(known, node_v1.SettledRequest(here=False, reason=reason))
        return node_v1.ArrivesResponse(expected=False, reason=reason)

    async def _claim(self, asked: node_v1.Container, until: float) -> node_v1.ArrivesResponse:
        pod = v1.Pod(namespace=asked.pod_namespace, name=asked.pod_name, uid=asked.pod_uid)
        about = {"container": f"{pod.namespace}/{pod.name}/{asked.name}"}
        try:
            first = await self._claimed(pod, asked.name, until)
            if first.state in (_STATE.NOBODY, _STATE.LOST, _STATE.TAKEN):
                return await self._nobody(pod, asked.name, first)
        except (Refused, Unavailable, TimeoutError, OSError, ValueError) as error:
            reason = str(error) or f"the control plane did not answer within {CLAIM_SECONDS:g} s"
            log.warning(
                "a container starts without its predecessor's state", extra=about | {"reason": reason}
            )
            if not isinstance(error, Refused):
                of = Pod(namespace=pod.namespace, name=pod.name, uid=pod.uid)
                self._tell(of, asked.name, telling.unclaimed(asked.name, reason))
                self._tasks.start("decline", self._decline(pod, asked.name, reason))
            return node_v1.ArrivesResponse(expected=False, reason=reason)
        expected = self._expected[asked.pod_uid, asked.name]
        expected.told = True
        expected.wanted()
        return _wait()

    async def _claimed(self, pod: v1.Pod, container: str, until: float) -> v1.ClaimEvent:
        """What the control plane says of it first; if somebody comes, he is on his way when this returns.

        Raises Refused, Unavailable, TimeoutError, OSError, ValueError.
        """
        events = self._link.stream(methods.CLAIM, v1.ClaimRequest(pod=pod, container=container))
        async with asyncio.timeout_at(until):
            first = await anext(events, v1.ClaimEvent(state=_STATE.NOBODY))
        if first.state in (_STATE.EXPECTED, _STATE.READY):
            arrival = arrival_of(pod, container, first)
            await asyncio.to_thread(self._arrivals.write, arrival)
            expected = self._expected[pod.uid, container] = _Expected(arrival)
            about = {"container": f"{pod.namespace}/{pod.name}/{container}", "source": arrival.source}
            log.info("a container's state is on its way", extra=about)
            self._tell(_of(arrival), container, telling.expected(container, arrival.source))
            self._bring(expected, events, first)
        return first

    async def _nobody(self, pod: v1.Pod, container: str, event: v1.ClaimEvent) -> node_v1.ArrivesResponse:
        if event.state == _STATE.TAKEN:  # by a container before this one, of which nothing is known here
            await self._decline(pod, container, "it was taken, and is not on this node any more")
        elif event.state == _STATE.LOST:
            self._fresh(pod, container, event.reason)
        return node_v1.ArrivesResponse(expected=False, reason=event.reason)

    async def _decline(self, pod: v1.Pod, container: str, reason: str) -> None:
        """The container starts fresh: what may be on its way to it is not waited for."""
        request = v1.ClaimRequest(pod=pod, container=container)
        try:
            async with asyncio.timeout(_LATE_SECONDS):
                event = await anext(self._link.stream(methods.CLAIM, request), v1.ClaimEvent())
                if event.state not in (_STATE.EXPECTED, _STATE.READY, _STATE.TAKEN):
                    return
                abandon = v1.AbandonRequest(
                    pod=pod, migration=event.migration, container=container, reason=reason
                )
                await self._link.call(methods.ABANDON, abandon, timeout=_LATE_SECONDS)
        except (Refused, Unavailable, TimeoutError) as error:
            log.info("a claim was not declined; it runs out", extra={"pod": pod.name, "reason": str(error)})
            return
        self._fresh(pod, container, reason)

    # ---- on its way

    def _bring(
        self, expected: _Expected, events: AsyncIterator[v1.ClaimEvent], first: v1.ClaimEvent | None
    ) -> None:
        coming = Coming(expected.arrival, self._link, self._arrivals, self._client, self._runtime)
        expected.coming = coming
        if first is not None:
            coming.hear(first)
        name = f"arriving {expected.arrival.migration}"
        expected.way = self._tasks.start(name, self._run(expected, coming, events))

    async def _run(self, expected: _Expected, coming: Coming, events: AsyncIterator[v1.ClaimEvent]) -> None:
        try:
            await coming.run(events)
        except Lost as error:
            expected.lost = str(error)
            if error.ours:
                request = node_v1.SettledRequest(here=False, reason=str(error))
                await self._settle(expected, request)
            else:
                self._fresh(coming.pod, expected.arrival.container, str(error))
                await self._forget(expected)
        expected.known.set()

    # ---- what became of it

    async def _settle(self, known: _Expected, request: node_v1.SettledRequest) -> None:
        """Notes what became of it, and has the control plane hear of it. Raises RpcError."""
        arrival = known.arrival
        arrival.step, arrival.arrived = Step.SETTLED, request.here
        arrival.reason, arrival.restore_us = request.reason, request.restore_us
        if not request.here:
            known.lost = request.reason or "it could not be restored"
        try:
            await asyncio.to_thread(self._arrivals.write, arrival)
        except OSError as error:
            if request.here:
                arrival.step = Step.GIVEN
                raise RpcError(Code.UNAVAILABLE, f"it cannot be noted: {error}") from error
        if request.here:
            seconds = time.time() - arrival.began
            self._metrics.arrived.labels("arrived").inc()
            self._metrics.bytes.inc(arrival.size)
            self._metrics.seconds.observe(seconds)
        else:
            self._fresh(_pod(arrival), arrival.container, known.lost)
        known.known.set()
        self._tasks.start("conclude", self._conclude(known))

    async def _conclude(self, known: _Expected) -> None:
        """Has the control plane hear of it, however long it is away."""
        arrival = known.arrival
        pod, migration, container = _pod(arrival), arrival.migration, arrival.container
        await self._clear(arrival)
        while True:
            try:
                if arrival.arrived:
                    confirm = v1.ConfirmRequest(
                        pod=pod, migration=migration, container=container, restore_us=arrival.restore_us
                    )
                    await self._link.call(methods.CONFIRM, confirm, timeout=_CALL_SECONDS)
                else:
                    abandon = v1.AbandonRequest(
                        pod=pod, migration=migration, container=container, reason=arrival.reason
                    )
                    await self._link.call(methods.ABANDON, abandon, timeout=_CALL_SECONDS)
            except Unavailable as error:
                log.info("what became of a migration waits to be told", extra={"reason": str(error)})
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            except Refused as error:
                log.warning(
                    "what became of a migration is not taken",
                    extra={"migration": migration, "reason": str(error)},
                )
            break
        await self._forget(known)

    async def _forget(self, known: _Expected) -> None:
        arrival = known.arrival
        arrival.step = Step.OVER
        try:
            await asyncio.to_thread(self._arrivals.forget, arrival)
        except OSError as error:
            log.warning("what has arrived is not removed", extra={"reason": str(error)})
        # A shim that asks once more hears why it was lost.
        if not known.lost:
            self._expected.pop((arrival.pod_uid, arrival.container), None)

    async def _clear(self, arrival: Arrival) -> None:
        try:
            await asyncio.to_thread(self._arrivals.clear, arrival)
        except OSError as error:
            log.warning("what has arrived is not removed", extra={"reason": str(error)})

    def _fresh(self, pod: v1.Pod, container: str, reason: str) -> None:
        path = f"{pod.namespace}/{pod.name}/{container}"
        log.warning("a container starts fresh", extra={"container": path, "reason": reason})
        self._metrics.arrived.labels("fresh").inc()


def _wait() -> node_v1.ArrivesResponse:
    return node_v1.ArrivesResponse(expected=True, seconds=int(PATIENCE_SECONDS))


def _pod(arrival: Arrival) -> v1.Pod:
    return v1.Pod(namespace=arrival.namespace, name=arrival.pod, uid=arrival.pod_uid)


def _of(arrival: Arrival) -> Pod:
    return Pod(namespace=arrival.namespace, name=arrival.pod, uid=arrival.pod_uid)
