"""The messages that containerd and its shims exchange: names and field numbers of containerd's API.

Task service: `containerd.task.v2.Task` and `containerd.task.v3.Task` carry the same bytes; the messages below
bear the names of v2. `-info` is in `runtime_info`, the content of `Stats` in `cgroup1` and `cgroup2`.

The trap: containerd's type URLs are bare names (`containerd.events.TaskExit`) without a host before them, and
some `Any` hold JSON (OCI documents), not protobuf. A runtime whose type containerd does not know gets
`RuntimeOptions` instead of `Options`, with its configuration as TOML.
Source: containerd api/runtime/task, api/events, api/types, api/services/ttrpc/events (1.7 and 2.x).
"""

import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Any as AnyMessage

from architect.ttrpc import codec
from architect.ttrpc.codec import BOOL, BYTES, ENUM, INT32, INT64, STRING, UINT32, field, message

TASK_V2 = "containerd.task.v2.Task"
TASK_V3 = "containerd.task.v3.Task"
EVENTS = "containerd.services.events.ttrpc.v1.Events"

OCI_PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
"""Type URL of the JSON in `ExecProcessRequest.spec`; 1 is the specification's major version."""
OCI_RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
"""Type URL of the JSON in `UpdateTaskRequest.resources`."""


class Status(IntEnum):
    """State of a task or an exec (`StateResponse.status`)."""

    UNKNOWN = 0
    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4
    PAUSING = 5


@message("google.protobuf.Empty")
@dataclass(slots=True)
class Empty:
    """Nothing; the answer of a call that only succeeds."""


@message("google.protobuf.Timestamp")
@dataclass(slots=True)
class Timestamp:
    """A moment as seconds and nanoseconds since the epoch; the zero moment is the epoch itself."""

    seconds: int = field(1, INT64)
    nanos: int = field(2, INT32)


@message("google.protobuf.Any")
@dataclass(slots=True)
class Any:
    """A message of another kind, or JSON: `type_url` says which, `value` holds its bytes."""

    type_url: str = field(1, STRING)
    value: bytes = field(2, BYTES)


def timestamp(ns: int | None = None) -> Timestamp:
    """The moment `ns` nanoseconds after the epoch, or now."""
    seconds, nanos = divmod(time.time_ns() if ns is None else ns, 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)


def timestamp_ns(moment: Timestamp | None) -> int:
    """Nanoseconds after the epoch; 0 for no moment."""
    return moment.seconds * 1_000_000_000 + moment.nanos if moment else 0


def pack(msg: AnyMessage) -> Any:
    """A message wrapped the way containerd expects it: its full name as the type URL."""
    return Any(type_url=codec.full_name(type(msg)), value=codec.encode(msg))


def unpack[T](wrapped: Any, cls: type[T]) -> T:
    """The message inside. Raises DecodeError when it is of another type than `cls`, or damaged."""
    if wrapped.type_url.rpartition("/")[2] != codec.full_name(cls):
        raise codec.DecodeError(f"expected {codec.full_name(cls)}, got {wrapped.type_url!r:.200}")
    return codec.decode(cls, wrapped.value)


@message("containerd.types.Mount")
@dataclass(slots=True)
class Mount:
    """One mount of a root file system, in mount(8)'s words."""

    type: str = field(1, STRING)
    source: str = field(2, STRING)
    target: str = field(3, STRING)
    options: list[str] = field(4, STRING, repeated=True)


@message("containerd.types.Envelope")
@dataclass(slots=True)
class Envelope:
    """An event on its way to containerd, which refuses it without timestamp, namespace or topic."""

    timestamp: Timestamp | None = field(1, Timestamp)
    namespace: str = field(2, STRING)
    topic: str = field(3, STRING)
    event: Any | None = field(4, Any)


@message("containerd.v1.types.ProcessInfo")
@dataclass(slots=True)
class ProcessInfo:
    """A process of a container; `info` may carry ProcessDetails."""

    pid: int = field(1, UINT32)
    info: Any | None = field(2, Any)


