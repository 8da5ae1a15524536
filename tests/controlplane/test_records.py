"""What may become of a record: whoever asks for what, in whichever order, one pod at most ever runs it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from architect.untrusted import Unreadable
from controlplane import deadlines, records, resource
from controlplane.pods import Owner
from controlplane.records import Part, Record, State, Target, TooLate

CONTAINERS = ("a", "b")
PODS = st.sampled_from(("one", "two", "three"))
WHICH = st.sampled_from(CONTAINERS)


def record(*parts: Part) -> Record:
    return Record(
        namespace="shop",
        name="web-1-uid",
        pod="web-1",
        pod_uid="uid",
        node="node-1",
        owner=Owner("ReplicaSet", "web", "set"),
        slot="abc",
        reason="it was deleted",
        left=1000.0,
        kill=1030.0,
        parts=parts or tuple(Part(name, since=1000.0) for name in CONTAINERS),
    )


def through_the_api(found: Record) -> Record:
    """As it comes back."""
    made = resource.to_create(found)
    metadata = made["metadata"] | {"creationTimestamp": "1970-01-01T00:16:40Z", "resourceVersion": "7"}
    status = {key: value for key, value in resource.status(found).items() if value is not None}
    return resource.record({**made, "metadata": metadata, "status": status})


class Moving(RuleBasedStateMachine):
    """Pods, their nodes, deadlines and failures, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.record = record()
        self.now = 1000.0
        self.ran: dict[str, set[str]] = {name: set() for name in CONTAINERS}
        self.ended: dict[str, State] = {}

    def _do(self, step: Any, *arguments: Any) -> bool:
        try:
            self.record = step(self.record, *arguments)
        except TooLate:
            return False
        return True

    @rule(pod=PODS)
    def claim(self, pod: str) -> None:
        self._do(records.claimed, Target(pod, pod, "node-2"), self.now)

    @rule()
    def the_replacement_goes(self) -> None:
        self._do(records.released)

    @rule(asleep=st.booleans())
    def announce(self, asleep: bool) -> None:
        self._do(records.announced, {"a": asleep, "b": not asleep}, self.now)

    @rule(container=WHICH)
    def offer(self, container: str) -> None:
        self._do(records.offered, container, 100, 5, self.now)

    @rule(container=WHICH)
    def withdraw(self, container: str) -> None:
        self._do(records.withdrawn, container, "no disk", self.now)

    @rule(pod=PODS, container=WHICH)
    def progress(self, pod: str, container: str) -> None:
        self._do(records.progressed, pod, container, 50, 100)

    @rule(pod=PODS, container=WHICH)
    def take(self, pod: str, container: str) -> None:
        if self._do(records.taken, pod, container, self.now):
            self.ran[container].add(pod)

    @rule(pod=PODS, container=WHICH)
    def confirm(self, pod: str, container: str) -> None:
        if self._do(records.confirmed, pod, container, 9, self.now):
            assert pod in self.ran[container]

    @rule(pod=PODS, container=WHICH)
    def abandon(self, pod: str, container: str) -> None:
        if self._do(records.abandoned, pod, container, "another kernel", self.now):
            assert self.record.target is not None
            assert self.record.target.uid == pod
            if (part := self.record.part(container)) and not part.taken:
                self.ran[container].discard(pod)  # it says so itself

    @rule()
    def somebody_wants_the_copy(self) -> None:
        if self._do(records.reopened, self.now):
            assert not any(self.ran[part.name] for part in self.record.parts if not part.over)
            self.ended = {part.name: part.state for part in self.record.parts if part.over}

    @rule(seconds=st.sampled_from((1.0, 61.0, 200.0, 2000.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.record = deadlines.expired(self.record, lambda _: 0.0, self.now)

    @rule()
    def the_control_plane_is_another(self) -> None:
        self.record = replace(through_the_api(self.record), version="", held=False)

    @invariant()
    def one_pod_at_most_may_ever_run_it(self) -> None:
        for pods in self.ran.values():
            assert len(pods) <= 1

    @invariant()
    def what_is_over_stays_over(self) -> None:
        for part in self.record.parts:
            before = self.ended.get(part.name)
            assert before in (None, part.state, State.KEPT)  # what is kept may be lost, or confirmed late
            if part.over:
                self.ended[part.name] = part.state
        assert bool(self.record.ended) == all(part.over for part in self.record.parts)

    @invariant()
    def an_end_is_due_as_long_as_it_is_not_over(self) -> None:
        assert deadlines.next_due(self.record, lambda _: 0.0) > 0

    @invariant()
    def a_copy_is_only_lost_when_its_node_says_so_or_never_had_one(self) -> None:
        for part in self.record.parts:
            if part.state is State.LOST:
                assert not part.taken
                assert part.reason


TestMoving = Moving.TestCase
TestMoving.settings = settings(stateful_step_count=25)


@pytest.mark.parametrize(
    ("states", "phase"),
    [
        ((State.EXPECTED, State.TAKEN), State.EXPECTED),
        ((State.OFFERED, State.ARRIVED), State.OFFERED),
        ((State.ARRIVED, State.ARRIVED), State.ARRIVED),
        ((State.ARRIVED, State.KEPT), State.KEPT),
        ((State.LOST, State.KEPT), State.LOST),
    ],
)
def test_the_phase_is_that_of_who_lags_behind_and_at_the_end_the_worst(
    states: tuple[State, ...], phase: State
) -> None:
    parts = (Part(name, state) for name, state in zip(CONTAINERS, states, strict=True))
    assert records.phase(record(*parts)) is phase


def test_a_record_comes_back_as_it_was_written() -> None:
    found = record(
        Part("a", State.TAKEN, 1010.25, asleep=True, taken=True, size=1 << 40, received=7, freeze_us=3),
        Part("b", State.KEPT, 1011.0, reason="another kernel", restore_us=5),
    )
    found = replace(
        found, target=Target("new", "u", "node-2"), announced=1001.5, claimed=1002.0, ended=1011.0
    )
    assert replace(through_the_api(found), version="", held=False) == found


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": None},
        {"spec": {}},
        {"status": {"containers": [{"name": "a", "state": "Flying"}]}},
        {"status": {"containers": "all"}},
        {"status": {"target": "somebody"}},
        {"metadata": {"name": 1}},
    ],
)
def test_an_object_that_makes_no_sense_is_unreadable(changes: dict[str, Any]) -> None:
    with pytest.raises(Unreadable):
        resource.record(resource.to_create(record()) | changes)


@pytest.mark.parametrize("state", [State.EXPECTED, State.LEAVING, State.OFFERED])
def test_who_replaces_it_may_wait_since_before_it_is_told_to_end(state: State) -> None:
    found = replace(record(Part("a", state)), target=Target("new", "u", "node-2"))
    (part,) = records.progressed(found, "u", "a", 0, 0).parts
    assert part == Part("a", state)


def test_who_begins_anew_after_having_taken_it_changes_nothing_and_is_not_refused() -> None:
    found = replace(
        record(Part("a", State.TAKEN, taken=True, received=7)), target=Target("new", "u", "node-2")
    )
    assert records.progressed(found, "u", "a", 0, 0) == found


@pytest.mark.parametrize("state", [State.ARRIVED, State.KEPT, State.LOST])
def test_nothing_comes_any_more_of_what_is_over(state: State) -> None:
    found = replace(record(Part("a", state)), target=Target("new", "u", "node-2"))
    with pytest.raises(TooLate):
        records.progressed(found, "u", "a", 1, 2)


def kept(*, taken: bool) -> Record:
    """A copy that nobody has confirmed to run."""
    part = Part("a", State.KEPT, 1011.0, taken=taken, reason="it was not confirmed")
    return replace(record(part), target=Target("new", "u", "node-2"), ended=1011.0)


def test_a_copy_that_was_taken_is_given_again_when_its_taker_is_no_more() -> None:
    with pytest.raises(TooLate, match="a was taken by new, and may run there"):
        records.reopened(kept(taken=True), 1012.0)
    found = records.reopened(kept(taken=True), 1012.0, taker_gone=True)
    assert (found.parts[0].state, found.parts[0].taken, found.target) == (State.OFFERED, False, None)
    with pytest.raises(TooLate, match="it is not this pod's"):
        records.confirmed(found, "u", "a", 1, 1013.0)


def test_who_says_late_that_it_never_ran_makes_room_for_another() -> None:
    found = records.abandoned(kept(taken=True), "u", "a", "no memory", 1012.0)
    assert found == kept(taken=False)
    assert records.reopened(found, 1013.0).parts[0].state is State.OFFERED


def test_names_of_records_fit_and_are_those_of_the_pods() -> None:
    assert records.name_of("db-0", "0123456789") == "db-0-01234567"
    name = records.name_of("a" * 199 + "." + "b" * 53, "0123456789")
    assert len(name) <= 253
    assert "." not in name
