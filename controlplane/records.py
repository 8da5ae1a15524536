"""A move as its record keeps it, and what may become of it: pure, as all that is decided here.

A record is one pod's; each managed container of it is a `Part` with a state of its own. The binding to the
pod that replaces it is the record's, so that the containers of one pod never come apart. Each function
answers the record as it is to be written next, and may be asked twice; it raises TooLate when that cannot be
any more.

The trap is `taken`: from then on a process may live from this copy somewhere, and nobody else may ever have
it, whatever becomes of whoever took it. Before that, the binding can be undone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from controlplane.pods import Key, Owner, PodView


class TooLate(Exception):
    """It cannot be any more, or it is somebody else's; the message says which."""


class State(StrEnum):
    """Where a container is on its way; the values are those of the custom resource."""

    EXPECTED = "Expected"  # its pod was told to go; its node has not said anything
    LEAVING = "Leaving"  # frozen, being dumped
    OFFERED = "Offered"  # its image is whole, on the disk of the node it left
    TAKEN = "Taken"  # and verified on the disk of the other; that one alone may restore it
    ARRIVED = "Arrived"
    KEPT = "Kept"  # it came to nothing; the copy is kept where it was made
    LOST = "Lost"  # it came to nothing, and there is no copy


OVER: Final = frozenset({State.ARRIVED, State.KEPT, State.LOST})
ORDER: Final = tuple(State)
"""From the beginning on; the three that are over come last."""


@dataclass(frozen=True, slots=True)
class Part:
    """A container that moves. `since`: Unix seconds, when its state began."""

    name: str
    state: State = State.EXPECTED
    since: float = 0.0
    asleep: bool = False
    taken: bool = False
    size: int = 0
    received: int = 0
    freeze_us: int = 0
    restore_us: int = 0
    reason: str = ""

    @property
    def over(self) -> bool:
        return self.state in OVER


@dataclass(frozen=True, slots=True)
class Target:
    """The pod that replaces it."""

    name: str
    uid: str
    node: str


@dataclass(frozen=True, slots=True)
class Record:
    """A pod that moves. Times are Unix seconds, 0: not yet."""

    namespace: str
    name: str
    pod: str
    pod_uid: str
    node: str
    owner: Owner
    slot: str
    reason: str
    left: float
    """When it was told to go."""
    kill: float
    """When its grace period ends."""
    parts: tuple[Part, ...]
    target: Target | None = None
    announced: float = 0.0
    claimed: float = 0.0
    reopened: float = 0.0
    """When its copy was asked for again, after it had come to nothing."""
    ended: float = 0.0
    version: str = ""
    deleting: bool = False
    wanted: bool = False
    """Somebody asks for its copy, and was not answered yet."""
    held: bool = False
    """Our finalizer is on it: only while it is under way, so that nothing holds up its deletion later."""

    @property
    def since(self) -> float:
        """The pod that replaces it came after this moment."""
        return self.reopened or self.left

    @property
    def key(self) -> Key:
        return Key(self.namespace, self.owner.uid, self.slot)

    def part(self, container: str) -> Part | None:
        return next((part for part in self.parts if part.name == container), None)


def name_of(pod: str, uid: str) -> str:
    """The record's name: the same whoever makes it, and however often."""
    return f"{pod[:200].rstrip('-.')}-{uid[:8]}"


def begun(pod: PodView, reason: str, now: float) -> Record:
    """The record of a pod that moves."""
    assert pod.owner is not None, "who has no owner does not move"
    assert pod.key is not None, "the same"
    return Record(
        namespace=pod.namespace,
        name=name_of(pod.name, pod.uid),
        pod=pod.name,
        pod_uid=pod.uid,
        node=pod.node,
        owner=pod.owner,
        slot=pod.key.slot,
        reason=reason,
        left=pod.left_at or now,
        kill=pod.deleting or now + 30,
        parts=tuple(Part(name, since=now) for name in pod.managed),
    )


def announced(record: Record, asleep: Mapping[str, bool], now: float) -> Record:
    """Its node has begun: `asleep` says of each container that it saves whether it slept."""

    def step(part: Part) -> Part:
        if part.state is not State.EXPECTED:
            return part
        if part.name not in asleep:
            return _to(part, State.LOST, now, "its node does not save it")
        return replace(_to(part, State.LEAVING, now), asleep=asleep[part.name])

    return _ending(_each(replace(record, announced=record.announced or now), step), now)


def offered(record: Record, container: str, size: int, freeze_us: int, now: float) -> Record:
    """Its image is whole."""

    def step(part: Part) -> Part:
        if part.state is State.LEAVING:
            part = _to(part, State.OFFERED, now)
        if part.state in (State.OFFERED, State.TAKEN):
            # Fetched while it was written, it may be taken before its size is known.
            received = size if part.taken else part.received
            return replace(
                part, size=size or part.size, received=received, freeze_us=freeze_us or part.freeze_us
            )
        raise TooLate(_how_it_is(part))

    return _one(record, container, step, now)


def withdrawn(record: Record, container: str, reason: str, now: float) -> Record:
    """There is no image of it, or none any more."""

    def step(part: Part) -> Part:
        if part.taken or part.state is State.ARRIVED:
            raise TooLate(_how_it_is(part))
        return part if part.state is State.LOST else _to(part, State.LOST, now, reason)

    return _one(record, container, step, now)


