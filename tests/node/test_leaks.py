"""A shim that is asked the ordinary things for long holds what it held: memory, descriptors, threads."""

from __future__ import annotations

import sys

from architect.ttrpc import containerd, shim_v1
from hack.control import describe, hibernate, shim_socket, status, wake
from hack.cri import Container
from tests.node.asking import get
from tests.node.conftest import Run
from tests.shim.living import ARENAS, Line, holds_no_more_than, usage

CALLS = 2000
EXECS = 50
CYCLES = 10
LOADED = 8 << 20
"""Bytes. What the first sleep imports and keeps at most."""
COPIED = ARENAS if sys.version_info >= (3, 14) else 2 * ARENAS
"""Bytes. Before 3.14 an interpreter copies a page of what it shares with its zygote at each first look; after
twenty sleeps it has looked at everything."""


def ask(app: Container, calls: int) -> None:
    """Asks the shim of a container, in turn, what containerd and the daemon ask."""
    with Line(shim_socket(app.pod)) as line:
        for _ in range(calls // 5):
            line.call("State", containerd.StateRequest(app.id), containerd.StateResponse)
            line.call("Pids", containerd.PidsRequest(app.id), containerd.PidsResponse)
            line.call("Stats", containerd.StatsRequest(app.id), containerd.StatsResponse)
            line.call("Connect", containerd.ConnectRequest(app.id), containerd.ConnectResponse)
            line.call("Describe", shim_v1.DescribeRequest(), shim_v1.DescribeResponse, shim_v1.SERVICE)


def run_programs(app: Container, times: int) -> None:
    for number in range(times):
        assert app.exec("/bin/sh", "-c", f"echo {number}").stdout == f"{number}\n".encode()


def test_thousands_of_questions_and_dozens_of_execs_leave_nothing(run: Run) -> None:
    app = run()
    shim = describe(app.pod).shim_pid
    ask(app, CALLS // 10)
    run_programs(app, EXECS // 10)
    before = usage(shim)
    ask(app, CALLS)
    run_programs(app, EXECS)
    holds_no_more_than(shim, before, ARENAS)
    assert get(app) == "1"


def test_sleeping_and_waking_and_questions_to_a_sleeper_leave_nothing(run: Run) -> None:
    app = run()
    shim = describe(app.pod).shim_pid
    ask(app, CALLS // 10)
    awake = usage(shim)
    for _ in range(2):
        hibernate(app)
        wake(app)
    holds_no_more_than(shim, awake, LOADED)
    before = usage(shim)
    for _ in range(CYCLES):
        hibernate(app)
        ask(app, CALLS // CYCLES)
        assert status(app).phase == "SCALED_DOWN"
        wake(app)
    holds_no_more_than(shim, before, COPIED)
    assert get(app) == "1"
