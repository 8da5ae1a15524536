"""What a runtime says about itself, and what a checkpoint asks of it.

A shim called with `-info` reads an `Any` (the runtime's options) from standard input and writes a RuntimeInfo
to standard output; CheckpointOptions travel in `CheckpointTaskRequest.options`.
Source: containerd api/types/introspection, api/types/runc/options.
"""

from dataclasses import dataclass

from architect.ttrpc.codec import BOOL, STRING, field, message
from architect.ttrpc.containerd import Any


@message("containerd.runc.v1.CheckpointOptions")
@dataclass(slots=True)
class CheckpointOptions:
    """How a checkpoint that containerd asks for is to be taken."""

    exit: bool = field(1, BOOL)
    open_tcp: bool = field(2, BOOL)
    external_unix_sockets: bool = field(3, BOOL)
    terminal: bool = field(4, BOOL)
    file_locks: bool = field(5, BOOL)
    empty_namespaces: list[str] = field(6, STRING, repeated=True)
    cgroups_mode: str = field(7, STRING)
    image_path: str = field(8, STRING)
    work_path: str = field(9, STRING)


@message("containerd.types.RuntimeVersion")
@dataclass(slots=True)
class RuntimeVersion:
    """Version and revision, as `-info` tells them."""

    version: str = field(1, STRING)
    revision: str = field(2, STRING)


@message("containerd.types.RuntimeInfo")
@dataclass(slots=True)
class RuntimeInfo:
    """What a shim called with `-info` writes to its standard output."""

    name: str = field(1, STRING)
    version: RuntimeVersion | None = field(2, RuntimeVersion)
    options: Any | None = field(3, Any)
    features: Any | None = field(4, Any)
    annotations: dict[str, str] = field(5, STRING, mapped=True)
