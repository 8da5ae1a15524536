"""What a container that follows another one learns of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from architect.states import Phase, StateRecord
from shim.notes import Notes


def follower(path: Path) -> Notes:
    """The notes of a container `new` that starts where `path` tells of the one before it."""
    return Notes(StateRecord(container_id="new"), str(path), lambda: None)


@pytest.mark.parametrize(
    ("container_id", "phase", "known"),
    [
        pytest.param("old", Phase.SCALED_DOWN, True, id="one that slept"),
        pytest.param("old", Phase.WAKING, True, id="one that woke"),
        pytest.param("old", Phase.RUNNING, True, id="one that ran"),
        pytest.param("old", Phase.STOPPED, False, id="one that ended had its end"),
        pytest.param("old", Phase.CREATED, False, id="one that never ran has left nothing"),
        pytest.param("old", Phase.ARRIVING, False, id="what was to come to one before can come to this one"),
        pytest.param("new", Phase.SCALED_DOWN, False, id="itself"),
    ],
)
def test_who_was_lost_before_it_is_known(
    tmp_path: Path, container_id: str, phase: Phase, known: bool
) -> None:
    path = tmp_path / "state.json"
    earlier = StateRecord(container_id=container_id, phase=phase, image="/images/3")
    earlier.save(str(path), durable=False)
    assert follower(path).before() == (earlier if known else None)


def test_a_file_that_cannot_be_read_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    assert follower(tmp_path / "state.json").before() is None
    assert follower(tmp_path / "none.json").before() is None


def test_the_file_of_another_container_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    StateRecord(container_id="newer").save(str(path), durable=False)
    follower(path).forget()
    assert path.exists()
    StateRecord(container_id="new").save(str(path), durable=False)
    follower(path).forget()
    assert not path.exists()
    follower(path).forget()
