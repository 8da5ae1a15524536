"""Pods on the box's containerd, made the way kubelet makes them. For tests, the demo and the benchmark.

    with Cri() as cri, Pod(cri, "web", annotations={...}) as pod:
        app = pod.start("app", "web", ports=[8080])
        app.exec("/usr/bin/cat", "/proc/1/stat")

Blocking calls; a refusal is a grpc.RpcError with containerd's sentence in `details()`. Runs in the box's
venv. It leaves to its users what a pod is told through annotations. The trap: what `ctr` imported reaches the
CRI's own list of images a moment later, which is why every image is awaited before its first use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any, Final, Self

import grpc

from architect.ttrpc import codec
from hack import cri_messages as m

ADDRESS: Final = "unix:///run/containerd/containerd.sock"
SLOWNESS: Final = float(os.environ.get("NODE_SLOWNESS", "1"))
"""How much slower than a real machine the node is: deadlines and delays are multiplied by it."""
SECONDS: Final = 60.0 * SLOWNESS
"""Deadline of a call."""
_TICK: Final = 0.01
_MASKED: Final = ("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                  "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                  "/sys/devices/virtual/powercap")  # fmt: skip
_READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

Port = int | tuple[int, str]
"""A declared port: its number, or (number, "TCP" or "UDP")."""


class Cri:
    """A connection to containerd's CRI. Waits up to a minute until the runtime and its network are ready."""

    def __init__(self, address: str = ADDRESS) -> None:
        self._channel = grpc.insecure_channel(address)
        self._images: set[str] = set()
        deadline = time.monotonic() + SECONDS
        while not self._ready(deadline - time.monotonic()):
            if time.monotonic() > deadline:
                raise TimeoutError("containerd's CRI is not ready: see /var/log/containerd.log")
            time.sleep(_TICK)

    def _ready(self, seconds: float) -> bool:
        answer = self.call("Status", m.StatusRequest(), m.StatusResponse, seconds=seconds)
        return answer.status is not None and all(condition.status for condition in answer.status.conditions)

    def call[T](
        self,
        method: str,
        request: Any,
        response: type[T],
        *,
        service: str = "RuntimeService",
        seconds: float = SECONDS,
    ) -> T:
        """Call `method` of `service` and return its decoded `response`. Raises grpc.RpcError.

        Waits, as kubelet does, for a containerd that has just started: it answers before it can serve.
        """
        unary = self._channel.unary_unary(
            f"/runtime.v1.{service}/{method}",
            request_serializer=codec.encode,
            response_deserializer=lambda data: codec.decode(response, data),
        )
        deadline = time.monotonic() + seconds
        while True:
            try:
                answer: T = unary(request, timeout=deadline - time.monotonic(), wait_for_ready=True)
            except grpc.RpcError as error:
                if "not initialized yet" not in str(error.details()) or time.monotonic() > deadline:
                    raise
                time.sleep(_TICK)
            else:
                return answer

    def await_image(self, image: str) -> None:
        """Wait until the CRI knows `image`. Raises TimeoutError."""
        deadline = time.monotonic() + SECONDS
        request = m.ImageStatusRequest(m.ImageSpec(image))
        while image not in self._images:
            answer = self.call("ImageStatus", request, m.ImageStatusResponse, service="ImageService")
            if answer.image is not None:
                self._images.add(image)
            elif time.monotonic() > deadline:
                raise TimeoutError(f"the CRI does not know {image}: was it built by hack/images.py?")
            else:
                time.sleep(_TICK)  # the CRI tells nobody when its list of images has changed

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Pod:
    """A running sandbox. Leaving its context stops and removes it and its containers.

    `runtime`: the handler, "" for plain runc; `privileged`, `host_network`, `host_pid`: as in a pod's spec;
    `cgroup_parent`: where kubelet would put it, by default a best-effort pod's place.
    """

    def __init__(
        self,
        cri: Cri,
        name: str,
        *,
        runtime: str = "runc-architect",
        namespace: str = "default",
        uid: str = "",
        annotations: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        privileged: bool = False,
        host_network: bool = False,
        host_pid: bool = False,
        cgroup_parent: str = "",
        sysctls: Mapping[str, str] | None = None,
        attempt: int = 0,
    ) -> None:
        self.cri = cri
        self.name = name
        self.namespace = namespace
        self.uid = uid or str(uuid.uuid4())
        self._privileged = privileged
        self._namespaces = m.NamespaceOption(
            network=m.NamespaceMode.NODE if host_network else m.NamespaceMode.POD,
            pid=m.NamespaceMode.NODE if host_pid else m.NamespaceMode.CONTAINER,
        )
        self.log_directory = f"/var/log/pods/{namespace}_{name}_{self.uid}"
        os.makedirs(self.log_directory, exist_ok=True)
        self._config = m.SandboxConfig(
            metadata=m.SandboxMetadata(name=name, uid=self.uid, namespace=namespace, attempt=attempt),
            hostname="" if host_network else name,
            log_directory=self.log_directory,
            dns_config=m.DnsConfig(),
            labels={**self._labels(), **(labels or {})},
            annotations={
                "kubernetes.io/config.seen": "2026-01-01T00:00:00.000000000Z",
                "kubernetes.io/config.source": "api",
                **(annotations or {}),
            },
            linux=m.LinuxSandbox(
                cgroup_parent=cgroup_parent or f"/kubepods/besteffort/pod{self.uid}",
                security_context=m.SandboxSecurity(
                    namespace_options=self._namespaces,
                    privileged=privileged,
                    seccomp=m.SecurityProfile(m.Profile.RUNTIME_DEFAULT),
                ),
                sysctls=dict(sysctls or {}),
                overhead=m.Resources(),
                resources=m.Resources(cpu_period=100_000, cpu_shares=2),
            ),
        )
        cri.await_image("docker.io/local/pause:1")
        request = m.RunPodSandboxRequest(self._config, runtime)
        self.id = cri.call("RunPodSandbox", request, m.RunPodSandboxResponse).pod_sandbox_id

    def _labels(self) -> dict[str, str]:
        return {
            "io.kubernetes.pod.name": self.name,
            "io.kubernetes.pod.namespace": self.namespace,
            "io.kubernetes.pod.uid": self.uid,
        }

    def create(
        self,
        name: str,
        image: str,
        *,
        command: Sequence[str] = (),
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        ports: Sequence[Port] = (),
        mounts: Sequence[m.Mount] = (),
        resources: m.Resources | None = None,
        security: m.ContainerSecurity | None = None,
        annotations: Mapping[str, str] | None = None,
        tty: bool = False,
        stdin: bool = False,
        restarts: int = 0,
    ) -> Container:
        """Make a container of test image `image` ("web" is docker.io/local/web:1), not started."""
        reference = image if "/" in image else f"docker.io/local/{image}:1"
        self.cri.await_image(reference)
        os.makedirs(f"{self.log_directory}/{name}", exist_ok=True)
        declared = [(port, "TCP") if isinstance(port, int) else port for port in ports]
        config = m.ContainerConfig(
            metadata=m.ContainerMetadata(name=name, attempt=restarts),
            image=m.ImageSpec(reference),
            command=list(command),
            args=list(args),
            envs=[m.KeyValue(key, value) for key, value in (env or {}).items()],
            mounts=list(mounts),
            labels={"io.kubernetes.container.name": name, **self._labels()},
            annotations={
                "io.kubernetes.container.hash": "5f3d0c1a",
                "io.kubernetes.container.restartCount": str(restarts),
                "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
                "io.kubernetes.container.terminationMessagePolicy": "File",
                "io.kubernetes.pod.terminationGracePeriod": "30",
                **({"io.kubernetes.container.ports": _ports(declared)} if declared else {}),
                **(annotations or {}),
            },
            log_path=f"{name}/{restarts}.log",
            tty=tty,
            stdin=stdin,
            linux=m.LinuxContainer(
                resources=resources or m.Resources(cpu_period=100_000, cpu_shares=2, oom_score_adj=1000),
                security_context=self._security(security),
            ),
        )
        request = m.CreateContainerRequest(self.id, config, self._config)
        made = self.cri.call("CreateContainer", request, m.CreateContainerResponse)
        return Container(self, name, made.container_id, f"{self.log_directory}/{name}/{restarts}.log")

    def _security(self, wanted: m.ContainerSecurity | None) -> m.ContainerSecurity:
        if wanted is not None:
            return dataclasses.replace(wanted, namespace_options=self._namespaces)
        return m.ContainerSecurity(
            privileged=self._privileged,
            namespace_options=self._namespaces,
            masked_paths=[] if self._privileged else list(_MASKED),
            readonly_paths=[] if self._privileged else list(_READ_ONLY),
            # what kubelet sends when a pod names no profile
            seccomp=m.SecurityProfile(m.Profile.UNCONFINED),
        )

    def start(self, name: str, image: str, **wanted: Any) -> Container:
        """`create` and start; takes the same arguments."""
        container = self.create(name, image, **wanted)
        container.start()
        return container

    def status(self) -> m.SandboxStatus:
        """The sandbox as containerd sees it."""
        answer = self.cri.call("PodSandboxStatus", m.SandboxRequest(self.id), m.SandboxStatusResponse)
        assert answer.status is not None
        return answer.status

    def info(self) -> dict[str, Any]:
        """Containerd's own details: pid, runtimeSpec, ..."""
        answer = self.cri.call(
            "PodSandboxStatus", m.SandboxRequest(self.id, verbose=True), m.SandboxStatusResponse
        )
        details: dict[str, Any] = json.loads(answer.info["info"])
        return details

    @cached_property
    def addresses(self) -> tuple[str, ...]:
        """The pod's addresses: IPv4, then IPv6. Asked for once: they stay, containerd may not."""
        network = self.status().network
        return (network.ip, *(each.ip for each in network.additional_ips)) if network else ()

    @cached_property
    def netns(self) -> str:
        """Path of the pod's network namespace."""
        namespaces = self.info()["runtimeSpec"]["linux"]["namespaces"]
        return next(str(each["path"]) for each in namespaces if each["type"] == "network")

    def stop(self) -> None:
        """Stop every container at once, give the network back; the sandbox is NOTREADY then."""
        self.cri.call("StopPodSandbox", m.SandboxRequest(self.id), m.Nothing)

    def remove(self) -> None:
        """Stop and remove the sandbox and everything in it; as kubelet does, the pod's cgroups too."""
        self.stop()
        self.cri.call("RemovePodSandbox", m.SandboxRequest(self.id), m.Nothing)
        parent = self._config.linux.cgroup_parent if self._config.linux else ""
        hierarchies = [
            "",
            *(name for name in os.listdir("/sys/fs/cgroup") if os.path.isdir(f"/sys/fs/cgroup/{name}")),
        ]
        for hierarchy in hierarchies:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(os.path.join("/sys/fs/cgroup", hierarchy) + parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.remove()
        except (grpc.RpcError, OSError) as failure:
            if error is None:
                raise
            error.add_note(f"and then the pod could not be removed: {failure}")


@dataclasses.dataclass
class Container:
    """A container of `pod`; `log` is the path of its log in the CRI's format."""

    pod: Pod
    name: str
    id: str
    log: str

    def start(self) -> None:
        """Start it."""
        self.pod.cri.call("StartContainer", m.ContainerRequest(self.id), m.Nothing)

    def status(self) -> m.ContainerStatus:
        """The container as containerd sees it."""
        request = m.ContainerStatusRequest(self.id)
        answer = self.pod.cri.call("ContainerStatus", request, m.ContainerStatusResponse)
        assert answer.status is not None
        return answer.status

    def info(self) -> dict[str, Any]:
        """Containerd's own details: pid, runtimeSpec, snapshotKey, ..."""
        request = m.ContainerStatusRequest(self.id, verbose=True)
        answer = self.pod.cri.call("ContainerStatus", request, m.ContainerStatusResponse)
        details: dict[str, Any] = json.loads(answer.info["info"])
        return details

    @property
    def pid(self) -> int:
        """Its first process, as numbered on the node; 0 when there is none."""
        return int(self.info()["pid"])

    def exec(self, *argv: str, seconds: int = 30) -> m.ExecSyncResponse:
        """Run a command in it and wait, like an exec probe. Raises grpc.RpcError, also for a timeout."""
        request = m.ExecSyncRequest(self.id, list(argv), seconds)
        return self.pod.cri.call("ExecSync", request, m.ExecSyncResponse, seconds=seconds + 10)

    def stats(self) -> m.ContainerStats:
        """What it uses."""
        answer = self.pod.cri.call("ContainerStats", m.ContainerRequest(self.id), m.ContainerStatsResponse)
        assert answer.stats is not None
        return answer.stats

    def update(self, resources: m.Resources) -> None:
        """Give it other limits."""
        request = m.UpdateContainerResourcesRequest(self.id, resources)
        self.pod.cri.call("UpdateContainerResources", request, m.Nothing)

    def stop(self, seconds: int = 10) -> None:
        """SIGTERM, then SIGKILL after `seconds`; returns when it has ended."""
        request = m.StopContainerRequest(self.id, seconds)
        self.pod.cri.call("StopContainer", request, m.Nothing, seconds=seconds + SECONDS)

    def remove(self) -> None:
        """Remove it; a running one is killed."""
        self.pod.cri.call("RemoveContainer", m.ContainerRequest(self.id), m.Nothing)

    def lines(self) -> list[str]:
        """What it has written, standard output and error together, without the CRI's marks.

        Source of the format: Kubernetes' CRI log, "time stream P|F text" per line; P continues in the next.
        """
        text = ""
        with open(self.log, encoding="utf-8", errors="replace") as file:
            for line in file:
                _, _, mark, rest = line.rstrip("\n").split(" ", 3)
                text += rest if mark == "P" else rest + "\n"
        return text.splitlines()

    def await_line(self, wanted: str, seconds: float = SECONDS) -> None:
        """Wait until it has written a line that contains `wanted`. Raises TimeoutError with what there is."""
        deadline = time.monotonic() + seconds
        while not any(wanted in line for line in self.lines()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} never wrote {wanted!r}, only {self.lines()[-10:]}")
            time.sleep(_TICK)


def _ports(declared: Sequence[tuple[int, str]]) -> str:
    return json.dumps([{"containerPort": number, "protocol": protocol} for number, protocol in declared])
