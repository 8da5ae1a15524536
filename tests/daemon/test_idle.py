from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.ttrpc.shim_v1 import ContainerStatus, Port
from daemon.idle import (
    LONGEST_RETRY_NS,
    SECOND,
    Moments,
    Sleep,
    Traffic,
    WaitUntil,
    decide,
    retry_after_ns,
    watched_ports,
)

NOW = 1_000_000 * SECOND


def status(**fields: Any) -> ContainerStatus:
    base = ContainerStatus(id="c", name="app", phase="RUNNING", managed=True, idle_ns=60 * SECOND)
    return replace(base, **fields)


def ago(active: float, started: float = 7200) -> Moments:
    return Moments(NOW - int(active * SECOND), NOW - int(started * SECOND))


@pytest.mark.parametrize(
    ("given_status", "moments", "traffic", "expected"),
    [
        pytest.param(status(), ago(61), None, Sleep(), id="idle for longer than its duration: it sleeps"),
        pytest.param(status(), ago(60), None, Sleep(), id="idle for exactly its duration: it sleeps"),
        pytest.param(
            status(),
            ago(59),
            None,
            WaitUntil(NOW + SECOND, "woken"),
            id="a second too early: it waits a second",
        ),
        pytest.param(
            status(initial_delay_ns=90 * SECOND),
            ago(70, started=70),
            None,
            WaitUntil(NOW + 20 * SECOND, "initial delay"),
            id="within its initial delay: it waits for its end",
        ),
        pytest.param(
            status(initial_delay_ns=90 * SECOND),
            ago(70, started=7200),
            None,
            Sleep(),
            id="the initial delay counts from the start, not from a wake",
        ),
        pytest.param(
            status(idle_ns=0), ago(9999), None, WaitUntil(None, "never sleeps"), id="duration 0: never"
        ),
        pytest.param(
            status(idle_ns=-5),
            ago(9999),
            None,
            WaitUntil(None, "never sleeps"),
            id="a negative duration: never",
        ),
        pytest.param(
            status(execs=1),
            ago(9999),
            None,
            WaitUntil(None, "an exec is"),
            id="an exec runs: wait for its end",
        ),
        pytest.param(status(execs=3), ago(9999), None, WaitUntil(None, "3 execs are"), id="execs run"),
        pytest.param(
            status(managed=False), ago(9999), None, WaitUntil(None, "not managed"), id="not managed: never"
        ),
        pytest.param(
            status(phase="SCALED_DOWN"), ago(9999), None, WaitUntil(None, "SCALED_DOWN"), id="asleep already"
        ),
        pytest.param(
            status(phase="nonsense"),
            ago(9999),
            None,
            WaitUntil(None, "nonsense"),
            id="a phase from the future",
        ),
        pytest.param(
            status(refusal="it has a tty"),
            ago(9999),
            None,
            WaitUntil(None, "it has a tty"),
            id="it cannot sleep",
        ),
        pytest.param(
            status(monitor="packets"),
            ago(9999),
            Traffic(NOW - 10 * SECOND),
            WaitUntil(NOW + 50 * SECOND, "packets"),
            id="a packet ten seconds ago: it waits for the rest",
        ),
        pytest.param(
            status(monitor="packets"),
            ago(9999),
            Traffic(NOW - 60 * SECOND),
            Sleep(),
            id="the last packet is old",
        ),
        pytest.param(
            status(monitor="packets"), ago(9999), Traffic(None), Sleep(), id="there never was a packet"
        ),
        pytest.param(
            status(monitor="packets"),
            ago(9999),
            Traffic(None, 3),
            Sleep(),
            id="open connections do not count as packets",
        ),
        pytest.param(
            status(monitor="connections"),
            ago(9999),
            Traffic(None, 1),
            WaitUntil(NOW + 60 * SECOND, "connection is open"),
            id="an open connection keeps it awake",
        ),
        pytest.param(
            status(monitor="connections"),
            ago(9999),
            Traffic(NOW - 30 * SECOND, 0),
            WaitUntil(NOW + 30 * SECOND, "packets"),
            id="a connection that has just ended still counts",
        ),
    ],
)
def test_what_is_decided(
    given_status: ContainerStatus, moments: Moments, traffic: Traffic | None, expected: Sleep | WaitUntil
) -> None:
    verdict = decide(given_status, moments, NOW, traffic=traffic)
    if isinstance(expected, WaitUntil):
        assert isinstance(verdict, WaitUntil)
        assert verdict.at_ns == expected.at_ns
        assert expected.reason in verdict.reason
    else:
        assert verdict == expected


