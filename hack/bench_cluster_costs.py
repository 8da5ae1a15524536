"""What the daemon of a node takes while it reports to Kubernetes: at rest, and for a sleep and a wake."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Final

from hack.api import Api, Object
from hack.bench_cluster_pods import daemon_of, deployments, scaled_to
from hack.bench_daemon import Door
from hack.bench_figures import Figures
from hack.bench_pods import PORT, first_byte
from hack.bench_processes import cpu_seconds, pss, rss
from hack.nodes import Node
from tests.e2e.sleepers import NOTHING, STATUS, app, sleeping

_PODS: Final = 50
_IDLE: Final = "20s"
"""Long enough for all to be awake at once, and for the cluster to be told."""
_WINDOWS: Final = 4
_WINDOW_SECONDS: Final = 15.0
_ROUNDS: Final = 4
_SECONDS: Final = 300.0
_REQUESTS: Final = {"cpu": "10m", "memory": "10Mi"}
"""So little that fifty fit into any node."""


def costs(api: Api, namespace: str, node: Node, figures: Figures) -> None:
    """Everything that is measured by what it takes: on `node`, with its pods asleep."""
    daemon = daemon_of(node)
    pid = daemon.pid()
    pods = f"/api/v1/namespaces/{namespace}/pods"
    resources = {"requests": _REQUESTS, "limits": {"cpu": "1", "memory": "200Mi"}}
    made = sleeping("fifty", "small", node=node, idle=_IDLE, replicas=_PODS, resources=resources)
    del made["spec"]["template"]["spec"]["topologySpreadConstraints"]
    api.create(deployments(namespace), made)
    scaled_to(api, namespace, "fifty", _PODS, _SECONDS)
    addresses = [pod["status"]["podIP"] for pod in _all_told(api, pods, "SCALED_DOWN", NOTHING)]
    for _ in range(_WINDOWS):
        figures.add(f"daemon_cpu_api_{_PODS}_sleepers", "ms/min", _at_rest(daemon, pid))
    figures.add("daemon_pss_api", "MiB", pss(pid))
    figures.add("daemon_rss_api", "MiB", rss(pid))
    for _ in range(_ROUNDS):
        before = cpu_seconds(pid)
        for address in addresses:
            with socket.socket() as connection:
                first_byte(connection, (address, PORT))
        _all_told(api, pods, "RUNNING", _REQUESTS)
        _all_told(api, pods, "SCALED_DOWN", NOTHING)
        figures.add("daemon_cpu_wake_and_sleep", "ms", (cpu_seconds(pid) - before) * 1e3 / _PODS)


def _at_rest(daemon: Door, pid: int) -> float:
    """Milliseconds per minute that the daemon computes while all its pods sleep."""
    began, before = time.monotonic(), cpu_seconds(pid)
    time.sleep(_WINDOW_SECONDS)
    used, passed = cpu_seconds(pid) - before, time.monotonic() - began
    if daemon.followed("SCALED_DOWN") != _PODS:
        raise RuntimeError(f"not all {_PODS} containers slept throughout")
    return used * 1e3 * 60 / passed


def _all_told(api: Api, pods: str, label: str, requests: Mapping[str, str]) -> list[Object]:
    """The pods, when all have this status label and kubelet has allotted them these requests."""

    def told(pod: Object) -> bool:
        return pod["metadata"]["labels"].get(STATUS) == label and app(pod)["allocatedResources"] == requests

    return api.await_list(pods, lambda found: len(found) == _PODS and all(map(told, found)), _SECONDS)
