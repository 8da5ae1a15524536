"""How long things take on Kubernetes: rollouts, wakes through a Service and past it.

What is compared is measured in turns, each beginning with the other.
"""

from __future__ import annotations

import socket
from typing import Final

from architect.gate.netns import socket_in
from hack.api import Api
from hack.bench_cluster_pods import daemon_of, deployments, hibernate, scaled_to
from hack.bench_figures import Figures
from hack.bench_pods import PORT, first_byte
from hack.control import await_true
from hack.nodes import Node
from tests.e2e.conftest import deployment, service
from tests.e2e.sleepers import LIMITS, Sleeper, pods_of, sleeping

_REPLICAS: Final = 10
_ROLLOUTS: Final = 20
_WAKES: Final = 30
_NEVER: Final = "24h"
"""Idle time of what only the bench puts to sleep."""
_Address = tuple[str, int]


def times(api: Api, namespace: str, nodes: list[Node], figures: Figures) -> None:
    """Everything that is measured with a clock."""
    _rollouts(api, namespace, figures)
    _wakes(api, namespace, nodes[0], nodes[1], figures)


def _rollouts(api: Api, namespace: str, figures: Figures) -> None:
    """From a Deployment's creation until all its pods are available; half of them on each node."""
    made = {
        "deployment_rollout": sleeping("many", "small", replicas=_REPLICAS, idle=_NEVER),
        "deployment_rollout_runc": deployment("many", "small", replicas=_REPLICAS, resources=LIMITS),
    }
    for turn in range(_ROLLOUTS + 1):
        into = figures if turn else Figures()  # the first of each reads its files from the disk
        for name in made if turn % 2 else reversed(made):
            with into.timed(name):
                api.create(deployments(namespace), made[name])
                scaled_to(api, namespace, "many", _REPLICAS)
            api.delete(f"{deployments(namespace)}/many")
            api.await_list(f"/api/v1/namespaces/{namespace}/pods", lambda found: not found)


def _wakes(api: Api, namespace: str, node: Node, other: Node, figures: Figures) -> None:
    """A sleeper on `node`, woken from `other`, by the Service's address and by its own."""
    api.create(deployments(namespace), sleeping("one", "small", node=node, idle=_NEVER))
    made = api.create(f"/api/v1/namespaces/{namespace}/services", service("one"))
    (pod,) = pods_of(api, namespace, "one")
    by_service, by_address = (made["spec"]["clusterIP"], 80), (pod.address, PORT)
    await_true(lambda: _answers(other, by_service), "kube-proxy knows the Service")
    ways = {"wake_first_byte_service": by_service, "wake_first_byte_pod_ip": by_address}
    for turn in range(_WAKES + 1):
        into = figures if turn else Figures()
        for name in ways if turn % 2 else reversed(ways):
            into.add(name, "ms", _woken(pod, node, other, ways[name]))
            into.add(name.replace("wake", "awake"), "ms", _first_byte(other, ways[name]))
    api.delete(f"{deployments(namespace)}/one")
    api.await_gone(pod.path)


def _woken(pod: Sleeper, node: Node, other: Node, address: _Address) -> float:
    """Milliseconds to the first byte of a sleeper of whose sleep the cluster has been told."""
    pod.await_label("RUNNING")
    pod.await_requests(LIMITS["requests"])
    hibernate(daemon_of(node), pod)
    pod.await_asleep()
    return _first_byte(other, address)


def _answers(node: Node, address: _Address) -> bool:
    try:
        _first_byte(node, address)
    except ConnectionRefusedError:
        return False
    return True


def _first_byte(node: Node, address: _Address) -> float:
    """What the node itself waits for the first byte of an answer."""
    with socket_in(f"/run/netns/{node.name}", socket.AF_INET, socket.SOCK_STREAM) as connection:
        return first_byte(connection, address)
