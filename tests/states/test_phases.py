"""What may follow what, and what a request means in each phase."""

from __future__ import annotations

import itertools

import pytest

from architect.states import (
    ALLOWED,
    Answer,
    ImpossibleTransition,
    Operation,
    Phase,
    StateRecord,
    answer,
    check,
    refusal,
)


def test_every_phase_has_its_row() -> None:
    assert set(ALLOWED) == set(Phase)


@pytest.mark.parametrize(("old", "new"), list(itertools.product(Phase, Phase)))
def test_a_step_is_taken_exactly_when_the_table_has_it(old: Phase, new: Phase) -> None:
    if new in ALLOWED[old]:
        check(old, new)
        return
    with pytest.raises(ImpossibleTransition):
        check(old, new)


def test_from_every_phase_the_container_can_end() -> None:
    assert all(Phase.STOPPED in ALLOWED[phase] for phase in Phase if phase is not Phase.STOPPED)


def test_sleep_comes_by_falling_asleep_or_from_another_container_and_ends_by_waking_or_dying() -> None:
    before = {old for old in Phase if Phase.SCALED_DOWN in ALLOWED[old]}
    assert before == {Phase.CREATED, Phase.HIBERNATING, Phase.WAKING, Phase.LEAVING, Phase.ARRIVING}
    assert ALLOWED[Phase.SCALED_DOWN] == {Phase.WAKING, Phase.LEAVING, Phase.STOPPED}


def test_an_impossible_step_tells_how_it_came_to_it() -> None:
    record = StateRecord("c1")
    record.move(Phase.RUNNING, 5)
    record.move(Phase.HIBERNATING, 6)
    with pytest.raises(ImpossibleTransition) as error:
        record.move(Phase.WAKING, 7)
    assert "c1 cannot go HIBERNATING > WAKING" in str(error.value)
    assert "RUNNING > HIBERNATING" in str(error.value)
    assert [(entry.at_ns, entry.phase) for entry in error.value.story] == [(5, "RUNNING"), (6, "HIBERNATING")]
    assert record.phase is Phase.HIBERNATING


def test_nothing_is_asleep_without_an_image() -> None:
    record = StateRecord("c1", phase=Phase.HIBERNATING)
    with pytest.raises(ValueError, match="without an image"):
        record.move(Phase.SCALED_DOWN, 1)
    assert record.phase is Phase.HIBERNATING


@pytest.mark.parametrize(("phase", "operation"), list(itertools.product(Phase, Operation)))
def test_every_request_has_an_answer_and_every_refusal_a_sentence(phase: Phase, operation: Operation) -> None:
    assert (answer(phase, operation) is Answer.REFUSE) == bool(refusal(phase, operation))


@pytest.mark.parametrize(
    ("phase", "operation", "expected"),
    [
        pytest.param(Phase.WAKING, Operation.WAKE, Answer.JOIN, id="wakes share one restore"),
        pytest.param(Phase.HIBERNATING, Operation.HIBERNATE, Answer.REFUSE, id="no second sleep at once"),
        pytest.param(Phase.SCALED_DOWN, Operation.HIBERNATE, Answer.NOTHING, id="asleep already"),
        pytest.param(Phase.RUNNING, Operation.WAKE, Answer.NOTHING, id="awake already"),
        pytest.param(Phase.SCALED_DOWN, Operation.EXEC, Answer.WAKE_FIRST, id="exec wakes"),
        pytest.param(Phase.SCALED_DOWN, Operation.SIGNAL, Answer.WAKE_FIRST, id="SIGTERM is for the program"),
        pytest.param(Phase.SCALED_DOWN, Operation.KILL, Answer.DO, id="SIGKILL needs no wake"),
        pytest.param(Phase.WAKING, Operation.KILL, Answer.CUT_SHORT, id="SIGKILL waits for no restore"),
        pytest.param(Phase.HIBERNATING, Operation.EXEC, Answer.CALL_OFF, id="exec calls the sleep off"),
        pytest.param(Phase.WAKING, Operation.UPDATE, Answer.QUEUE, id="new limits wait for the restore"),
        pytest.param(Phase.SCALED_DOWN, Operation.UPDATE, Answer.KEEP, id="new limits wake nobody"),
        pytest.param(Phase.SCALED_DOWN, Operation.DELETE, Answer.REFUSE, id="a sleeper is not deleted"),
        pytest.param(Phase.STOPPED, Operation.DELETE, Answer.DO, id="what has ended is"),
        pytest.param(Phase.STOPPED, Operation.WAKE, Answer.REFUSE, id="the dead do not wake"),
    ],
)
def test_what_a_request_means(phase: Phase, operation: Operation, expected: Answer) -> None:
    assert answer(phase, operation) is expected


def test_what_waits_or_joins_does_so_only_while_something_is_under_way() -> None:
    for phase, operation in itertools.product(Phase, Operation):
        if answer(phase, operation) in (Answer.JOIN, Answer.QUEUE, Answer.CALL_OFF, Answer.CUT_SHORT):
            assert phase in (Phase.HIBERNATING, Phase.WAKING, Phase.ARRIVING)
