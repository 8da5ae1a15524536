"""Which questions to a container come by a door of their own, so that asking neither wakes nor keeps awake.

A probe or a scrape that goes to the application's port is traffic like any other. So it is pointed at a
shadow port instead: the shim listens there, in the pod's network namespace, passes the question on while the
container is awake and answers in its place while it sleeps. The webhook writes these annotations (or a person
does), the shim reads them; nothing else knows.

An exec probe can not be told from `kubectl exec` by the runtime. The webhook puts EXEC_PROBE in front of its
command; the shim takes it away, or answers success for a sleeper.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from architect.settings import PREFIX, Refused, check_name, refused
from architect.untrusted import Unreadable, Value, parse, shown

__all__ = ["EXEC_PROBE", "PROBES", "SHADOWS", "Door", "Protocol", "doors"]

PROBES: Final = PREFIX + "health-check-proxy"
SHADOWS: Final = PREFIX + "shadow-ports"
EXEC_PROBE: Final = PREFIX + "probe"
"""The first argument of a command that is a probe; the command itself follows."""

MAX_DOORS: Final = 256
MAX_VALUE_BYTES: Final = 64 << 10


class Protocol(StrEnum):
    """What is spoken at the application's port; a TCP probe comes as HTTP and asks for a connection."""

    HTTP = "HTTP"
    HTTPS = "HTTPS"
    TCP = "TCP"
    GRPC = "GRPC"


class Door(NamedTuple):
    """`shadow_port` leads to `app_port` of `container`; `probe`: a sleeper counts as well."""

    container: str
    app_port: int
    shadow_port: int
    protocol: Protocol
    probe: bool


def doors(annotations: Mapping[str, str], *, known: Collection[str] | None = None) -> tuple[Door, ...]:
    """All doors of a pod: those of probes, then those of scrapers.

    The value of both annotations is `{"mappings": [{"containerName", "appPort", "shadowPort"}, ...]}`; one
    of PROBES may have a "protocol" (default "HTTP"). `known`: all container names of the pod, when the caller
    has them. Raises Refused; also for a shadow port that is named twice or that is an application's port.
    """
    found: list[Door] = []
    for key, probe in ((PROBES, True), (SHADOWS, False)):
        if key not in annotations:
            continue
        try:
            mappings = parse(annotations[key], limit=MAX_VALUE_BYTES).member("mappings")
            for entry in mappings.items(limit=MAX_DOORS):
                door = _door(entry, probe=probe, known=known)
                if any(door.shadow_port == other.shadow_port for other in found):
                    entry.refuse(f"shadow port {door.shadow_port} is taken; every mapping needs its own")
                found.append(door)
        except Unreadable as error:
            raise refused(key, error) from error
    _check_apart(found)
    return tuple(found)


def _door(entry: Value, *, probe: bool, known: Collection[str] | None) -> Door:
    name = entry.member("containerName")
    container = name.text(limit=253)
    check_name(name, container, known)
    protocol = Protocol.HTTP
    if probe and "protocol" in entry.mapping():
        given = entry.member("protocol")
        text = given.text(limit=16)
        if text not in list(Protocol):
            given.refuse(f"{shown(text)} is no protocol; {', '.join(Protocol)} are")
        protocol = Protocol(text)
    return Door(
        container,
        entry.member("appPort").integer(low=1, high=65535),
        entry.member("shadowPort").integer(low=1, high=65535),
        protocol,
        probe,
    )


def _check_apart(found: Collection[Door]) -> None:
    """A shadow port on an application's port would lead to itself, or be in the application's way."""
    taken = {door.app_port for door in found}
    for door in found:
        if door.shadow_port in taken:
            raise Refused(
                PROBES if door.probe else SHADOWS,
                f"shadow port {door.shadow_port} is also an application's port; choose a free one",
            )