def claimed(record: Record, target: Target, now: float) -> Record:
    """That pod is the one that replaces it."""
    if record.target is not None and record.target.uid != target.uid:
        raise TooLate(f"it is {record.target.name}'s")
    if record.ended:
        raise TooLate("it is over")
    return record if record.target else replace(record, target=target, claimed=now)


def released(record: Record) -> Record:
    """The pod that was to replace it is gone; another may, unless that one took something already."""
    if record.target is None or record.ended or any(part.taken for part in record.parts):
        return record
    parts = tuple(replace(part, received=0) for part in record.parts)
    return replace(record, target=None, claimed=0.0, parts=parts)


def progressed(record: Record, uid: str, container: str, received: int, size: int) -> Record:
    """So many bytes have come: none, as long as the one before it has not even been told to end. Who begins
    anew after having taken it does not know that yet, and is not told to give it up.
    """

    def step(part: Part) -> Part:
        if part.over:
            raise TooLate(_how_it_is(part))
        return part if part.taken else replace(part, received=received, size=size or part.size)

    return _one(_of(record, uid), container, step, 0.0)


def taken(record: Record, uid: str, container: str, now: float) -> Record:
    """That pod has all of it, and may run it."""

    def step(part: Part) -> Part:
        if part.state is State.TAKEN:
            return part
        if part.state not in (State.LEAVING, State.OFFERED):
            raise TooLate(_how_it_is(part))
        return replace(_to(part, State.TAKEN, now), taken=True, received=part.size or part.received)

    return _one(_of(record, uid), container, step, now)


def confirmed(record: Record, uid: str, container: str, restore_us: int, now: float) -> Record:
    """It runs, or sleeps, there. Late is as good: who took it is the only one who can say so."""

    def step(part: Part) -> Part:
        if part.state is State.ARRIVED:
            return part
        if not part.taken:
            raise TooLate(_how_it_is(part))
        return replace(_to(part, State.ARRIVED, now), restore_us=restore_us)

    return _one(_of(record, uid), container, step, now)


def abandoned(record: Record, uid: str, container: str, reason: str, now: float) -> Record:
    """That pod starts fresh instead, and will never run it."""

    def step(part: Part) -> Part:
        if part.state is State.ARRIVED:
            raise TooLate(_how_it_is(part))
        if part.over:  # also told late, it tells that nobody runs it
            return replace(part, taken=False)
        unsaved = part.state is State.EXPECTED
        return replace(_to(part, State.LOST if unsaved else State.KEPT, now, reason), taken=False)

    return _one(_of(record, uid), container, step, now)


def reopened(record: Record, now: float, *, taker_gone: bool = False) -> Record:
    """The copies that are kept are there for the next pod that replaces it. Not what may run somewhere:
    `taker_gone` says that the pod which took it is no more.
    """
    kept = [part for part in record.parts if part.state is State.KEPT]
    if not record.ended or not kept:
        raise TooLate("there is no copy to give" if record.ended else "it is under way still")
    for part in kept:
        if part.taken and not taker_gone:
            raise TooLate(f"{part.name} was taken by {_taker(record)}, and may run there")

    def step(part: Part) -> Part:
        if part.state is not State.KEPT:
            return part
        return replace(_to(part, State.OFFERED, now), received=0, taken=False)

    found = replace(record, target=None, claimed=0.0, announced=now, reopened=now, ended=0.0)
    return _each(found, step)


def given_up(record: Record, which: Callable[[Part], str], now: float) -> Record:
    """Nothing comes of the parts for which `which` has a reason: kept if its node has announced them."""

    def step(part: Part) -> Part:
        reason = "" if part.over else which(part)
        if not reason:
            return part
        return _to(part, State.LOST if part.state is State.EXPECTED else State.KEPT, now, reason)

    return _ending(_each(record, step), now)


def phase(record: Record) -> State:
    """All of it in one word: the part that lags behind; once it is over, the worst."""
    under_way = [part.state for part in record.parts if not part.over]
    if under_way:
        return min(under_way, key=ORDER.index)
    return max((part.state for part in record.parts), key=ORDER.index, default=State.LOST)


def _to(part: Part, state: State, now: float, reason: str = "") -> Part:
    return replace(part, state=state, since=now, reason=reason[:500])


def _each(record: Record, step: Callable[[Part], Part]) -> Record:
    return replace(record, parts=tuple(step(part) for part in record.parts))


def _one(record: Record, container: str, step: Callable[[Part], Part], now: float) -> Record:
    return _ending(_each(record, lambda part: step(part) if part.name == container else part), now)


def _ending(record: Record, now: float) -> Record:
    over = all(part.over for part in record.parts)
    return replace(record, ended=now) if over and not record.ended else record


def _of(record: Record, uid: str) -> Record:
    if record.target is None or record.target.uid != uid:
        raise TooLate("it is not this pod's" + (f" but {record.target.name}'s" if record.target else ""))
    return record


def _taker(record: Record) -> str:
    return record.target.name if record.target else "somebody"


def _how_it_is(part: Part) -> str:
    return f"{part.name} is {part.state}" + (f": {part.reason}" if part.reason else "")
