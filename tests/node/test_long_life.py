"""A container that has slept and woken a hundred times is as one that never slept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hack.control import await_true, describe, status
from hack.cri import Container
from tests.node.asking import get, images_of
from tests.node.conftest import Run
from tests.node.test_failures import containerd_serves, restart_containerd
from tests.node.test_packets import hibernate_when_quiet

CYCLES = 100
SETTLED = 10
"""By this cycle everything that is kept for good has been opened."""


def held_by_shim(app: Container) -> tuple[int, int, int]:
    """Descriptors, threads and children of the shim."""
    shim = Path(f"/proc/{describe(app.pod).shim_pid}")
    children = sum(len((task / "children").read_text().split()) for task in (shim / "task").iterdir())
    return len(os.listdir(shim / "fd")), len(os.listdir(shim / "task")), children


def cpu(app: Container) -> int:
    """Processor time used, in ns, as kubelet would hear it."""
    stats = app.stats().cpu
    assert stats is not None
    assert stats.usage_core_nano_seconds is not None
    return stats.usage_core_nano_seconds.value


def cgroup(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


def restart_when_all_is_logged(app: Container, lines: int) -> None:
    """A containerd that is killed forgets what it has read and not yet written: that is no loss of ours."""
    app.await_line(f"line {lines}")
    restart_containerd()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_after_a_hundred_sleeps_all_is_as_if_it_had_never_slept(run: Run) -> None:
    app = run()
    first, place, shim = app.status(), cgroup(app.pid), describe(app.pod).shim_pid
    used, settled = cpu(app), (0, 0, 0)
    for cycle in range(1, CYCLES + 1):
        if cycle % 20 == 10:
            restart_when_all_is_logged(app, 2 * cycle - 2)
        get(app, "/log")  # every twentieth while no containerd is there, and the next asleep
        await_true(containerd_serves, "containerd serves")
        hibernate_when_quiet(app)
        asleep = app.status()
        assert (asleep.state, asleep.started_at, asleep.finished_at) == (first.state, first.started_at, 0)
        before, used = used, cpu(app)
        assert used >= before, "the counter never goes back"
        if cycle % 20 == 0:
            restart_when_all_is_logged(app, 2 * cycle - 1)
        get(app, "/log")
        await_true(containerd_serves, "containerd serves")
        before, used = used, cpu(app)
        assert used >= before
        assert cgroup(status(app).pid) == place
        if cycle == SETTLED:
            await_true(lambda: not images_of(app), "the image is removed")
            settled = held_by_shim(app)
    assert get(app) == "1", "it counts only this page"
    now = status(app)
    assert (now.sleeps, now.wakes, now.failures, describe(app.pod).shim_pid) == (CYCLES, CYCLES, [], shim)
    assert app.status().started_at == first.started_at
    expected = ["listening", *(f"line {number}" for number in range(1, 2 * CYCLES + 1))]
    app.await_line(expected[-1])
    assert app.lines() == expected, "none lost, none doubled, in their order"
    await_true(
        lambda: all(now <= then for now, then in zip(held_by_shim(app), settled, strict=True)),
        f"it holds no more than after {SETTLED} cycles: {settled}",  # then a wake was perhaps just over
    )
    assert app.exec("/usr/bin/python3", "-c", "raise SystemExit(5)").exit_code == 5
    app.stop()
    assert app.status().exit_code == 0
    assert images_of(app) == []
