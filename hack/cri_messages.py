"""The messages of the Container Runtime Interface that tests need, with the field numbers of `runtime.v1`.

Only fields that something here reads or sets; the codec skips the others. Source: k8s.io/cri-api,
pkg/apis/runtime/v1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from architect.ttrpc.codec import BOOL, BYTES, ENUM, INT32, INT64, STRING, UINT32, UINT64, field, message


class SandboxState(IntEnum):
    """`PodSandboxStatus.state`."""

    READY = 0
    NOTREADY = 1


class ContainerState(IntEnum):
    """`ContainerStatus.state`."""

    CREATED = 0
    RUNNING = 1
    EXITED = 2
    UNKNOWN = 3


class NamespaceMode(IntEnum):
    """Whose namespace a container uses (`NamespaceOption`)."""

    POD = 0
    CONTAINER = 1
    NODE = 2
    TARGET = 3


class Propagation(IntEnum):
    """`Mount.propagation`."""

    PRIVATE = 0
    HOST_TO_CONTAINER = 1
    BIDIRECTIONAL = 2


class Profile(IntEnum):
    """`SecurityProfile.profile_type`."""

    RUNTIME_DEFAULT = 0
    UNCONFINED = 1
    LOCALHOST = 2


@message("runtime.v1.StatusRequest")
@dataclass(slots=True)
class StatusRequest:
    """Asks for the runtime's conditions."""


@message("runtime.v1.RuntimeCondition")
@dataclass(slots=True)
class RuntimeCondition:
    """`type` is RuntimeReady or NetworkReady."""

    type: str = field(1, STRING)
    status: bool = field(2, BOOL)
    reason: str = field(3, STRING)
    message: str = field(4, STRING)


@message("runtime.v1.RuntimeStatus")
@dataclass(slots=True)
class RuntimeStatus:
    """All conditions."""

    conditions: list[RuntimeCondition] = field(1, RuntimeCondition, repeated=True)


@message("runtime.v1.StatusResponse")
@dataclass(slots=True)
class StatusResponse:
    """The runtime's conditions."""

    status: RuntimeStatus | None = field(1, RuntimeStatus)


@message("runtime.v1.DNSConfig")
@dataclass(slots=True)
class DnsConfig:
    """Content of the pod's resolv.conf; absent, containerd copies the node's."""

    servers: list[str] = field(1, STRING, repeated=True)
    searches: list[str] = field(2, STRING, repeated=True)
    options: list[str] = field(3, STRING, repeated=True)


@message("runtime.v1.PortMapping")
@dataclass(slots=True)
class PortMapping:
    """A port of the node that leads to the pod; `protocol` 0 is TCP, 1 UDP."""

    protocol: int = field(1, ENUM)
    container_port: int = field(2, INT32)
    host_port: int = field(3, INT32)
    host_ip: str = field(4, STRING)


@message("runtime.v1.NamespaceOption")
@dataclass(slots=True)
class NamespaceOption:
    """Which namespaces are whose (NamespaceMode)."""

    network: int = field(1, ENUM)
    pid: int = field(2, ENUM)
    ipc: int = field(3, ENUM)
    target_id: str = field(4, STRING)


@message("runtime.v1.SecurityProfile")
@dataclass(slots=True)
class SecurityProfile:
    """A seccomp profile (Profile)."""

    profile_type: int = field(1, ENUM)
    localhost_ref: str = field(2, STRING)


@message("runtime.v1.LinuxSandboxSecurityContext")
@dataclass(slots=True)
class SandboxSecurity:
    """How the sandbox is confined."""

    namespace_options: NamespaceOption | None = field(1, NamespaceOption)
    privileged: bool = field(6, BOOL)
    seccomp: SecurityProfile | None = field(9, SecurityProfile)


@message("runtime.v1.LinuxContainerResources")
@dataclass(slots=True)
class Resources:
    """Limits; times in microseconds, memory in bytes, 0 for none."""

    cpu_period: int = field(1, INT64)
    cpu_quota: int = field(2, INT64)
    cpu_shares: int = field(3, INT64)
    memory_limit_in_bytes: int = field(4, INT64)
    oom_score_adj: int = field(5, INT64)


