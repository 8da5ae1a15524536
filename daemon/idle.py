"""When a container may sleep: pure functions of what is known about it.

Moments are nanoseconds on the monotonic clock; a wall clock that jumps must not put anything to sleep. What
it leaves to others: finding out about packets and connections (`traffic.py`), timers and the doing
(`sleeping.py`).

The trap: packets are read from the kernel only when everything else says "sleep", so the question is asked
twice: without `traffic`, which tells when it is worth looking, and then with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from architect.settings import Monitor
from architect.states import Phase
from architect.ttrpc.shim_v1 import ContainerStatus

SECOND: Final = 1_000_000_000
LONGEST_RETRY_NS: Final = 3600 * SECOND
_DOUBLINGS: Final = 48  # of a nanosecond are more than an hour; keeps the numbers small


@dataclass(frozen=True, slots=True)
class Moments:
    """When the shim last knew the container to be active (start, exec, wake), and when it started."""

    active_ns: int
    started_ns: int

    @classmethod
    def of(cls, status: ContainerStatus, *, wall_ns: int, now_ns: int) -> Self:
        """Moves the wall-clock moments of a status that has just come to the monotonic clock.

        What is unknown (0) or lies in the future (somebody set the clock back) counts as now.
        """

        def moved(moment_ns: int) -> int:
            return now_ns - max(0, wall_ns - moment_ns) if moment_ns > 0 else now_ns

        return cls(moved(status.active_ns), moved(status.started_ns))


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the kernel says of a container's ports."""

    last_packet_ns: int | None = None
    open_connections: int = 0


@dataclass(frozen=True, slots=True)
class Sleep:
    """Nothing speaks against sleep."""


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Not now. `at_ns` is when to ask again; None: with the container's next change of state."""

    at_ns: int | None
    reason: str


def decide(
    status: ContainerStatus,
    moments: Moments,
    now_ns: int,
    *,
    traffic: Traffic | None = None,
    retry_ns: int = 0,
) -> Sleep | WaitUntil:
    """Whether a container may sleep at `now_ns`. `retry_ns`: not before this moment, because a try failed."""
    obstacle = _obstacle(status)
    if obstacle:
        return WaitUntil(None, obstacle)
    waits = [
        (moments.active_ns + status.idle_ns, "it was started, woken or used by an exec not long enough ago"),
        (moments.started_ns + status.initial_delay_ns, "its initial delay has not passed"),
        (retry_ns, "an attempt to put it to sleep failed"),
    ]
    if traffic is not None and traffic.last_packet_ns is not None:
        waits.append((traffic.last_packet_ns + status.idle_ns, "packets came not long enough ago"))
    if traffic is not None and traffic.open_connections and status.monitor == Monitor.CONNECTIONS:
        count = traffic.open_connections
        noun = "a TCP connection is" if count == 1 else f"{count} TCP connections are"
        waits.append((now_ns + status.idle_ns, f"{noun} open"))
    at_ns, reason = max(waits)
    return WaitUntil(at_ns, reason) if at_ns > now_ns else Sleep()


def _obstacle(status: ContainerStatus) -> str:
    """What only a change of the container's state can remove, as a sentence; "" when there is nothing."""
    if not status.managed:
        return "it is not managed by Architect"
    if status.phase != Phase.RUNNING:
        return f"it is {status.phase}"
    if status.refusal:
        return status.refusal
    if status.idle_ns <= 0:
        return "its scale-down duration is 0: it never sleeps"
    if status.execs:
        return "an exec is running in it" if status.execs == 1 else f"{status.execs} execs are running in it"
    return ""


def watched_ports(status: ContainerStatus) -> list[tuple[int, str]]:
    """The ports, as (number, "TCP" or "UDP"), whose packets count as activity of this container."""
    if not status.managed or status.monitor not in (Monitor.PACKETS, Monitor.CONNECTIONS):
        return []
    wanted = ("TCP",) if status.monitor == Monitor.CONNECTIONS else ("TCP", "UDP")
    return sorted(
        {(p.number, p.protocol) for p in status.ports if p.protocol in wanted and 0 < p.number < 65536}
    )


def retry_after_ns(idle_ns: int, failures: int) -> int:
    """How long to wait after the `failures`-th failure in a row: the idle time, doubled each time, up to an
    hour.
    """
    return min(idle_ns << min(failures, _DOUBLINGS), LONGEST_RETRY_NS)
