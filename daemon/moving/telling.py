"""What people and Prometheus hear of moves from this node: counts, and the Events of what only it knows. What
became of a move the control plane tells, and of a fresh start the shim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from daemon.containers import Pod
from daemon.kubernetes.happenings import Happening, milliseconds, size
from daemon.moving.parts import Part

Tell = Callable[[Pod, str, Happening], None]
"""Told of a pod, one of its containers, and what happened to that."""

_SECONDS: Final = (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600)
_FREEZE_SECONDS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class MoveMetrics:
    """Declared when this node takes part in moves."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.left = Counter(
            "architect_migrations_left",
            "Containers that were to leave this node with their state: saved, moved, kept, failed, unasked.",
            ["outcome"],
            registry=registry,
        )
        self.arrived = Counter(
            "architect_migrations_arrived",
            "Containers whose state was to come to this node: arrived, fresh.",
            ["outcome"],
            registry=registry,
        )
        self.bytes = Counter(
            "architect_migration_received_bytes", "Bytes of state that came here.", registry=registry
        )
        self.seconds = Histogram(
            "architect_migration_seconds",
            "From the start of the new container to it having the old one's state.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.freeze = Histogram(
            "architect_migration_freeze_seconds",
            "How long a container that left was frozen until it was saved; without those asleep.",
            buckets=_FREEZE_SECONDS,
            registry=registry,
        )
        self.leaving = Gauge(
            "architect_migrations_leaving", "Containers saved here and not fetched.", registry=registry
        )
        self.arriving = Gauge(
            "architect_migrations_arriving", "Containers that wait for their state here.", registry=registry
        )
        self.ready = Gauge(
            "architect_migrations_ready",
            "1: this node has a certificate of the control plane, and takes part in migrations.",
            registry=registry,
        )
        self.kept = Gauge("architect_migrations_kept", "States kept that nobody took.", registry=registry)


def unasked(container: str, reason: str) -> Happening:
    """Nobody could be asked whether it moves."""
    sentence = (
        f"Container {container} ends, and its memory with it: whether it moves could not be asked: {reason}"
    )
    return Happening("MigrationUnavailable", sentence, warning=True)


def unclaimed(container: str, reason: str) -> Happening:
    """Nobody could be asked whether another's state comes."""
    sentence = f"Container {container} begins anew: whether memory comes for it could not be asked: {reason}"
    return Happening("MigrationUnavailable", sentence, warning=True)


def saved(part: Part) -> Happening:
    """It was saved."""
    frozen = f", frozen for {milliseconds(part.freeze_us)}" if part.freeze_us else ""
    left_out = f"; left out: {part.notes[0]}" if part.notes else ""
    sentence = f"Container {part.container} left: {size(part.size)} saved{frozen}{left_out}"
    return Happening("MigrationSaved", sentence)


def expected(container: str, node: str) -> Happening:
    """It waits for its state."""
    return Happening("MigrationExpected", f"Container {container} waits for its memory from {node}")
