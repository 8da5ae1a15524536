"""The messages of `architect.node.v1.Node`, by which a pod's shim asks the daemon when a container leaves the
node or comes to it.

`proto/node_v1.proto` spells them out, and the order of the calls; a test keeps the two alike. Fields are only
ever added: a daemon serves shims two releases old.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from architect.ttrpc.codec import BOOL, STRING, UINT32, UINT64, field, message

SERVICE = "architect.node.v1.Node"
SOCKET: Final = "/run/architect/node.sock"
PROMISE: Final = "/opt/architect/moves"
"""A file that is there while the node is to have a daemon that listens there: it may not have begun yet."""
ARRIVAL_SECONDS: Final = 20.0
"""After so long `Arrival` answers WAITING."""


class State(IntEnum):
    """Of an arrival."""

    WAITING = 0
    HERE = 1
    LOST = 2


@message("architect.node.v1.Container")
@dataclass(slots=True)
class Container:
    """Which one, of which pod; `id` is containerd's, `name` the pod's specification's."""

    sandbox_id: str = field(1, STRING)
    pod_namespace: str = field(2, STRING)
    pod_name: str = field(3, STRING)
    pod_uid: str = field(4, STRING)
    id: str = field(5, STRING)
    name: str = field(6, STRING)


@message("architect.node.v1.LeavesRequest")
@dataclass(slots=True)
class LeavesRequest:
    """It was told to end; `image` is the directory of its image, or where that will be written."""

    container: Container | None = field(1, Container)
    asleep: bool = field(2, BOOL)
    image: str = field(3, STRING)


@message("architect.node.v1.LeavesResponse")
@dataclass(slots=True)
class LeavesResponse:
    """Whether its state moves, and why (not); `seconds` there are for `Left`. `stays`: its pod was not told
    to go.
    """

    moves: bool = field(1, BOOL)
    reason: str = field(2, STRING)
    seconds: int = field(3, UINT32)
    stays: bool = field(4, BOOL)


@message("architect.node.v1.LeftRequest")
@dataclass(slots=True)
class LeftRequest:
    """Its sealed image and its writable layer ("" if it has none); `asleep`: it arrives asleep."""

    container: Container | None = field(1, Container)
    asleep: bool = field(2, BOOL)
    image: str = field(3, STRING)
    layer: str = field(4, STRING)
    freeze_us: int = field(5, UINT64)


@message("architect.node.v1.LeftResponse")
@dataclass(slots=True)
class LeftResponse:
    """All of it is the daemon's now; the container can go."""


@message("architect.node.v1.ArrivesRequest")
@dataclass(slots=True)
class ArrivesRequest:
    """It is created."""

    container: Container | None = field(1, Container)


@message("architect.node.v1.ArrivesResponse")
@dataclass(slots=True)
class ArrivesResponse:
    """Whether somebody comes to be it; that may take `seconds`."""

    expected: bool = field(1, BOOL)
    reason: str = field(2, STRING)
    seconds: int = field(3, UINT32)


@message("architect.node.v1.ArrivalRequest")
@dataclass(slots=True)
class ArrivalRequest:
    """Asks what has come."""

    container: Container | None = field(1, Container)


@message("architect.node.v1.ArrivalResponse")
@dataclass(slots=True)
class ArrivalResponse:
    """What has come (`State`): directories that stay the daemon's; `asleep`: it is to stay asleep."""

    state: int = field(1, UINT32)
    reason: str = field(2, STRING)
    asleep: bool = field(3, BOOL)
    image: str = field(4, STRING)
    layer: str = field(5, STRING)


@message("architect.node.v1.SettledRequest")
@dataclass(slots=True)
class SettledRequest:
    """It is restored or asleep `here`; or it started fresh, for `reason`."""

    container: Container | None = field(1, Container)
    here: bool = field(2, BOOL)
    reason: str = field(3, STRING)
    restore_us: int = field(4, UINT64)


@message("architect.node.v1.SettledResponse")
@dataclass(slots=True)
class SettledResponse:
    """Noted."""


METHODS: dict[str, tuple[type[Any], type[Any]]] = {
    "Leaves": (LeavesRequest, LeavesResponse),
    "Left": (LeftRequest, LeftResponse),
    "Arrives": (ArrivesRequest, ArrivesResponse),
    "Arrival": (ArrivalRequest, ArrivalResponse),
    "Settled": (SettledRequest, SettledResponse),
}
"""Request and response of every method."""
