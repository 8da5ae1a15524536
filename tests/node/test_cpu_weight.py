"""A container that wakes does not wait for kubelet to have its share of the processor."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from architect.engine.cgroup import Cgroup
from hack import cri_messages as m
from hack.control import hibernate, wake
from hack.cri import Container
from tests.node.conftest import Run

LEAST = 2
"""What kubelet sets where nothing is asked for: the least that cgroup v1 knows."""


def weights(app: Container) -> tuple[Path, Path]:
    """The files of the container's weight and its pod's."""
    cgroup = Cgroup.of(app.pid)
    directory = cgroup.paths["" if cgroup.unified else "cpu"]
    name = "cpu.weight" if cgroup.unified else "cpu.shares"
    own, pod = Path(directory, name), Path(os.path.dirname(directory), name)
    if not own.exists():
        pytest.skip("this node's cgroups weigh no CPU")
    return own, pod


def test_an_update_asleep_does_not_slow_the_wake(run: Run) -> None:
    app = run(resources=m.Resources(cpu_period=100_000, cpu_shares=512))
    own, pod = weights(app)
    before = own.read_text()
    hibernate(app)
    app.update(m.Resources(cpu_period=100_000, cpu_shares=LEAST, memory_limit_in_bytes=512 << 20))
    pod.write_text("2")  # kubelet sets the pod's itself
    wake(app)
    assert own.read_text() == before
    assert pod.read_text() == before
    app.update(m.Resources(cpu_period=100_000, cpu_shares=256))  # kubelet has heard of the wake
    lower = own.read_text()
    assert int(lower) < int(before)
    pod.write_text(lower)
    hibernate(app)
    app.update(m.Resources(cpu_period=100_000, cpu_shares=LEAST))
    wake(app)
    assert own.read_text() == lower, "what was set awake holds over the next sleep"
    assert pod.read_text() == lower


def test_an_update_asleep_may_raise(run: Run) -> None:
    app = run(resources=m.Resources(cpu_period=100_000, cpu_shares=128))
    own, _ = weights(app)
    before = own.read_text()
    hibernate(app)
    app.update(m.Resources(cpu_period=100_000, cpu_shares=1024))
    wake(app)
    assert int(own.read_text()) > int(before)
