"""The messages of `architect.shim.v1.Shim`, by which the daemon drives the shim of a pod.

`proto/shim_v1.proto` spells them out for other languages; a test keeps the two alike. Fields are only ever
added: a daemon drives shims two releases old, and reads zero where such a shim sends nothing.

Errors of the calls: NOT_FOUND (no such container); of Hibernate also FAILED_PRECONDITION (why it cannot
sleep), ABORTED (activity was seen meanwhile), INTERNAL (the engine failed, the container runs on).
"""

from dataclasses import dataclass
from typing import Any

from architect.ttrpc.codec import BOOL, INT64, STRING, UINT32, UINT64, field, message

SERVICE = "architect.shim.v1.Shim"
VERSION = 1
"""The protocol's version, `DescribeResponse.version`."""


@message("architect.shim.v1.Port")
@dataclass(slots=True)
class Port:
    """A managed port of a container; `protocol` is "TCP" or "UDP"."""

    number: int = field(1, UINT32)
    protocol: str = field(2, STRING)


@message("architect.shim.v1.Failure")
@dataclass(slots=True)
class Failure:
    """An operation that failed: when (wall clock), which, and why, in a sentence."""

    at_ns: int = field(1, INT64)
    operation: str = field(2, STRING)
    reason: str = field(3, STRING)


@message("architect.shim.v1.ContainerStatus")
@dataclass(slots=True)
class ContainerStatus:
    """A container as its shim knows it. Names end in their unit; moments are wall clock since the epoch."""

    id: str = field(1, STRING)
    name: str = field(2, STRING)
    phase: str = field(3, STRING)  # a value of architect.states.Phase
    pid: int = field(4, UINT32)
    managed: bool = field(5, BOOL)
    refusal: str = field(6, STRING)  # why it cannot hibernate, "" if it can
    generation: int = field(7, UINT64)
    since_ns: int = field(8, INT64)  # moment of the last change of phase
    idle_ns: int = field(9, INT64)  # idle for this long, it may sleep
    initial_delay_ns: int = field(10, INT64)  # not before this long after its start
    monitor: str = field(11, STRING)  # "", "packets" or "connections"
    ports: list[Port] = field(12, Port, repeated=True)
    execs: int = field(13, UINT32)  # exec processes running now, but for probes
    image_bytes: int = field(14, UINT64)  # on disk, while asleep
    saved_bytes: int = field(15, UINT64)  # resident memory given back by the last sleep
    last_wake_us: int = field(16, UINT64)
    last_wake_cause: str = field(17, STRING)
    last_sleep_us: int = field(18, UINT64)
    failures: list[Failure] = field(19, Failure, repeated=True)
    active_ns: int = field(
        20, INT64
    )  # moment of the last activity the shim knows: start, end of an exec, wake
    started_ns: int = field(21, INT64)  # moment of its start
    sleeps: int = field(22, UINT64)
    wakes: int = field(23, UINT64)
    settings_error: str = field(24, STRING)  # why the annotations were refused, "" if fine


@message("architect.shim.v1.DescribeRequest")
@dataclass(slots=True)
class DescribeRequest:
    """Asks for the sandbox and its containers."""


@message("architect.shim.v1.DescribeResponse")
@dataclass(slots=True)
class DescribeResponse:
    """The sandbox a shim serves; `netns` is the path of its network namespace."""

    version: int = field(1, UINT32)
    sandbox_id: str = field(2, STRING)
    pod_namespace: str = field(3, STRING)
    pod_name: str = field(4, STRING)
    pod_uid: str = field(5, STRING)
    netns: str = field(6, STRING)
    containers: list[ContainerStatus] = field(7, ContainerStatus, repeated=True)
    shim_pid: int = field(8, UINT32)
    containerd_namespace: str = field(9, STRING)


@message("architect.shim.v1.HibernateRequest")
@dataclass(slots=True)
class HibernateRequest:
    """Puts a container to sleep."""

    container_id: str = field(1, STRING)


@message("architect.shim.v1.HibernateResponse")
@dataclass(slots=True)
class HibernateResponse:
    """The container, asleep."""

    status: ContainerStatus | None = field(1, ContainerStatus)


@message("architect.shim.v1.WakeRequest")
@dataclass(slots=True)
class WakeRequest:
    """`cause`: packet, exec, request, kill, update, ..."""

    container_id: str = field(1, STRING)
    cause: str = field(2, STRING)


@message("architect.shim.v1.WakeResponse")
@dataclass(slots=True)
class WakeResponse:
    """The container, running; also when it ran before."""

    status: ContainerStatus | None = field(1, ContainerStatus)


@message("architect.shim.v1.WatchRequest")
@dataclass(slots=True)
class WatchRequest:
    """Asks for every container as it is now, then for every change."""


@message("architect.shim.v1.WatchEvent")
@dataclass(slots=True)
class WatchEvent:
    """One container as it is now; `removed` when it is gone."""

    status: ContainerStatus | None = field(1, ContainerStatus)
    removed: bool = field(2, BOOL)


METHODS: dict[str, tuple[type[Any], type[Any]]] = {
    "Describe": (DescribeRequest, DescribeResponse),
    "Hibernate": (HibernateRequest, HibernateResponse),
    "Wake": (WakeRequest, WakeResponse),
    "Watch": (WatchRequest, WatchEvent),
}
"""Request and response of every method; Watch answers with a stream."""
