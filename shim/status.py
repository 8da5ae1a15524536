"""What a shim tells the daemon, and people, of a container."""

from __future__ import annotations

from typing import Final

from architect import settings
from architect.states import Phase
from architect.ttrpc import shim_v1
from shim.container import Container
from shim.process import Status
from shim.sleeper import Sleeper

_PHASES: Final = {
    Status.CREATED: Phase.CREATED,
    Status.RUNNING: Phase.RUNNING,
    Status.PAUSED: Phase.RUNNING,
    Status.STOPPED: Phase.STOPPED,
}


def of(container: Container, settings_error: str) -> shim_v1.ContainerStatus:
    """A container's status as it is now."""
    identity = settings.pod_identity(container.bundle.annotations, strict=False)
    status = shim_v1.ContainerStatus(
        id=container.id,
        name=identity.container,
        phase=_PHASES[container.init.status],
        pid=container.init.pid,
        execs=container.visits(),
        settings_error=settings_error,
    )
    if container.sleeper is not None:
        _describe(container.sleeper, status)
    return status


def _describe(sleeper: Sleeper, status: shim_v1.ContainerStatus) -> None:
    """Fills in what there is to tell of a managed container."""
    record, wanted = sleeper.record, sleeper.settings
    status.managed = True
    status.phase = record.phase
    status.refusal = sleeper.refusal()
    status.generation = record.generation
    status.since_ns = record.since_ns
    status.idle_ns = wanted.idle_ns
    status.initial_delay_ns = wanted.initial_delay_ns
    status.monitor = wanted.monitor
    status.ports = [shim_v1.Port(number=port.number, protocol=port.protocol) for port in wanted.ports]
    status.image_bytes = sleeper.image_bytes
    status.saved_bytes = record.saved_bytes
    status.last_wake_us = record.last_wake_us
    status.last_wake_cause = record.last_wake_cause
    status.last_sleep_us = record.last_sleep_us
    status.failures = [
        shim_v1.Failure(at_ns=failure.at_ns, operation=failure.operation, reason=failure.reason)
        for failure in record.failures
    ]
    status.active_ns = record.active_ns
    status.started_ns = record.started_ns
    status.sleeps = record.sleeps
    status.wakes = record.wakes