@message("runtime.v1.LinuxPodSandboxConfig")
@dataclass(slots=True)
class LinuxSandbox:
    """The Linux part of a sandbox."""

    cgroup_parent: str = field(1, STRING)
    security_context: SandboxSecurity | None = field(2, SandboxSecurity)
    sysctls: dict[str, str] = field(3, STRING, mapped=True)
    overhead: Resources | None = field(4, Resources)
    resources: Resources | None = field(5, Resources)


@message("runtime.v1.PodSandboxMetadata")
@dataclass(slots=True)
class SandboxMetadata:
    """Who the pod is."""

    name: str = field(1, STRING)
    uid: str = field(2, STRING)
    namespace: str = field(3, STRING)
    attempt: int = field(4, UINT32)


@message("runtime.v1.PodSandboxConfig")
@dataclass(slots=True)
class SandboxConfig:
    """What kubelet asks a sandbox to be."""

    metadata: SandboxMetadata | None = field(1, SandboxMetadata)
    hostname: str = field(2, STRING)
    log_directory: str = field(3, STRING)
    dns_config: DnsConfig | None = field(4, DnsConfig)
    port_mappings: list[PortMapping] = field(5, PortMapping, repeated=True)
    labels: dict[str, str] = field(6, STRING, mapped=True)
    annotations: dict[str, str] = field(7, STRING, mapped=True)
    linux: LinuxSandbox | None = field(8, LinuxSandbox)


@message("runtime.v1.RunPodSandboxRequest")
@dataclass(slots=True)
class RunPodSandboxRequest:
    """Make and start a sandbox; an empty handler is the node's default runtime."""

    config: SandboxConfig | None = field(1, SandboxConfig)
    runtime_handler: str = field(2, STRING)


@message("runtime.v1.RunPodSandboxResponse")
@dataclass(slots=True)
class RunPodSandboxResponse:
    """The new sandbox's id."""

    pod_sandbox_id: str = field(1, STRING)


@message("runtime.v1.PodSandboxRequest")
@dataclass(slots=True)
class SandboxRequest:
    """StopPodSandboxRequest, RemovePodSandboxRequest, PodSandboxStatusRequest: they agree on these fields."""

    pod_sandbox_id: str = field(1, STRING)
    verbose: bool = field(2, BOOL)


@message("runtime.v1.PodIP")
@dataclass(slots=True)
class PodIp:
    """One more address."""

    ip: str = field(1, STRING)


@message("runtime.v1.PodSandboxNetworkStatus")
@dataclass(slots=True)
class SandboxNetwork:
    """The pod's addresses."""

    ip: str = field(1, STRING)
    additional_ips: list[PodIp] = field(2, PodIp, repeated=True)


@message("runtime.v1.PodSandboxStatus")
@dataclass(slots=True)
class SandboxStatus:
    """A sandbox as it is (SandboxState)."""

    id: str = field(1, STRING)
    metadata: SandboxMetadata | None = field(2, SandboxMetadata)
    state: int = field(3, ENUM)
    created_at: int = field(4, INT64)
    network: SandboxNetwork | None = field(5, SandboxNetwork)


@message("runtime.v1.PodSandboxStatusResponse")
@dataclass(slots=True)
class SandboxStatusResponse:
    """`info["info"]` is containerd's JSON, when asked for."""

    status: SandboxStatus | None = field(1, SandboxStatus)
    info: dict[str, str] = field(2, STRING, mapped=True)


@message("runtime.v1.ImageSpec")
@dataclass(slots=True)
class ImageSpec:
    """An image by name."""

    image: str = field(1, STRING)


@message("runtime.v1.ImageStatusRequest")
@dataclass(slots=True)
class ImageStatusRequest:
    """Asks whether an image is there."""

    image: ImageSpec | None = field(1, ImageSpec)


@message("runtime.v1.Image")
@dataclass(slots=True)
class Image:
    """An image on the node."""

    id: str = field(1, STRING)
    repo_tags: list[str] = field(2, STRING, repeated=True)


@message("runtime.v1.ImageStatusResponse")
@dataclass(slots=True)
class ImageStatusResponse:
    """`image` is None when it is not there."""

    image: Image | None = field(1, Image)


@message("runtime.v1.KeyValue")
@dataclass(slots=True)
class KeyValue:
    """An environment variable."""

    key: str = field(1, STRING)
    value: str = field(2, STRING)


