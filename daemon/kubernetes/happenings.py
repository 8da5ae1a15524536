"""What has happened to a container between two of its statuses, as Events tell it. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from architect.ttrpc.shim_v1 import ContainerStatus

_UNITS: Final = ("bytes", "KiB", "MiB", "GiB")
_FRESH: Final = "fresh start"
_FAILED: Final = {
    "hibernate": "ScaleDownFailed",
    "thaw": "ScaleDownFailed",
    "wake": "ScaleUpFailed",
    "gate": "ScaleUpFailed",
    "arrive": "MigrationUnavailable",
    _FRESH: "StartedFresh",
}
_LONGEST: Final = 900  # an Event's message may have 1024 characters


@dataclass(frozen=True, slots=True)
class Happening:
    """What an Event says: its reason (a name), a sentence, and whether it is a Warning."""

    reason: str
    sentence: str
    warning: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sentence", self.sentence[:_LONGEST])


def happened(before: ContainerStatus | None, now: ContainerStatus) -> list[Happening]:
    """What is new in `now`; of a container that is new here (`before` is None) only what still holds, and
    that it began without the memory of the one before it.
    """
    if not now.managed and not now.settings_error:
        return []
    found: list[Happening] = []
    if now.settings_error and (before is None or before.settings_error != now.settings_error):
        sentence = f"Container {now.name} does not sleep, its annotations were refused: {now.settings_error}"
        found.append(Happening("SettingsRefused", sentence, warning=True))
    if before is None:
        begins = not (now.sleeps or now.wakes)
        lost = [each for each in now.failures if begins and each.operation in (_FRESH, "arrive")]
        return found + [failed(now.name, each.operation, each.reason) for each in lost]
    known = {(failure.at_ns, failure.operation) for failure in before.failures}
    new = [failure for failure in now.failures if (failure.at_ns, failure.operation) not in known]
    found += [failed(now.name, failure.operation, failure.reason) for failure in new]
    if now.sleeps > before.sleeps:
        found += _slept(now)
    if now.wakes > before.wakes:
        found.append(_woke(now))
    return found


def failed(name: str, operation: str, reason: str) -> Happening:
    """An operation on a container failed."""
    if operation == "room":
        return refused(name, reason)
    event = _FAILED.get(operation, "OperationFailed")
    if event == "StartedFresh":
        return Happening(
            event, f"Container {name} was started fresh instead of woken: {reason}", warning=True
        )
    return Happening(event, f"Container {name}: {operation} failed: {reason}", warning=True)


def refused(name: str, reason: str) -> Happening:
    """A wake was refused for the node's sake."""
    return Happening("ScaleUpRefused", f"Container {name} is not woken: {reason}", warning=True)


def _slept(now: ContainerStatus) -> list[Happening]:
    took = milliseconds(now.last_sleep_us)
    image = f"Memory of container {now.name} was written to disk: {size(now.image_bytes)}"
    asleep = f"Container {now.name} sleeps; {size(now.saved_bytes)} of memory given back in {took}"
    return [Happening("CheckpointCreated", image), Happening("ScaleDownCompleted", asleep)]


def _woke(now: ContainerStatus) -> Happening:
    cause = f" by {now.last_wake_cause}" if now.last_wake_cause.isalnum() else ""
    sentence = f"Container {now.name} was woken{cause} in {milliseconds(now.last_wake_us)}"
    return Happening("ScaleUpCompleted", sentence)


def milliseconds(microseconds: int) -> str:
    """A duration for people."""
    return f"{microseconds / 1000:.0f} ms"


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in _UNITS[:-1]:
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} {_UNITS[-1]}"