@message("containerd.runc.v1.Options")
@dataclass(slots=True)
class Options:
    """Options of the runc runtime, from containerd's configuration; `criu_path` only before 2.0."""

    no_pivot_root: bool = field(1, BOOL)
    no_new_keyring: bool = field(2, BOOL)
    shim_cgroup: str = field(3, STRING)
    io_uid: int = field(4, UINT32)
    io_gid: int = field(5, UINT32)
    binary_name: str = field(6, STRING)
    root: str = field(7, STRING)
    criu_path: str = field(8, STRING)
    systemd_cgroup: bool = field(9, BOOL)
    criu_image_path: str = field(10, STRING)
    criu_work_path: str = field(11, STRING)
    task_api_address: str = field(12, STRING)
    task_api_version: int = field(13, UINT32)


@message("containerd.runc.v1.ProcessDetails")
@dataclass(slots=True)
class ProcessDetails:
    """Which exec a process belongs to."""

    exec_id: str = field(1, STRING)


@message("runtimeoptions.v1.Options")
@dataclass(slots=True)
class RuntimeOptions:
    """Options of a runtime that containerd does not know itself: the path of a file, or its content."""

    type_url: str = field(1, STRING)
    config_path: str = field(2, STRING)
    config_body: bytes = field(3, BYTES)


@message("containerd.task.v2.CreateTaskRequest")
@dataclass(slots=True)
class CreateTaskRequest:
    id: str = field(1, STRING)
    bundle: str = field(2, STRING)
    rootfs: list[Mount] = field(3, Mount, repeated=True)
    terminal: bool = field(4, BOOL)
    stdin: str = field(5, STRING)
    stdout: str = field(6, STRING)
    stderr: str = field(7, STRING)
    checkpoint: str = field(8, STRING)
    parent_checkpoint: str = field(9, STRING)
    options: Any | None = field(10, Any)


@message("containerd.task.v2.CreateTaskResponse")
@dataclass(slots=True)
class CreateTaskResponse:
    pid: int = field(1, UINT32)


@message("containerd.task.v2.DeleteRequest")
@dataclass(slots=True)
class DeleteRequest:
    id: str = field(1, STRING)
    exec_id: str = field(2, STRING)


@message("containerd.task.v2.DeleteResponse")
@dataclass(slots=True)
class DeleteResponse:
    pid: int = field(1, UINT32)
    exit_status: int = field(2, UINT32)
    exited_at: Timestamp | None = field(3, Timestamp)


@message("containerd.task.v2.ExecProcessRequest")
@dataclass(slots=True)
class ExecProcessRequest:
    id: str = field(1, STRING)
    exec_id: str = field(2, STRING)
    terminal: bool = field(3, BOOL)
    stdin: str = field(4, STRING)
    stdout: str = field(5, STRING)
    stderr: str = field(6, STRING)
    spec: Any | None = field(7, Any)


@message("containerd.task.v2.ResizePtyRequest")
@dataclass(slots=True)
class ResizePtyRequest:
    id: str = field(1, STRING)
    exec_id: str = field(2, STRING)
    width: int = field(3, UINT32)
    height: int = field(4, UINT32)


@message("containerd.task.v2.StateRequest")
@dataclass(slots=True)
class StateRequest:
    id: str = field(1, STRING)
    exec_id: str = field(2, STRING)


@message("containerd.task.v2.StateResponse")
@dataclass(slots=True)
class StateResponse:
    id: str = field(1, STRING)
    bundle: str = field(2, STRING)
    pid: int = field(3, UINT32)
    status: int = field(4, ENUM)
    stdin: str = field(5, STRING)
    stdout: str = field(6, STRING)
    stderr: str = field(7, STRING)
    terminal: bool = field(8, BOOL)
    exit_status: int = field(9, UINT32)
    exited_at: Timestamp | None = field(10, Timestamp)
    exec_id: str = field(11, STRING)


@message("containerd.task.v2.KillRequest")
@dataclass(slots=True)
class KillRequest:
    id: str = field(1, STRING)
    exec_id: str = field(2, STRING)
    signal: int = field(3, UINT32)
    all: bool = field(4, BOOL)


