"""Timers of every kind go on after a sleep: none stops, none rings early, no clock jumps."""

from __future__ import annotations

import json
import time
from typing import Any

from hack.control import hibernate
from tests.node.conftest import Run
from tests.node.test_sleep_and_wake import get

_SLEEPS = 3


def test_every_timer_ticks_on_and_no_clock_jumps(run: Run) -> None:
    app = run("clocks")
    address = app.pod.addresses[0]
    began = time.monotonic()
    before: Any = json.loads(get(address, "/clocks"))
    seen = before
    for _ in range(_SLEEPS):
        hibernate(app)
        seen = json.loads(get(address, "/clocks"))  # answers when each has ticked twice since
    passed = time.monotonic() - began
    for name in ("monotonic", "boottime"):
        assert 0 < seen["now"][name] - before["now"][name] < passed
        assert seen["back"][name] == 0
        assert seen["longest"][name] < passed


def test_a_timer_for_an_absolute_time_never_rings_early(run: Run) -> None:
    app = run("clocks")
    address = app.pod.addresses[0]
    for _ in range(_SLEEPS):
        get(address, "/alarm?seconds=1.5")
        hibernate(app)
        assert float(get(address, "/rung")) >= 0
