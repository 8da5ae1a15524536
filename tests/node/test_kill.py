"""SIGKILL ends a container at once, whatever is being done with it; what is stopped is not dumped."""

from __future__ import annotations

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from architect.engine import undumpable
from architect.engine.cgroup import Cgroup
from architect.ttrpc.client import RpcError
from hack.control import await_phase, await_true, hibernate, wake
from hack.cri import Container
from tests.node.asking import processes_named
from tests.node.conftest import Run

pytestmark = [pytest.mark.containerd, pytest.mark.root]


def ended(app: Container) -> tuple[int, str]:
    status = app.status()
    return status.exit_code, status.reason


def test_a_wake_that_hangs_is_cut_short(run: Run) -> None:
    app = run()
    hibernate(app)
    await_true(lambda: bool(processes_named(app.pod, "criu")), "CRIU waits")
    (restorer,) = processes_named(app.pod, "criu")
    os.kill(restorer, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        waking = pool.submit(wake, app)
        await_phase(app, "WAKING")
        app.stop(0)
        with pytest.raises(RpcError, match="was killed"):
            waking.result()
    assert ended(app) == (137, "Error")
    await_true(lambda: not processes_named(app.pod, "criu"), "CRIU and what it had started are gone")


def test_a_dump_that_hangs_is_cut_short(run: Run) -> None:
    app = run()
    with ThreadPoolExecutor(1) as pool:
        falling = pool.submit(hibernate, app)
        await_true(lambda: _held(app), "CRIU is held")
        app.stop(0)
        with pytest.raises(RpcError):
            falling.result()
    assert ended(app) == (137, "Error")
    await_true(lambda: not processes_named(app.pod, "criu"), "CRIU and what it had started are gone")


def _held(app: Container) -> bool:
    """Stops CRIU as soon as it is there."""
    found = processes_named(app.pod, "criu")
    for pid in found:
        os.kill(pid, signal.SIGSTOP)
    return bool(found)


@pytest.mark.parametrize("frozen_first", [False, True])
def test_a_stopped_process_is_told_from_a_frozen_one(run: Run, *, frozen_first: bool) -> None:
    app = run()
    cgroup = Cgroup.of(app.pid)
    if not frozen_first:
        os.kill(app.pid, signal.SIGSTOP)
        await_true(lambda: "(stopped)" in Path(f"/proc/{app.pid}/status").read_text(), "it has stopped")
    asyncio.run(cgroup.freeze())
    try:
        assert not frozen_first or undumpable.halted(cgroup.pids()) == ""
        os.kill(app.pid, signal.SIGSTOP)
        assert "stopped (SIGSTOP)" in undumpable.halted(cgroup.pids())
    finally:
        cgroup.thaw()
        os.kill(app.pid, signal.SIGCONT)
