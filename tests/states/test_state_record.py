"""The state file: what was written is read again, whole or not at all, and nothing else is believed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.states import Failure, Phase, StateRecord, Unusable

NUMBER = st.integers(0, 2**63 - 1)
RECORDS = st.builds(
    StateRecord,
    container_id=st.text(max_size=100),
    phase=st.sampled_from(Phase),
    generation=NUMBER,
    since_ns=NUMBER,
    image=st.text(min_size=1, max_size=100),
    pid=NUMBER,
    started_ns=NUMBER,
    active_ns=NUMBER,
    sleeps=NUMBER,
    wakes=NUMBER,
    last_sleep_us=NUMBER,
    last_wake_us=NUMBER,
    last_wake_cause=st.text(max_size=100),
    saved_bytes=NUMBER,
    failures=st.lists(st.builds(Failure, NUMBER, st.text(max_size=50), st.text(max_size=2048)), max_size=4),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pods" / "uid" / "app" / "state.json"


def asleep() -> StateRecord:
    record = StateRecord("c1", image="/images/1", generation=1)
    for at, phase in enumerate((Phase.RUNNING, Phase.HIBERNATING, Phase.SCALED_DOWN)):
        record.move(phase, at)
    record.failed("hibernate", "the disk is full", 17)
    return record


@given(RECORDS)
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, record: StateRecord) -> None:
    path = str(tmp_path_factory.getbasetemp() / "round-trip" / "state.json")
    record.save(path, durable=False)
    assert StateRecord.load(path) == record


def test_story_and_failures_survive(path: Path) -> None:
    record = asleep()
    record.save(str(path))
    assert StateRecord.load(str(path)) == record


def test_it_is_private_to_root(path: Path) -> None:
    asleep().save(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [stat.S_IMODE(d.stat().st_mode) for d in (path.parent, path.parents[1], path.parents[2])] == [
        0o700
    ] * 3
    assert os.listdir(path.parent) == ["state.json"]


def test_a_leftover_of_a_killed_writer_is_no_obstacle(path: Path) -> None:
    path.parent.mkdir(parents=True)
    (path.parent / "state.json.new").write_text("half")
    asleep().save(str(path))
    assert StateRecord.load(str(path)).phase is Phase.SCALED_DOWN


def test_stories_and_failures_are_bounded(path: Path) -> None:
    record = StateRecord("c1", phase=Phase.RUNNING, image="/images/1")
    for at in range(300):
        record.move(Phase.HIBERNATING if at % 2 == 0 else Phase.RUNNING, at)
        record.failed("hibernate", "x" * 100_000, at)
    record.save(str(path), durable=False)
    loaded = StateRecord.load(str(path))
    assert loaded.story[-1].at_ns == loaded.failures[-1].at_ns == 299
    assert path.stat().st_size < 100_000


def test_none_is_told_from_a_bad_one(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        StateRecord.load(str(path))


def test_removing_it_twice_is_no_error(path: Path) -> None:
    asleep().save(str(path))
    StateRecord.remove(str(path))
    StateRecord.remove(str(path))
    assert not path.exists()


def edited(**changes: object) -> bytes:
    body = {
        **{name: getattr(asleep(), name) for name in ("container_id", "image", "last_wake_cause")},
        **dict.fromkeys(("generation", "since_ns", "pid", "started_ns", "active_ns", "sleeps", "wakes"), 1),
        **dict.fromkeys(("last_sleep_us", "last_wake_us", "saved_bytes"), 1),
        "version": 1,
        "phase": "SCALED_DOWN",
        "failures": [],
        "story": [],
    }
    return json.dumps({**body, **changes}).encode()


def test_a_field_that_a_newer_program_added_is_left_alone(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(edited(later="x"))
    assert StateRecord.load(str(path)).phase is Phase.SCALED_DOWN


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(b"", "is no JSON", id="empty"),
        pytest.param(b"\xff\xfe", "is no JSON", id="no text"),
        pytest.param(b"[]", "is a list where an object belongs", id="a list"),
        pytest.param(edited(version=2), "is of version 2", id="a newer version"),
        pytest.param(edited(version="1"), "version: is a string", id="a version in quotes"),
        pytest.param(edited(phase="ASLEEP"), "'ASLEEP' is no phase", id="an unknown phase"),
        pytest.param(edited(generation=-1), "generation: -1 is not within", id="a negative generation"),
        pytest.param(edited(pid=True), "pid: is a boolean", id="a boolean pid"),
        pytest.param(edited(image=""), "says SCALED_DOWN and names no image", id="asleep in nothing"),
        pytest.param(edited(story=[{"at_ns": 1}]), "story[0]: has no 'phase'", id="half a step"),
        pytest.param(edited(failures=[1] * 99), "failures: has 99 entries", id="many failures"),
        pytest.param(edited(container_id="x" * 300_000), "is longer than", id="large"),
    ],
)
def test_what_is_no_state_file_is_said_to_be_none(path: Path, content: bytes, sentence: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(Unusable) as error:
        StateRecord.load(str(path))
    assert sentence in error.value.reason
    assert str(path) in str(error.value)


def test_a_link_a_directory_and_a_fifo_are_not_read(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.symlink_to("/etc/hostname")
    with pytest.raises(Unusable):
        StateRecord.load(str(path))
    path.unlink()
    path.mkdir()
    with pytest.raises(Unusable):
        StateRecord.load(str(path))
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(Unusable):  # and it does not wait for a writer
        StateRecord.load(str(path))


@given(st.binary(max_size=300), st.integers(0, 600))
def test_no_damage_does_anything_but_load_or_be_unusable(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    whole = edited()
    path.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    try:
        StateRecord.load(str(path))
    except Unusable:
        return


def write_without_end(path: str) -> None:
    generation = 0
    while True:
        generation += 1
        StateRecord("c" * 4000, generation=generation).save(path, durable=False)


def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new_record(path: Path) -> None:
    StateRecord("c" * 4000).save(str(path), durable=False)
    for _ in range(20):
        before = StateRecord.load(str(path)).generation
        writer = multiprocessing.get_context("fork").Process(target=write_without_end, args=(str(path),))
        writer.start()
        while StateRecord.load(str(path)).generation == before:  # every load while it writes is whole, too
            assert writer.is_alive()
        for _ in range(random.randrange(2000)):
            pass  # some moment within a write
        writer.kill()
        writer.join()
        writer.close()
        assert StateRecord.load(str(path)).container_id == "c" * 4000
