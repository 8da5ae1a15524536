"""What labels and annotations say about a container: parsed, defaulted, or refused with a sentence.

Pure functions over the OCI annotations as containerd hands them to a shim: the pod's own (prefix PREFIX),
those of kubelet (declared ports) and those of the CRI plugin (who the pod is). Whether the containers named
exist is for callers that know the pod (`known`); the shim knows only its own container's name.

An annotation is valid as a whole or not at all: a bad entry for one container is refused for every managed
one, so that the shim and the admission webhook, which use the same functions, never disagree.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from architect.untrusted import Unreadable, Value, parse, shown

__all__ = ["PREFIX", "ContainerSettings", "Monitor", "PodIdentity", "Port", "Refused",
           "check_name", "container_settings", "parse_duration", "pod_identity", "refused"]  # fmt: skip

PREFIX: Final = "architect.loopholelabs.io/"
MANAGED: Final = PREFIX + "managed-containers"
DURATIONS: Final = PREFIX + "scaledown-durations"
DELAYS: Final = PREFIX + "initial-scaledown-delays"
MONITOR: Final = PREFIX + "network-monitor"
PORTS: Final = "io.kubernetes.container.ports"  # kubelet, JSON of the container's v1.ContainerPort list

SECOND: Final = 1_000_000_000
DEFAULT_IDLE_NS: Final = 60 * SECOND
MAX_DELAY_NS: Final = 24 * 3600 * SECOND
MAX_DURATION_NS: Final = 10 * 365 * 24 * 3600 * SECOND
MAX_VALUE_BYTES: Final = 64 << 10
MAX_CONTAINERS: Final = 256
MAX_PORTS: Final = 1024

_NAME: Final = re.compile(
    r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
)  # DNS label, RFC 1123: the name of a container
_PROTOCOLS: Final = ("TCP", "UDP")


class Refused(Exception):
    """The user asked for something that cannot be; `key` is the annotation, `sentence` says what and why.

    `where` is the place within the annotation's value, as people point at it: `.app`, `[2]`; "" for all of
    it.
    """

    def __init__(self, key: str, sentence: str, *, where: str = "") -> None:
        super().__init__(f"{key}{where}: {sentence}")
        self.key = key
        self.where = where
        self.sentence = sentence


class Monitor(StrEnum):
    """What counts as a container's traffic; the values are the annotation's and the shim protocol's."""

    NONE = ""
    PACKETS = "packets"
    CONNECTIONS = "connections"


class Port(NamedTuple):
    """A declared port; `protocol` is "TCP" or "UDP"."""

    number: int
    protocol: str


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """How one managed container sleeps.

    `idle_ns`: idle time before it sleeps; 0: it never does. `initial_delay_ns`: kept awake after its first
    start.
    """

    idle_ns: int = DEFAULT_IDLE_NS
    initial_delay_ns: int = 0
    monitor: Monitor = Monitor.NONE
    ports: tuple[Port, ...] = ()


def container_settings(
    annotations: Mapping[str, str], name: str, *, known: Collection[str] | None = None
) -> ContainerSettings | None:
    """The settings of container `name`; None when it is not managed.

    `known`: all container names of the pod, when the caller has them; any other name in an annotation is
    refused then. Raises Refused.
    """
    if MANAGED not in annotations:
        return None
    if name not in _managed(annotations, known):
        return None
    idle = _per_container(annotations, DURATIONS, known)
    delays = _per_container(annotations, DELAYS, known)
    monitors = _per_container(annotations, MONITOR, known)
    idle_ns = {container: _duration(DURATIONS, value) for container, value in idle.items()}
    delay_ns = {container: _duration(DELAYS, value) for container, value in delays.items()}
    modes = {container: _mode(value) for container, value in monitors.items()}
    return ContainerSettings(
        idle_ns=idle_ns.get(name, DEFAULT_IDLE_NS),
        initial_delay_ns=min(delay_ns.get(name, 0), MAX_DELAY_NS),
        monitor=modes.get(name, Monitor.NONE),
        ports=_ports(annotations),
    )


def _managed(annotations: Mapping[str, str], known: Collection[str] | None) -> set[str]:
    names: set[str] = set()
    try:
        for entry in _parsed(annotations, MANAGED).items(limit=MAX_CONTAINERS):
            name = entry.text(limit=MAX_VALUE_BYTES)
            check_name(entry, name, known)
            if name in names:
                entry.refuse(f"names container {shown(name)} twice")
            names.add(name)
    except Unreadable as error:
        raise refused(MANAGED, error) from error
    return names


def _per_container(
    annotations: Mapping[str, str], key: str, known: Collection[str] | None
) -> dict[str, Value]:
    """An annotation that maps container names to something."""
    if key not in annotations:
        return {}
    try:
        found = _parsed(annotations, key).members(limit=MAX_CONTAINERS)
        for name, value in found.items():
            check_name(value, name, known)
    except Unreadable as error:
        raise refused(key, error) from error
    return found


def check_name(place: Value, name: str, known: Collection[str] | None) -> None:
    """Raises Unreadable about `place` unless `name` is a container's name, and one of `known` if given."""
    if not _NAME.fullmatch(name):
        place.refuse(f"{shown(name)} is no container name")
    if known is not None and name not in known:
        place.refuse(f"the pod has no container {shown(name)}; it has {', '.join(sorted(known)) or 'none'}")


