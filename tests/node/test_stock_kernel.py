"""On Debian's own kernel everything is used as it is meant: no way round what the machine lacks was taken."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from architect.gate import nftables
from hack import cri_messages as m
from hack.control import SECONDS, await_true, hibernate, wake
from tests.node.conftest import Run

pytestmark = pytest.mark.skipif(os.environ.get("NODE_FLAVOUR") != "vm", reason="for the virtual machine")
MEMORY = 64 << 20


def test_packets_are_held_by_the_packet_filters_own_queue_expression(run: Run) -> None:
    assert nftables.probe() == ((nftables.INET,), True, True)
    app = run()
    hibernate(app)
    listed = subprocess.run(
        ["nsenter", f"--net={app.pod.netns}", "nft", "list", "table", "inet", "architect"],
        capture_output=True,
        check=True,
        text=True,
        timeout=SECONDS,
    )
    assert " queue to " in listed.stdout


def test_a_container_keeps_its_cgroup_and_limits_asleep_and_awake(run: Run) -> None:
    offered = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= set(offered)
    limits = m.Resources(cpu_period=100_000, cpu_quota=50_000, memory_limit_in_bytes=MEMORY)
    app = run(resources=limits)
    cgroup = Path("/sys/fs/cgroup", Path(f"/proc/{app.pid}/cgroup").read_text().strip().removeprefix("0::/"))

    def limited() -> list[str]:
        return [(cgroup / name).read_text().strip() for name in ("memory.max", "cpu.max", "cgroup.freeze")]

    def programs() -> list[str]:
        pids = (cgroup / "cgroup.procs").read_text().split()
        return [Path(f"/proc/{pid}/comm").read_text() for pid in pids]

    expected = [str(MEMORY), "50000 100000", "0"]
    assert limited() == expected
    identity = cgroup.stat().st_ino
    hibernate(app)
    assert limited() == expected
    await_true(lambda: programs() == ["criu\n"], "only the process waits that will restore it")
    awake = wake(app)
    assert limited() == expected
    assert cgroup.stat().st_ino == identity
    assert str(awake.pid) in (cgroup / "cgroup.procs").read_text().split()