@message("runtime.v1.Mount")
@dataclass(slots=True)
class Mount:
    """A path of the node in the container (Propagation)."""

    container_path: str = field(1, STRING)
    host_path: str = field(2, STRING)
    readonly: bool = field(3, BOOL)
    propagation: int = field(5, ENUM)


@message("runtime.v1.Capability")
@dataclass(slots=True)
class Capability:
    """Capabilities more or less than the usual ones, without "CAP_"."""

    add_capabilities: list[str] = field(1, STRING, repeated=True)
    drop_capabilities: list[str] = field(2, STRING, repeated=True)


@message("runtime.v1.Int64Value")
@dataclass(slots=True)
class Int64Value:
    """A number that may be absent."""

    value: int = field(1, INT64)


@message("runtime.v1.LinuxContainerSecurityContext")
@dataclass(slots=True)
class ContainerSecurity:
    """How a container is confined."""

    capabilities: Capability | None = field(1, Capability)
    privileged: bool = field(2, BOOL)
    namespace_options: NamespaceOption | None = field(3, NamespaceOption)
    run_as_user: Int64Value | None = field(5, Int64Value)
    readonly_rootfs: bool = field(7, BOOL)
    no_new_privs: bool = field(11, BOOL)
    masked_paths: list[str] = field(13, STRING, repeated=True)
    readonly_paths: list[str] = field(14, STRING, repeated=True)
    seccomp: SecurityProfile | None = field(15, SecurityProfile)


@message("runtime.v1.LinuxContainerConfig")
@dataclass(slots=True)
class LinuxContainer:
    """The Linux part of a container."""

    resources: Resources | None = field(1, Resources)
    security_context: ContainerSecurity | None = field(2, ContainerSecurity)


@message("runtime.v1.ContainerMetadata")
@dataclass(slots=True)
class ContainerMetadata:
    """Who the container is; `attempt` counts restarts."""

    name: str = field(1, STRING)
    attempt: int = field(2, UINT32)


@message("runtime.v1.ContainerConfig")
@dataclass(slots=True)
class ContainerConfig:
    """What kubelet asks a container to be."""

    metadata: ContainerMetadata | None = field(1, ContainerMetadata)
    image: ImageSpec | None = field(2, ImageSpec)
    command: list[str] = field(3, STRING, repeated=True)
    args: list[str] = field(4, STRING, repeated=True)
    working_dir: str = field(5, STRING)
    envs: list[KeyValue] = field(6, KeyValue, repeated=True)
    mounts: list[Mount] = field(7, Mount, repeated=True)
    labels: dict[str, str] = field(9, STRING, mapped=True)
    annotations: dict[str, str] = field(10, STRING, mapped=True)
    log_path: str = field(11, STRING)
    stdin: bool = field(12, BOOL)
    stdin_once: bool = field(13, BOOL)
    tty: bool = field(14, BOOL)
    linux: LinuxContainer | None = field(15, LinuxContainer)


@message("runtime.v1.CreateContainerRequest")
@dataclass(slots=True)
class CreateContainerRequest:
    """Make a container in a sandbox."""

    pod_sandbox_id: str = field(1, STRING)
    config: ContainerConfig | None = field(2, ContainerConfig)
    sandbox_config: SandboxConfig | None = field(3, SandboxConfig)


@message("runtime.v1.CreateContainerResponse")
@dataclass(slots=True)
class CreateContainerResponse:
    """The new container's id."""

    container_id: str = field(1, STRING)


@message("runtime.v1.ContainerRequest")
@dataclass(slots=True)
class ContainerRequest:
    """StartContainerRequest, RemoveContainerRequest, ContainerStatsRequest and the like: an id."""

    container_id: str = field(1, STRING)


@message("runtime.v1.StopContainerRequest")
@dataclass(slots=True)
class StopContainerRequest:
    """SIGTERM, and SIGKILL after `timeout` seconds."""

    container_id: str = field(1, STRING)
    timeout: int = field(2, INT64)


@message("runtime.v1.ContainerStatusRequest")
@dataclass(slots=True)
class ContainerStatusRequest:
    """Asks for a container as it is."""

    container_id: str = field(1, STRING)
    verbose: bool = field(2, BOOL)