def _duration(key: str, value: Value) -> int:
    try:
        text = value.text(limit=MAX_VALUE_BYTES)
        try:
            return parse_duration(text)
        except ValueError as error:
            value.refuse(str(error))
    except Unreadable as error:
        raise refused(key, error) from error


def _mode(value: Value) -> Monitor:
    try:
        text = value.text(limit=MAX_VALUE_BYTES)
        if text not in (Monitor.PACKETS, Monitor.CONNECTIONS):
            value.refuse(f'{shown(text)} is no mode; "packets" and "connections" are')
        return Monitor(text)
    except Unreadable as error:
        raise refused(MONITOR, error) from error


def _ports(annotations: Mapping[str, str]) -> tuple[Port, ...]:
    """The container's declared TCP and UDP ports, sorted, each once (a pod may name one number twice)."""
    if PORTS not in annotations:
        return ()
    ports: set[Port] = set()
    try:
        raw = _parsed(annotations, PORTS)
        if raw.raw is None:  # how Go writes an empty slice
            return ()
        for entry in raw.items(limit=MAX_PORTS):
            number = entry.member("containerPort").integer(low=1, high=65535)
            protocol = entry.member("protocol").text(limit=16) if "protocol" in entry.mapping() else "TCP"
            if protocol in _PROTOCOLS:  # SCTP: can not be dumped, so need not be watched
                ports.add(Port(number, protocol))
    except Unreadable as error:
        raise refused(PORTS, error) from error
    return tuple(sorted(ports))


def _parsed(annotations: Mapping[str, str], key: str) -> Value:
    return parse(annotations[key], limit=MAX_VALUE_BYTES)


def refused(key: str, error: Unreadable) -> Refused:
    """The refusal of annotation `key` for what was found wrong in its value."""
    where = error.where
    return Refused(key, error.sentence, where=f".{where}" if where and not where.startswith("[") else where)


# ---- durations

_UNITS: Final = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,  # micro sign
    "\u03bcs": 10**3,  # Greek letter mu; Go takes both
    "ms": 10**6,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}
_TERM: Final = re.compile("([0-9]*)(?:(\\.)([0-9]*))?(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_MAX_DURATION_CHARS: Final = 64


def parse_duration(text: str) -> int:
    """A duration as Go's time.ParseDuration reads it ("1m30s", "250ms", "1.5h", "0"), in nanoseconds.

    Raises ValueError with a sentence for anything else, and for what Go takes but makes no sense as an idle
    time: negative ones and those over ten years. Fractions of a nanosecond are dropped.
    """
    if not text:
        raise ValueError('is empty; a duration looks like "30s" or "1m30s"')
    if len(text) > _MAX_DURATION_CHARS:
        raise ValueError(f"is {len(text)} characters long, which no duration needs")
    if text.startswith("-") and text != "-0":
        raise ValueError(f"{shown(text)} is negative")
    body = text[1:] if text[0] in "+-" else text
    if body == "0":
        return 0
    total = position = 0
    while position < len(body):
        term = _TERM.match(body, position)
        if term is None or not (term[1] or term[3]):
            raise ValueError(f'{shown(text)} is no duration; one looks like "30s" or "1m30s"')
        unit, fraction = _UNITS[term[4]], term[3] or ""
        total += int(term[1] or 0) * unit + int(fraction or 0) * unit // 10 ** len(fraction)
        position = term.end()
    if position == 0:
        raise ValueError(f"{shown(text)} is no duration")
    if total > MAX_DURATION_NS:
        raise ValueError(f"{shown(text)} is more than ten years")
    return total


# ---- who the container is

_CRI: Final = "io.kubernetes.cri."
# A CRI client may choose these freely and they become parts of paths: one path component each, no tricks.
_COMPONENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}")


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """Which pod and container the CRI plugin says this is; `container` is "" for the pod's sandbox.

    All "" for a container that the CRI plugin did not make.
    """

    sandbox_id: str = ""
    pod_namespace: str = ""
    pod_name: str = ""
    pod_uid: str = ""
    container: str = ""


def pod_identity(annotations: Mapping[str, str], *, strict: bool = True) -> PodIdentity:
    """Reads containerd's CRI annotations (pkg/cri/annotations).

    Raises Refused when one is missing or unfit as a part of a path; with `strict=False` such a one reads as
    "".
    """
    kind = annotations.get(f"{_CRI}container-type")
    if kind is None:
        return PodIdentity()

    def read(name: str) -> str:
        key = f"{_CRI}{name}"
        value = annotations.get(key, "")
        if _COMPONENT.fullmatch(value):
            return value
        if strict:
            raise Refused(
                key, f"{shown(value)} is no name" if value else "is missing; containerd 1.7 and newer set it"
            )
        return ""

    if kind not in ("sandbox", "container") and strict:
        raise Refused(f"{_CRI}container-type", f"{shown(kind)} is neither sandbox nor container")
    return PodIdentity(
        sandbox_id=read("sandbox-id"),
        pod_namespace=read("sandbox-namespace"),
        pod_name=read("sandbox-name"),
        pod_uid=read("sandbox-uid"),
        container=read("container-name") if kind == "container" else "",
    )
