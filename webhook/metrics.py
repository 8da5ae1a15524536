"""Every metric of the webhook, declared here and nowhere else. No label grows with the number of pods."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from webhook import VERSION

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OUTCOMES: Final = ("prepared", "untouched", "refused", "unreadable", "failed")
_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)


class Metrics:
    """The webhook's counters."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.reviews = Counter(
            "architect_webhook_reviews", "Pods asked about, by what became of them.", ["outcome"],
            registry=self._registry,
        )  # fmt: skip
        self.warnings = Counter(
            "architect_webhook_warnings",
            "Warnings given with pods that were let pass.",
            registry=self._registry,
        )
        self.seconds = Histogram(
            "architect_webhook_review_seconds", "From a question's arrival to its answer.", buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self.certificate_ends = Gauge(
            "architect_webhook_certificate_end_timestamp_seconds",
            "When the certificate expires that is shown; 0: it comes from files.",
            registry=self._registry,
        )
        build = Gauge("architect_webhook_build_info", "Always 1.", ["version"], registry=self._registry)
        build.labels(VERSION).set(1)
        for outcome in OUTCOMES:
            self.reviews.labels(outcome)

    def text(self) -> bytes:
        """All of it in Prometheus' text format (CONTENT_TYPE)."""
        return generate_latest(self._registry)