@message("runtime.v1.ContainerStatus")
@dataclass(slots=True)
class ContainerStatus:
    """A container as it is (ContainerState); times in nanoseconds since the epoch."""

    id: str = field(1, STRING)
    metadata: ContainerMetadata | None = field(2, ContainerMetadata)
    state: int = field(3, ENUM)
    created_at: int = field(4, INT64)
    started_at: int = field(5, INT64)
    finished_at: int = field(6, INT64)
    exit_code: int = field(7, INT32)
    reason: str = field(10, STRING)
    message: str = field(11, STRING)
    log_path: str = field(15, STRING)


@message("runtime.v1.ContainerStatusResponse")
@dataclass(slots=True)
class ContainerStatusResponse:
    """`info["info"]` is containerd's JSON, when asked for."""

    status: ContainerStatus | None = field(1, ContainerStatus)
    info: dict[str, str] = field(2, STRING, mapped=True)


@message("runtime.v1.ExecSyncRequest")
@dataclass(slots=True)
class ExecSyncRequest:
    """Run a command in a container and wait for it; `timeout` in seconds, 0 for none."""

    container_id: str = field(1, STRING)
    cmd: list[str] = field(2, STRING, repeated=True)
    timeout: int = field(3, INT64)


@message("runtime.v1.ExecSyncResponse")
@dataclass(slots=True)
class ExecSyncResponse:
    """What the command wrote and how it ended."""

    stdout: bytes = field(1, BYTES)
    stderr: bytes = field(2, BYTES)
    exit_code: int = field(3, INT32)


@message("runtime.v1.ExecRequest")
@dataclass(slots=True)
class ExecRequest:
    """Asks for a URL to stream a command's input and output over."""

    container_id: str = field(1, STRING)
    cmd: list[str] = field(2, STRING, repeated=True)
    tty: bool = field(3, BOOL)
    stdin: bool = field(4, BOOL)
    stdout: bool = field(5, BOOL)
    stderr: bool = field(6, BOOL)


@message("runtime.v1.PortForwardRequest")
@dataclass(slots=True)
class PortForwardRequest:
    """Asks for a URL to stream connections to ports of the pod over."""

    pod_sandbox_id: str = field(1, STRING)
    port: list[int] = field(2, INT32, repeated=True)


@message("runtime.v1.UrlResponse")
@dataclass(slots=True)
class UrlResponse:
    """ExecResponse, AttachResponse, PortForwardResponse."""

    url: str = field(1, STRING)


@message("runtime.v1.UInt64Value")
@dataclass(slots=True)
class UInt64Value:
    """A number that may be absent."""

    value: int = field(1, UINT64)


@message("runtime.v1.CpuUsage")
@dataclass(slots=True)
class CpuUsage:
    """Processor time used since the start, in nanoseconds."""

    timestamp: int = field(1, INT64)
    usage_core_nano_seconds: UInt64Value | None = field(2, UInt64Value)


@message("runtime.v1.MemoryUsage")
@dataclass(slots=True)
class MemoryUsage:
    """Memory in bytes."""

    timestamp: int = field(1, INT64)
    working_set_bytes: UInt64Value | None = field(2, UInt64Value)
    usage_bytes: UInt64Value | None = field(4, UInt64Value)
    rss_bytes: UInt64Value | None = field(5, UInt64Value)


@message("runtime.v1.ContainerStats")
@dataclass(slots=True)
class ContainerStats:
    """What a container uses."""

    cpu: CpuUsage | None = field(2, CpuUsage)
    memory: MemoryUsage | None = field(3, MemoryUsage)


@message("runtime.v1.ContainerStatsResponse")
@dataclass(slots=True)
class ContainerStatsResponse:
    """The answer to ContainerStats."""

    stats: ContainerStats | None = field(1, ContainerStats)


@message("runtime.v1.UpdateContainerResourcesRequest")
@dataclass(slots=True)
class UpdateContainerResourcesRequest:
    """New limits for a container."""

    container_id: str = field(1, STRING)
    linux: Resources | None = field(2, Resources)


@message("runtime.v1.Nothing")
@dataclass(slots=True)
class Nothing:
    """A response that only says it succeeded."""