@message("containerd.task.v2.CloseIORequest")
@dataclass(slots=True)
class CloseIORequest:
    id: str = field(1, STRING)
    exec_id: str = field(2, STRING)
    stdin: bool = field(3, BOOL)


@message("containerd.task.v2.PidsRequest")
@dataclass(slots=True)
class PidsRequest:
    id: str = field(1, STRING)


@message("containerd.task.v2.PidsResponse")
@dataclass(slots=True)
class PidsResponse:
    processes: list[ProcessInfo] = field(1, ProcessInfo, repeated=True)


@message("containerd.task.v2.CheckpointTaskRequest")
@dataclass(slots=True)
class CheckpointTaskRequest:
    id: str = field(1, STRING)
    path: str = field(2, STRING)
    options: Any | None = field(3, Any)


@message("containerd.task.v2.UpdateTaskRequest")
@dataclass(slots=True)
class UpdateTaskRequest:
    """`resources` is an OCI LinuxResources as JSON."""

    id: str = field(1, STRING)
    resources: Any | None = field(2, Any)
    annotations: dict[str, str] = field(3, STRING, mapped=True)


@message("containerd.task.v2.StartRequest")
@dataclass(slots=True)
class StartRequest:
    id: str = field(1, STRING)
    exec_id: str = field(2, STRING)


@message("containerd.task.v2.StartResponse")
@dataclass(slots=True)
class StartResponse:
    pid: int = field(1, UINT32)


@message("containerd.task.v2.WaitRequest")
@dataclass(slots=True)
class WaitRequest:
    id: str = field(1, STRING)
    exec_id: str = field(2, STRING)


@message("containerd.task.v2.WaitResponse")
@dataclass(slots=True)
class WaitResponse:
    exit_status: int = field(1, UINT32)
    exited_at: Timestamp | None = field(2, Timestamp)


@message("containerd.task.v2.StatsRequest")
@dataclass(slots=True)
class StatsRequest:
    id: str = field(1, STRING)


@message("containerd.task.v2.StatsResponse")
@dataclass(slots=True)
class StatsResponse:
    """`stats` holds the Metrics of `cgroup1` or `cgroup2`."""

    stats: Any | None = field(1, Any)


@message("containerd.task.v2.ConnectRequest")
@dataclass(slots=True)
class ConnectRequest:
    id: str = field(1, STRING)


@message("containerd.task.v2.ConnectResponse")
@dataclass(slots=True)
class ConnectResponse:
    shim_pid: int = field(1, UINT32)
    task_pid: int = field(2, UINT32)
    version: str = field(3, STRING)


@message("containerd.task.v2.ShutdownRequest")
@dataclass(slots=True)
class ShutdownRequest:
    id: str = field(1, STRING)
    now: bool = field(2, BOOL)


@message("containerd.task.v2.PauseRequest")
@dataclass(slots=True)
class PauseRequest:
    id: str = field(1, STRING)


@message("containerd.task.v2.ResumeRequest")
@dataclass(slots=True)
class ResumeRequest:
    id: str = field(1, STRING)


@message("containerd.events.TaskIO")
@dataclass(slots=True)
class TaskIO:
    stdin: str = field(1, STRING)
    stdout: str = field(2, STRING)
    stderr: str = field(3, STRING)
    terminal: bool = field(4, BOOL)


@message("containerd.events.TaskCreate")
@dataclass(slots=True)
class TaskCreate:
    container_id: str = field(1, STRING)
    bundle: str = field(2, STRING)
    rootfs: list[Mount] = field(3, Mount, repeated=True)
    io: TaskIO | None = field(4, TaskIO)
    checkpoint: str = field(5, STRING)
    pid: int = field(6, UINT32)


@message("containerd.events.TaskStart")
@dataclass(slots=True)
class TaskStart:
    container_id: str = field(1, STRING)
    pid: int = field(2, UINT32)


