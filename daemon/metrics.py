"""Every metric of the daemon, declared here and nowhere else. No label's values grow with the number of pods.

Sleeps, wakes and failures are counted from what the shims report, whoever asked for them: an exec wakes
without the daemon. What happened before the daemon knew a container is not counted.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from architect.states import Phase
from architect.ttrpc.shim_v1 import ContainerStatus
from daemon import VERSION
from daemon.containers import Containers

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
CAUSES: Final = ("packet", "exec", "request", "kill", "signal", "update", "pause", "checkpoint")
OPERATIONS: Final = ("hibernate", "thaw", "wake", "fresh start", "gate", "kill", "room")
# The first class with a word that occurs in the reason.
REASONS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("disk_full", ("no space left", "quota")),
    ("deadline", ("deadline", "timed out", "took longer", "no answer in")),
    ("memory", ("out of memory", "cannot allocate", "of memory and the node has")),
    ("image", ("image", "digest", "manifest")),
    ("gate", ("gate", "netlink", "nftables", "queue")),
    ("engine", ("criu", "runc", "dump", "restore")),
)
_OTHER: Final = "other"
_SECONDS: Final = (
    0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3,
    5, 10,
)  # fmt: skip
_MICROSECOND: Final = 1e-6


def reason_class(reason: str) -> str:
    """The class of a failure's sentence, one of few."""
    text = reason.lower()
    return next((name for name, words in REASONS if any(word in text for word in words)), _OTHER)


class Metrics:
    """The daemon's counters, and the gauges that are read off the containers when somebody asks."""

    def __init__(self, containers: Containers) -> None:
        self.registry = CollectorRegistry()
        self.sleeps = Counter(
            "architect_sleeps", "Times a container was put to sleep.", registry=self.registry
        )
        self.wakes = Counter(
            "architect_wakes", "Times a container was woken.", ["cause"], registry=self.registry
        )
        self.hibernate_seconds = Histogram(
            "architect_hibernate_seconds",
            "From the decision to sleep to asleep.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.wake_seconds = Histogram(
            "architect_wake_seconds",
            "From the shim's order to wake to the container running again.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.failures = Counter(
            "architect_failures", "Failed operations.", ["operation", "reason"], registry=self.registry
        )
        self.aborted = Counter(
            "architect_sleeps_aborted",
            "Sleeps called off because the container was needed.",
            registry=self.registry,
        )
        self.packets_held = Counter(
            "architect_packets_held", "Packets held for sleeping containers, as read from their queues.",
            registry=self.registry,
        )  # fmt: skip
        self.wakes_waiting = Gauge(
            "architect_wakes_waiting", "Wakes that wait for another restore to end.", registry=self.registry
        )
        self.gates_closed = Gauge(
            "architect_gates_closed", "Closed packet gates read here.", registry=self.registry
        )
        self.reports_waiting = Gauge(
            "architect_reports_waiting",
            "Pods that Kubernetes is still to be told about.",
            registry=self.registry,
        )
        self.connected = Gauge(
            "architect_kubernetes_connected", "Whether the API server is followed.", registry=self.registry
        )
        self.events_dropped = Gauge(
            "architect_events_dropped", "Events that nobody will read.", registry=self.registry
        )
        self.shims = Gauge("architect_shims", "Shims connected.", registry=self.registry)
        self._begin()
        build = Gauge("architect_build_info", "Always 1.", ["version"], registry=self.registry)
        build.labels(VERSION).set(1)
        self.registry.register(_Census(containers))

    def _begin(self) -> None:
        """Shows all labels from the start: of a counter that appears as 1, Prometheus sees no increase."""
        for cause in (*CAUSES, _OTHER):
            self.wakes.labels(cause)
        for operation in (*OPERATIONS, _OTHER):
            for reason in (*(name for name, _ in REASONS), _OTHER):
                self.failures.labels(operation, reason)

    def changed(self, before: ContainerStatus, now: ContainerStatus) -> None:
        """Counts what happened to a container between two of its statuses."""
        if (slept := now.sleeps - before.sleeps) > 0:
            self.sleeps.inc(slept)
            self.hibernate_seconds.observe(now.last_sleep_us * _MICROSECOND)
        if (woken := now.wakes - before.wakes) > 0:
            self.wakes.labels(now.last_wake_cause if now.last_wake_cause in CAUSES else _OTHER).inc(woken)
            self.wake_seconds.observe(now.last_wake_us * _MICROSECOND)
        old = {(failure.at_ns, failure.operation) for failure in before.failures}
        for failure in now.failures:
            if (failure.at_ns, failure.operation) not in old:
                self.failed(failure.operation, failure.reason)

    def failed(self, operation: str, reason: str) -> None:
        """Counts a failure."""
        self.failures.labels(operation if operation in OPERATIONS else _OTHER, reason_class(reason)).inc()

    def text(self) -> bytes:
        """All of it in Prometheus' text format (CONTENT_TYPE)."""
        return generate_latest(self.registry)


class _Census(Collector):
    """Counts the containers when asked."""

    def __init__(self, containers: Containers) -> None:
        self._containers = containers

    def collect(self) -> Iterable[Metric]:
        statuses = [container.status for container in self._containers if container.status.managed]
        phases = Tally(status.phase for status in statuses)
        states = GaugeMetricFamily("architect_containers", "Managed containers by state.", labels=["state"])
        for phase in Phase:
            states.add_metric([phase], phases[phase])
        yield states
        asleep = [status for status in statuses if status.phase == Phase.SCALED_DOWN]
        saved = sum(status.saved_bytes for status in asleep)
        yield GaugeMetricFamily(
            "architect_saved_bytes", "Memory that sleeping containers have given back.", value=saved
        )
        image = sum(status.image_bytes for status in asleep)
        yield GaugeMetricFamily(
            "architect_image_bytes", "Disk that images of sleeping containers take.", value=image
        )
