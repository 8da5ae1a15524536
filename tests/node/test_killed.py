"""Shim or containerd are killed, whatever a container is doing: nothing is left, or nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from architect.ttrpc import shim_v1
from hack.control import SECONDS, await_phase, await_true, describe, shim_socket, status, wake
from hack.cri import Container
from tests.node.asking import get, images_of
from tests.node.conftest import Run
from tests.node.test_failures import cgroups_of, containerd_serves, mounts_of, restart_containerd
from tests.node.test_packets import hibernate_when_quiet

PHASES = ("RUNNING", "HIBERNATING", "SCALED_DOWN", "WAKING")
LONG = "/heap?mb=150"
"""Makes a sleep and a wake take a while."""


def bring_to(app: Container, phase: str, pool: ThreadPoolExecutor) -> Future[shim_v1.ContainerStatus] | None:
    """Brings a container to a phase, and answers the call that is under way then."""
    if phase == "RUNNING":
        return None
    if phase != "HIBERNATING":
        hibernate_when_quiet(app)
        if phase == "SCALED_DOWN":
            return None
    call = pool.submit(wake if phase == "WAKING" else hibernate_when_quiet, app)
    await_phase(app, phase)
    return call


def programs() -> list[str]:
    """The names of all processes that the node runs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((entry / "comm").read_text().strip())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def holding_rules(netns: str) -> list[str]:
    """The rules of a network namespace that hold packets."""
    listed = subprocess.run(
        ["nsenter", f"--net={netns}", "nft", "list", "table", "inet", "architect"],
        capture_output=True,
        check=False,  # there may be no table (any more)
        text=True,
        timeout=SECONDS,
    )
    return [line for line in listed.stdout.splitlines() if "queue" in line.lower()]


@pytest.mark.parametrize("phase", PHASES)
def test_wherever_a_shim_is_killed_only_a_whole_image_is_left(run: Run, phase: str) -> None:
    app = run()
    get(app, LONG)
    ids, netns, socket_ = (app.id, app.pod.id), app.pod.netns, Path(shim_socket(app.pod))
    with ThreadPoolExecutor(1) as pool:
        call = bring_to(app, phase, pool)
        assert bool(holding_rules(netns)) == (phase != "RUNNING")
        os.kill(describe(app.pod).shim_pid, signal.SIGKILL)
        assert call is None or isinstance(call.exception(), ConnectionError)
    await_true(lambda: app.status().state == 2, "containerd knows that the container has ended")
    await_true(lambda: app.pod.status().state == 1, "and that its pod has")
    await_true(lambda: not cgroups_of(*ids), f"no cgroups: {cgroups_of(*ids)}")
    await_true(lambda: "criu" not in programs(), "no CRIU")
    await_true(lambda: not [line for line in mounts_of(*ids) if "rootfs" in line], "no root file systems")
    await_true(lambda: not socket_.exists() and not socket_.with_suffix(".gate").exists(), "no sockets")
    await_true(lambda: holding_rules(netns) == [], "no rules")
    whole = [image for image in images_of(app) if (image / "manifest.json").exists()]
    assert len(whole) == 1 or phase in ("RUNNING", "HIBERNATING")
    app.pod.remove()
    assert mounts_of(*ids) == []
    assert not Path(netns).exists()


@pytest.mark.parametrize("phase", ["HIBERNATING", "WAKING"])
def test_a_containerd_killed_while_a_container_falls_asleep_or_wakes_is_missed_by_nobody(
    run: Run, phase: str
) -> None:
    app = run()
    assert get(app) == "1"
    get(app, LONG)
    before = app.status()
    with ThreadPoolExecutor(1) as pool:
        call = bring_to(app, phase, pool)
        assert call is not None
        restart_containerd()
        reached = call.result().phase
    assert reached == ("SCALED_DOWN" if phase == "HIBERNATING" else "RUNNING")
    await_true(containerd_serves, "containerd serves")
    now = app.status()
    assert (now.state, now.started_at, now.finished_at) == (before.state, before.started_at, 0)
    assert get(app) == "2"
    hibernate_when_quiet(app)
    assert app.exec("/usr/bin/python3", "-c", "print(1)").stdout == b"1\n"
    assert (get(app), status(app).failures) == ("3", [])
    app.stop()
    assert app.status().exit_code == 0
