"""Every metric of the control plane, declared only here. No label grows with the number of pods."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from controlplane import VERSION
from controlplane.records import OVER

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600, 1800)


class Metrics:
    """The control plane's counters."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.leads = Gauge(
            "architect_controlplane_leads", "1 while this replica leads, else 0.", registry=self._registry
        )
        self.judged = Counter(
            "architect_controlplane_judged", "Pods told to go, by whether they move.", ["verdict"],
            registry=self._registry,
        )  # fmt: skip
        self.ended = Counter(
            "architect_migrations", "Containers that moved, by what became of them.", ["outcome"],
            registry=self._registry,
        )  # fmt: skip
        self.bytes = Counter(
            "architect_migrations_arrived_bytes", "What the images of those that arrived held.",
            registry=self._registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "architect_migration_seconds", "From the moment a pod was told to go to its arrival.",
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self.calls = Counter(
            "architect_controlplane_calls", "Calls of nodes, by method and status.", ["method", "status"],
            registry=self._registry,
        )  # fmt: skip
        self.certificates = Counter(
            "architect_controlplane_certificates", "Certificates given to nodes.", registry=self._registry
        )
        self.authority_ends = Gauge(
            "architect_controlplane_authority_end_timestamp_seconds",
            "When the authority expires that signs now.", registry=self._registry,
        )  # fmt: skip
        build = Gauge("architect_controlplane_build_info", "Always 1.", ["version"], registry=self._registry)
        build.labels(VERSION).set(1)
        for verdict in ("moves", "ends"):
            self.judged.labels(verdict)
        for outcome in OVER:
            self.ended.labels(outcome.value)

    def text(self) -> bytes:
        """All of it in Prometheus' text format (CONTENT_TYPE)."""
        return generate_latest(self._registry)