@message("containerd.events.TaskDelete")
@dataclass(slots=True)
class TaskDelete:
    """`id` is the exec's, or empty for the container's first process."""

    container_id: str = field(1, STRING)
    pid: int = field(2, UINT32)
    exit_status: int = field(3, UINT32)
    exited_at: Timestamp | None = field(4, Timestamp)
    id: str = field(5, STRING)


@message("containerd.events.TaskExit")
@dataclass(slots=True)
class TaskExit:
    """`id` is the exec's, or the container's own for its first process."""

    container_id: str = field(1, STRING)
    id: str = field(2, STRING)
    pid: int = field(3, UINT32)
    exit_status: int = field(4, UINT32)
    exited_at: Timestamp | None = field(5, Timestamp)


@message("containerd.events.TaskOOM")
@dataclass(slots=True)
class TaskOOM:
    container_id: str = field(1, STRING)


@message("containerd.events.TaskExecAdded")
@dataclass(slots=True)
class TaskExecAdded:
    container_id: str = field(1, STRING)
    exec_id: str = field(2, STRING)


@message("containerd.events.TaskExecStarted")
@dataclass(slots=True)
class TaskExecStarted:
    container_id: str = field(1, STRING)
    exec_id: str = field(2, STRING)
    pid: int = field(3, UINT32)


@message("containerd.events.TaskPaused")
@dataclass(slots=True)
class TaskPaused:
    container_id: str = field(1, STRING)


@message("containerd.events.TaskResumed")
@dataclass(slots=True)
class TaskResumed:
    container_id: str = field(1, STRING)


@message("containerd.events.TaskCheckpointed")
@dataclass(slots=True)
class TaskCheckpointed:
    container_id: str = field(1, STRING)
    checkpoint: str = field(2, STRING)


@message("containerd.services.events.ttrpc.v1.ForwardRequest")
@dataclass(slots=True)
class ForwardRequest:
    """The one call of containerd's event service, `Forward`; it answers Empty."""

    envelope: Envelope | None = field(1, Envelope)


TOPICS: dict[type[AnyMessage], str] = {
    TaskCreate: "/tasks/create",
    TaskStart: "/tasks/start",
    TaskOOM: "/tasks/oom",
    TaskExit: "/tasks/exit",
    TaskDelete: "/tasks/delete",
    TaskExecAdded: "/tasks/exec-added",
    TaskExecStarted: "/tasks/exec-started",
    TaskPaused: "/tasks/paused",
    TaskResumed: "/tasks/resumed",
    TaskCheckpointed: "/tasks/checkpointed",
}
"""The topic under which each event is published."""


def envelope(namespace: str, event: AnyMessage, ns: int | None = None) -> Envelope:
    """An event ready for containerd, stamped with `ns` (nanoseconds since the epoch) or now."""
    return Envelope(
        timestamp=timestamp(ns), namespace=namespace, topic=TOPICS[type(event)], event=pack(event)
    )


TASK_METHODS: dict[str, tuple[type[AnyMessage], type[AnyMessage]]] = {
    "Create": (CreateTaskRequest, CreateTaskResponse),
    "Start": (StartRequest, StartResponse),
    "Exec": (ExecProcessRequest, Empty),
    "State": (StateRequest, StateResponse),
    "Pids": (PidsRequest, PidsResponse),
    "Pause": (PauseRequest, Empty),
    "Resume": (ResumeRequest, Empty),
    "Kill": (KillRequest, Empty),
    "ResizePty": (ResizePtyRequest, Empty),
    "CloseIO": (CloseIORequest, Empty),
    "Update": (UpdateTaskRequest, Empty),
    "Stats": (StatsRequest, StatsResponse),
    "Wait": (WaitRequest, WaitResponse),
    "Delete": (DeleteRequest, DeleteResponse),
    "Connect": (ConnectRequest, ConnectResponse),
    "Shutdown": (ShutdownRequest, Empty),
    "Checkpoint": (CheckpointTaskRequest, Empty),
}
"""The Task service: request and response of every method, the same in v2 and v3."""
