"""What the leader knows and does by itself: judges pods that are told to go, releases, ends what is overdue.

Everything that must outlive this process is in the book (`book.py`); offers, and when transfers were last
heard of, are not: nodes say them again. `source.py` and `target.py` are the two sides that nodes speak to.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakValueDictionary

from architect.kube import ApiError, Client, NotFound, pod_path
from architect.kube.following import Backoff
from architect.migration.v1 import migration_pb2 as v1
from controlplane import deadlines, leaving, matching, owners, records
from controlplane.book import Book, Ended, Gone, Place
from controlplane.events import Events, happening
from controlplane.leaving import Judgement
from controlplane.listeners import ANY
from controlplane.metrics import Metrics
from controlplane.pods import PodView
from controlplane.records import OVER, Record, State, TooLate
from controlplane.roster import Roster

_UNSETTLED_TRIES: Final = 10
_UNSETTLED_SECONDS: Final = 0.2
_OVERDUE_SECONDS: Final = 5.0
"""What could not be ended at its time is tried again after so long."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Heard:
    """What nodes have said of a container, and this process alone knows."""

    offer: v1.OfferRequest | None = None
    progress: float = 0.0
    """When its target was last heard of, in Unix seconds."""
    written: float = 0.0
    """When that was last put into the record."""


