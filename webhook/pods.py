"""Reading a pod as it comes in JSON. The API server has checked its shape; nothing here relies on that.

What has another shape than it should reads as absent, and is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from architect.settings import Port

Fields = dict[str, Any]

PROBES: Final = ("startupProbe", "livenessProbe", "readinessProbe")


def fields(holder: Mapping[str, Any], name: str) -> Fields:
    """The object at `name`; an empty one, that is not part of `holder`, when there is none."""
    found = holder.get(name)
    return found if isinstance(found, dict) else {}


def section(holder: Fields, name: str) -> Fields:
    """The object at `name`, made when there is none: for writing."""
    if not isinstance(holder.get(name), dict):
        holder[name] = {}
    found: Fields = holder[name]
    return found


def records(holder: Mapping[str, Any], name: str) -> list[Fields]:
    """The objects in the list at `name`."""
    found = holder.get(name)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def text(holder: Mapping[str, Any], name: str) -> str:
    """The string at `name`, or ""."""
    found = holder.get(name)
    return found if isinstance(found, str) else ""


def strings(holder: Mapping[str, Any], name: str) -> dict[str, str]:
    """A copy of the labels or annotations at `name`."""
    return {key: value for key, value in fields(holder, name).items() if isinstance(value, str)}


def annotations_of(pod: Mapping[str, Any]) -> dict[str, str]:
    """A copy of the pod's annotations."""
    return strings(fields(pod, "metadata"), "annotations")


def containers(pod: Mapping[str, Any]) -> list[Fields]:
    """The pod's containers that are neither init containers nor ephemeral ones, if they have a name."""
    return [each for each in records(fields(pod, "spec"), "containers") if text(each, "name")]


def init_containers(pod: Mapping[str, Any]) -> list[Fields]:
    """The init containers, restartable ones (sidecars) included."""
    return records(fields(pod, "spec"), "initContainers")


def number(value: object) -> int | None:
    """A port number, or None for anything else."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 < value < 65536 else None  # type: ignore[operator,return-value]


def declared(container: Mapping[str, Any]) -> list[Port]:
    """The ports that a container declares, with whatever protocol it names."""
    return [
        Port(at, text(port, "protocol") or "TCP")
        for port in records(container, "ports")
        if (at := number(port.get("containerPort"))) is not None
    ]


def declared_numbers(container: Mapping[str, Any]) -> set[int]:
    """Their numbers alone."""
    return {port.number for port in declared(container)}


def probes(container: Mapping[str, Any]) -> Iterator[tuple[str, Fields]]:
    """The container's probes with their names, startup first."""
    for name in PROBES:
        if isinstance(container.get(name), dict):
            yield name, container[name]
