"""Threads that have bound themselves to processors are noted, and bound again."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from architect.engine import affinity
from architect.engine.cgroup import Cgroup


@pytest.fixture
def cgroup(tmp_path: Path) -> Cgroup:
    """A cgroup as it looks to a reader, with this process in it and all processors of the node."""
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (tmp_path / "cpuset.effective_cpus").write_text(Path("/sys/devices/system/cpu/online").read_text())
    return Cgroup({"cpuset": str(tmp_path), "freezer": str(tmp_path)})


def test_only_the_thread_that_is_bound_is_noted_and_it_is_bound_again(cgroup: Cgroup) -> None:
    everything = os.sched_getaffinity(0)
    if len(everything) < 2 or affinity.bound(cgroup):
        pytest.skip("it takes two processors, and that nobody has bound this process")
    last = max(everything)
    found: list[object] = []

    def work() -> None:
        os.sched_setaffinity(0, {last})
        noted = affinity.bound(cgroup)
        os.sched_setaffinity(0, everything)
        refused = affinity.bind(cgroup, noted)
        found.extend([noted, refused, os.sched_getaffinity(0), threading.get_native_id()])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    noted, refused, after, number = found
    assert noted == {str(last): [number]}
    assert (refused, after) == ([], {last})
    assert os.sched_getaffinity(0) == everything


def test_a_processor_that_is_not_there_is_told_and_a_thread_that_has_ended_is_passed_by(
    cgroup: Cgroup,
) -> None:
    assert affinity.bind(cgroup, {"1": [2**22]}) == []
    (sentence,) = affinity.bind(cgroup, {"1000": [os.getpid()]})
    assert "cannot be bound to processors 1000" in sentence