@dataclass(slots=True)
class Broker:
    """The leader's state. `run` is its own work."""

    client: Client
    metrics: Metrics
    clock: Callable[[], float] = time.time
    backoff: Backoff | None = None
    book: Book = field(init=False)
    roster: Roster = field(init=False)
    events: Events = field(init=False)
    began: float = field(init=False)
    ended: bool = field(default=False, init=False)
    _heard: dict[tuple[Place, str], Heard] = field(default_factory=dict, init=False)
    _judging: dict[str, asyncio.Task[Judgement | None]] = field(default_factory=dict, init=False)
    _owner_locks: WeakValueDictionary[str, asyncio.Lock] = field(
        default_factory=WeakValueDictionary, init=False
    )
    _waited: set[str] = field(default_factory=set, init=False)
    """Pods that were told to go while they still waited for the memory of those before them."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.book = Book(self.client, backoff=self.backoff)
        self.roster = Roster(self.client, self._noticed, backoff=self.backoff)
        self.events = Events(self.client, clock=self.clock)
        self.began = self.clock()

    async def run(self) -> None:
        """Works until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.book.run(), name="records")
                group.create_task(self.events.run(), name="events")
                # Pods are judged by what is known of records: those come first.
                await self.book.complete.wait()
                group.create_task(self.roster.run(), name="pods")
                await self.roster.complete.wait()
                self._review()
                group.create_task(self._end_what_is_overdue(), name="deadlines")
        finally:
            waits = [*self._judging.values(), *self._tasks]
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    @property
    def complete(self) -> bool:
        """Whether it knows all there is, and still leads."""
        return self.book.complete.is_set() and self.roster.complete.is_set() and not self.ended

    def end(self) -> None:
        """It leads no more: whoever waits for a change is told."""
        self.ended = True
        self.book.changes.ring_all()

    def record(self, place: Place) -> Record:
        """A record, for somebody who waits for it to change. Raises Gone, Ended."""
        if self.ended:
            raise Ended("this replica leads no more")
        return self.book.get(place)

    def hear(self, place: Place, container: str) -> Heard:
        """To note what is heard of a container that moves."""
        return self._heard.setdefault((place, container), Heard())

    def heard(self, place: Place, container: str) -> Heard:
        """What was heard of a container."""
        return self._heard.get((place, container), Heard())

    # Who moves

    async def judged(self, pod: PodView) -> None:
        """Returns when all pods that were told to go, and that `pod` could replace, are judged."""
        if pod.owner is None:
            return
        uids = {each.uid for each in self.roster.of_owner(pod.owner.uid)} - {pod.uid}
        waits = [task for uid, task in self._judging.items() if uid in uids]
        if waits:
            await asyncio.wait(waits)

    async def judge(self, pod: PodView, *, announced: bool) -> Judgement:
        """Judges a pod, and begins its record if it moves. Raises ApiError."""
        owner = pod.owner.uid if pod.owner else pod.uid
        # One after the other: each who moves counts against the next.
        async with self._owner_locks.setdefault(owner, asyncio.Lock()):
            judgement = await self._judgement(pod, announced=announced)
            if judgement.moves and pod.key is not None:
                record = await self.book.begin(records.begun(pod, judgement.reason, self.clock()))
                about = {"namespace": pod.namespace, "pod": pod.name, "node": pod.node}
                log.info("a pod moves", extra=about | {"migration": record.name, "reason": judgement.reason})
                if self.roster.get(pod.uid) is None:  # it went meanwhile, and nobody noted that here
                    self._later(self._source_gone, record)
            return judgement

    async def _judgement(self, pod: PodView, *, announced: bool) -> Judgement:
        owner = pod.owner.uid if pod.owner else ""
        tries = 0
        while True:
            of = await owners.read(self.client, pod)
            crowd = matching.crowd(pod, self.roster.of_owner(owner), self.book.of_owner(owner))
            judgement = leaving.judge(pod, of, crowd, announced=announced, waiting=self._waits(pod))
            tries += 1
            if not judgement.unsettled or tries == _UNSETTLED_TRIES:
                return judgement
            await asyncio.sleep(_UNSETTLED_SECONDS)

    def _waits(self, pod: PodView) -> bool:
        record = matching.bound(pod, self.book.of_owner(pod.owner.uid if pod.owner else ""))
        waits = record is not None and not record.ended and not any(part.taken for part in record.parts)
        return waits or pod.uid in self._waited

    # What pods do

    def _noticed(self, pod: PodView, gone: bool) -> None:
        """A managed pod is new, another now, or gone."""
        if not self.roster.complete.is_set():
            return  # of all that there are, `_review` makes the best
        self._look_at(pod, gone=gone)

    def _review(self) -> None:
        """What pods did while nobody led."""
        uids = {record.pod_uid for record in self.book.all()}
        for record in self.book.all():
            if record.ended:
                continue
            if self.roster.get(record.pod_uid) is None:
                self._later(self._source_gone, record)
            if record.target is not None and self._gone(record.target.uid):
                self._later(self._target_gone, record)
        for pod in self.roster.all():
            if pod.uid not in uids:
                self._look_at(pod, gone=False)

    def _gone(self, uid: str) -> bool:
        pod = self.roster.get(uid)
        return pod is None or not pod.active

    def _look_at(self, pod: PodView, *, gone: bool) -> None:
        owner = pod.owner.uid if pod.owner else ""
        known = self.book.of_owner(owner)
        if gone or not pod.active:
            self._not_a_target_any_more(pod, known)
        own = next((record for record in known if record.pod_uid == pod.uid), None)
        if gone:
            self._waited.discard(pod.uid)
            if own is not None and not own.ended:
                self._later(self._source_gone, own)
        elif pod.left_at and own is None and pod.uid not in self._judging:
            task = asyncio.create_task(self._judge_until_gone(pod), name=f"judge {pod.name}")
            self._judging[pod.uid] = task
            task.add_done_callback(lambda _: self._judging.pop(pod.uid, None))

    def _not_a_target_any_more(self, pod: PodView, known: list[Record]) -> None:
        if self._waits(pod):
            self._waited.add(pod.uid)
        record = matching.bound(pod, known)
        if record is not None and not record.ended:
            self._later(self._target_gone, record)

    async def _judge_until_gone(self, pod: PodView) -> Judgement | None:
        backoff = Backoff()
        while self.roster.get(pod.uid) is not None:
            try:
                judgement = await self.judge(pod, announced=False)
            except ApiError as error:
                log.warning("a pod cannot be judged", extra={"pod": pod.name, "reason": str(error)})
                await asyncio.sleep(backoff.pause(error.after))
                continue
            self.metrics.judged.labels("moves" if judgement.moves else "ends").inc()
            if not judgement.moves:
                about = {"namespace": pod.namespace, "pod": pod.name, "reason": judgement.reason}
                log.info("a pod ends in the ordinary way", extra=about)
            return judgement
        return None

    async def _source_gone(self, record: Record) -> None:
        """The pod is gone. What its node has announced is on its disk; of the rest there is nothing."""

        def step(found: Record) -> Record:
            return records.given_up(
                found,
                lambda part: "it ended unannounced" if part.state is State.EXPECTED else "",
                self.clock(),
            )

        await self.change((record.namespace, record.name), step)

    async def _target_gone(self, record: Record) -> None:
        await self.change((record.namespace, record.name), records.released)

    # Changes and deadlines

    async def change(self, place: Place, step: Callable[[Record], Record]) -> Record:
        """As Book.change, with what follows from it."""
        seen: list[Record] = []

        def noted(found: Record) -> Record:
            seen.append(found)
            return step(found)

        after = await self.book.change(place, noted)
        self._tell(seen[-1], after)  # the last one is what was changed
        return after

    def _tell(self, before: Record, after: Record) -> None:
        for part in after.parts:
            known = before.part(part.name)
            if known is not None and known.state is part.state:
                continue
            about = {"namespace": after.namespace, "migration": after.name, "container": part.name}
            about |= {"state": part.state.value, "reason": part.reason}
            level = logging.WARNING if part.state in (State.KEPT, State.LOST) else logging.INFO
            log.log(level, "a container is one step further", extra=about)
            if told := happening(after, part):
                self.events.tell(told)
            if part.state in OVER:
                self.metrics.ended.labels(part.state.value).inc()
                self._heard.pop(((after.namespace, after.name), part.name), None)
                if part.state is State.ARRIVED:
                    self.metrics.seconds.observe(max(0.0, part.since - after.since))
                    self.metrics.bytes.inc(part.size)

    async def _end_what_is_overdue(self) -> None:
        with self.book.changes.to(ANY) as changed:
            while True:
                changed.clear()
                failed = [await self._end(record) for record in self.book.all() if self._is_due(record)]
                ends = [self._due(record) for record in self.book.all()]
                now = self.clock()
                pause = max(min((end for end in ends if end), default=now + 3600) - now, 0.0)
                try:
                    async with asyncio.timeout(_OVERDUE_SECONDS if True in failed else pause):
                        await changed.wait()
                except TimeoutError:
                    continue

    def _due(self, record: Record) -> float:
        if record.deleting or record.wanted or (record.ended and record.held):
            return self.clock()
        place = record.namespace, record.name
        return deadlines.next_due(record, lambda container: self._last(place, container))

    def _is_due(self, record: Record) -> bool:
        end = self._due(record)
        return bool(end) and end <= self.clock()

    def _last(self, place: Place, container: str) -> float:
        return max(self.began, self.heard(place, container).progress)

    async def _end(self, record: Record) -> bool:
        """Ends what is overdue; True when it could not be."""
        place = record.namespace, record.name
        try:
            if record.wanted:
                await self._restore(record)
            elif record.ended and record.held:
                await self.book.let_go(record)
            elif record.ended:
                await self.book.remove(record)
            elif record.deleting:
                reason = "its record was deleted"
                await self.change(place, lambda each: records.given_up(each, lambda _: reason, self.clock()))
            else:
                await self.change(
                    place,
                    lambda each: deadlines.expired(each, lambda name: self._last(place, name), self.clock()),
                )
        except (ApiError, Gone) as error:
            log.warning("a record cannot be ended", extra={"migration": record.name, "reason": str(error)})
            return True
        return False

    async def _restore(self, record: Record) -> None:
        """Somebody wants the copy that is kept: the next pod that replaces it gets it."""
        gone = await self._is_no_more(record)

        def step(found: Record) -> Record:
            return records.reopened(found, self.clock(), taker_gone=gone and found.target == record.target)

        try:
            await self.change((record.namespace, record.name), step)
        except TooLate as error:
            log.warning("a copy is not given again", extra={"migration": record.name, "reason": str(error)})
        await self.book.unwant(record)

    async def _is_no_more(self, record: Record) -> bool:
        """Whether the pod that replaced it is gone, by the API itself: its node has said so, or somebody who
        knows has said it for the node. Raises ApiError.
        """
        if record.target is None:
            return False
        try:
            pod = await self.client.get(pod_path(record.namespace, record.target.name))
        except NotFound:
            return True
        return bool(pod["metadata"]["uid"] != record.target.uid)

    def _later(self, work: Callable[[Record], Coroutine[Any, Any, None]], record: Record) -> None:
        """Does it, and again until it is done or there is nothing left to do it to."""
        task = asyncio.create_task(self._until_done(work, record))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_done(self, work: Callable[[Record], Coroutine[Any, Any, None]], record: Record) -> None:
        backoff = Backoff()
        while True:
            try:
                await work(record)
            except Gone:
                return
            except ApiError as error:
                log.warning("the end of a pod is not noted yet", extra={"reason": str(error)})
                await asyncio.sleep(backoff.pause(error.after))
            else:
                return
