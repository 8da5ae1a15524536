"""What a bench on Kubernetes is measured on: Deployments, and the daemons' sockets on the nodes."""

from __future__ import annotations

from typing import Final

from hack.api import Api
from hack.bench_daemon import Door, Refused
from hack.control import API, SECONDS
from hack.nodes import Node
from tests.e2e.sleepers import Sleeper

_RETRIES: Final = 20
_CONFLICT: Final = 409


def deployments(namespace: str) -> str:
    """Where the API has a namespace's Deployments."""
    return f"/apis/apps/v1/namespaces/{namespace}/deployments"


def scaled_to(api: Api, namespace: str, name: str, replicas: int, seconds: float = SECONDS) -> None:
    """Wait until so many pods of a Deployment are available."""
    path = f"{deployments(namespace)}/{name}"
    api.await_object(path, lambda seen: seen["status"].get("availableReplicas") == replicas, seconds)


def daemon_of(node: Node) -> Door:
    """The daemon that runs on a node of the cluster."""
    with open(f"/run/nodes/{node.name}.pid", encoding="ascii") as file:
        return Door(f"/proc/{file.read().strip()}/root{API}")


def hibernate(daemon: Door, pod: Sleeper) -> None:
    """Puts a pod's container `app` to sleep.

    What still came for it (the last packet of a connection) keeps it awake: asked again then.
    """
    for _ in range(_RETRIES):
        try:
            daemon.ask("POST", f"/v1/containers/{pod.namespace}/{pod.name}/app/hibernate")
        except Refused as refused:
            if refused.status != _CONFLICT:
                raise
        else:
            return
    raise RuntimeError(f"{pod.name} was asked to sleep {_RETRIES} times and never did")
