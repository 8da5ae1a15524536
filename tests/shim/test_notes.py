"""What a container that follows another one writes down of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from architect.states import Phase, StateRecord
from shim.notes import Notes


def follower(path: Path) -> StateRecord:
    """The record of a container `new` that starts where `path` tells of the one before it."""
    record = StateRecord(container_id="new")
    Notes(record, str(path), lambda: None).follow()
    return record


@pytest.mark.parametrize(
    ("container_id", "phase", "noted"),
    [
        pytest.param("old", Phase.SCALED_DOWN, True, id="one that slept"),
        pytest.param("old", Phase.WAKING, True, id="one that woke"),
        pytest.param("old", Phase.RUNNING, False, id="one that ran had nothing on the disk"),
        pytest.param("old", Phase.STOPPED, False, id="one that ended had its end"),
        pytest.param("new", Phase.SCALED_DOWN, False, id="itself"),
    ],
)
def test_memory_that_stayed_with_a_sleeper_before_it_is_noted(
    tmp_path: Path, container_id: str, phase: Phase, noted: bool
) -> None:
    path = tmp_path / "state.json"
    earlier = StateRecord(container_id=container_id, phase=phase, image="/images/3")
    earlier.save(str(path), durable=False)
    found = follower(path).failures
    assert [each.operation for each in found] == ["fresh start"] * noted
    assert all("/images/3" in each.reason for each in found)


def test_a_file_that_cannot_be_read_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    assert follower(tmp_path / "state.json").failures == []
    assert follower(tmp_path / "none.json").failures == []