def test_after_a_failure_it_waits_for_the_next_attempt() -> None:
    verdict = decide(status(), ago(9999), NOW, retry_ns=NOW + 5 * SECOND)
    assert verdict == WaitUntil(NOW + 5 * SECOND, "an attempt to put it to sleep failed")


spans = st.integers(0, 10 * 365 * 24 * 3600 * SECOND)
moment = st.integers(-NOW, NOW)
traffics = st.none() | st.builds(Traffic, st.none() | moment, st.integers(0, 10**6))


@given(
    idle=spans,
    delay=spans,
    active=moment,
    started=moment,
    traffic=traffics,
    retry=moment,
    monitor=st.sampled_from(["", "packets", "connections", "?"]),
)
def test_waiting_as_told_leads_to_sleep_unless_a_connection_stays_open(
    idle: int, delay: int, active: int, started: int, traffic: Traffic | None, retry: int, monitor: str
) -> None:
    subject = status(idle_ns=idle, initial_delay_ns=delay, monitor=monitor)
    moments = Moments(active, started)
    verdict = decide(subject, moments, NOW, traffic=traffic, retry_ns=retry)
    if isinstance(verdict, Sleep):
        assert NOW - active >= idle > 0
        assert NOW - started >= delay
        return
    if verdict.at_ns is None:
        assert idle == 0
        return
    assert verdict.at_ns > NOW
    later = replace(traffic, open_connections=0) if traffic else None
    assert decide(subject, moments, verdict.at_ns, traffic=later, retry_ns=retry) == Sleep()


@given(idle=st.integers(1, 10**20), failures=st.integers(1, 10**6))
def test_pauses_after_failures_grow_and_end_at_an_hour(idle: int, failures: int) -> None:
    assert 0 < retry_after_ns(idle, failures) <= retry_after_ns(idle, failures + 1) <= LONGEST_RETRY_NS
    assert retry_after_ns(idle, failures) == min(idle * 2**failures, LONGEST_RETRY_NS)


@given(
    active=st.integers(-(2**63), 2**63 - 1),
    started=st.integers(-(2**63), 2**63 - 1),
    wall=st.integers(0, 2**62),
)
def test_moments_from_a_shim_never_lie_in_the_future(active: int, started: int, wall: int) -> None:
    moments = Moments.of(ContainerStatus(active_ns=active, started_ns=started), wall_ns=wall, now_ns=NOW)
    assert max(moments.active_ns, moments.started_ns) <= NOW


def test_a_moment_keeps_its_age_when_it_moves_to_the_monotonic_clock() -> None:
    wall = 1_800_000_000 * SECOND
    moved = Moments.of(ContainerStatus(active_ns=wall - 7, started_ns=wall - 9), wall_ns=wall, now_ns=NOW)
    assert moved == Moments(NOW - 7, NOW - 9)


@pytest.mark.parametrize(
    ("monitor", "expected"),
    [
        pytest.param("packets", [(53, "UDP"), (80, "TCP")], id="packets: TCP and UDP"),
        pytest.param("connections", [(80, "TCP")], id="connections: TCP only"),
        pytest.param("", [], id="no monitor: nothing"),
    ],
)
def test_which_ports_are_watched(monitor: str, expected: list[tuple[int, str]]) -> None:
    ports = [
        Port(80, "TCP"),
        Port(53, "UDP"),
        Port(80, "TCP"),
        Port(9, "SCTP"),
        Port(0, "TCP"),
        Port(70000, "TCP"),
    ]
    assert watched_ports(status(monitor=monitor, ports=ports)) == expected
