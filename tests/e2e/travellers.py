"""Pods that are moved, know who they are and would notice a loss; what the records say of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from hack.api import Api, Object
from hack.nodes import Node
from tests.e2e.sleepers import PREFIX, Sleeper, fetch, sleeping

SECONDS: Final = 120.0
"""For a pod to be gone from its node, or to be ready on another."""
GRACE: Final = 30
_SOCKET: Final = ("--unix-socket", "/run/architect/architectd.sock", "http://architectd/v1/containers")


def moving(name: str, image: str = "ledger", *, idle: str = "1h", **wanted: Any) -> Object:
    """A Deployment whose pods move: with an emptyDir at /cache, and not spread over the nodes."""
    mounts = [{"name": "cache", "mountPath": "/cache"}]
    made = sleeping(name, image, idle=idle, volumeMounts=mounts, **wanted)
    template = made["spec"]["template"]["spec"]
    template["terminationGracePeriodSeconds"] = GRACE
    template["volumes"] = [{"name": "cache", "emptyDir": {}}]
    del template["topologySpreadConstraints"]
    return made


def as_stateful_set(made: Object) -> Object:
    """The same pods as a StatefulSet's."""
    name = made["metadata"]["name"]
    return {**made, "kind": "StatefulSet", "spec": {**made["spec"], "serviceName": name}}


def with_second(made: Object, port: int = 8081) -> Object:
    """The same with a container `beside`, on another port."""
    template = made["spec"]["template"]
    key = f"{PREFIX}/scaledown-durations"
    durations = json.loads(template["metadata"]["annotations"][key])
    template["metadata"]["annotations"][key] = json.dumps({**durations, "beside": durations["app"]})
    (first,) = template["spec"]["containers"]
    environment = [*first.get("env", []), {"name": "PORT", "value": str(port)}]
    beside = {"name": "beside", "ports": [{"containerPort": port}], "env": environment}
    template["spec"]["containers"].append({**first, **beside})
    return made


@contextmanager
def closed(api: Api, *nodes: Node) -> Iterator[None]:
    """Meanwhile no pod comes to these nodes."""
    try:
        for node in nodes:
            cordon(api, node)
        yield
    finally:
        for node in nodes:
            cordon(api, node, closed=False)


def cordon(api: Api, node: Node, *, closed: bool = True) -> None:
    """No pod comes to the node from now on; or, not `closed`, they do again."""
    api.patch(f"/api/v1/nodes/{node.name}", {"spec": {"unschedulable": closed}})


def evict(api: Api, pod: Sleeper) -> None:
    """As `kubectl drain` asks for each pod."""
    body = {"metadata": {"name": pod.name, "namespace": pod.namespace}}
    api.create(f"{pod.path}/eviction", {"apiVersion": "policy/v1", "kind": "Eviction", **body})


def statuses(node: Node, pod: Sleeper) -> dict[str, Object]:
    """The pod's containers as the node's daemon knows them, by name."""
    found = json.loads(node.run(["curl", "--silent", "--fail", *_SOCKET]))["containers"]
    return {each["container"]: each for each in found if each["pod"] == pod.name}


def metric(node: Node, name: str) -> float:
    """A metric of the node's daemon, 0 where it has none; `name` with its labels, as Prometheus writes it."""
    text = node.run(["curl", "--silent", "--fail", f"http://{node.address}:9644/metrics"])
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name} "))


def await_listening(node: Node, pod: Sleeper, port: int = 8080) -> None:
    """Wait until the pod's service answers: without a probe, a container is ready as soon as it runs."""
    until = ("--retry", str(int(SECONDS)), "--retry-delay", "1", "--retry-connrefused")
    url = f"http://{pod.address}:{port}/nothing"
    node.run(["curl", "--silent", "--show-error", *until, url], timeout=SECONDS + 30)


@dataclass(frozen=True)
class Call:
    """What a `ledger` answered: who it is, and how often it was asked."""

    token: str
    count: int


def call(node: Node, pod: Sleeper, port: int = 8080) -> Call:
    """Asks the pod's `ledger`; a node next to it does."""
    token, count = fetch(node, f"http://{pod.address}:{port}/").split()
    return Call(token, int(count))


def records(api: Api, namespace: str, condition: Callable[[list[Object]], Any]) -> list[Object]:
    """The Migrations of a namespace, when `condition` holds for them."""
    return api.await_list(
        f"/apis/architect.loopholelabs.io/v1alpha1/namespaces/{namespace}/migrations", condition, SECONDS
    )


def successors(api: Api, namespace: str, count: int) -> dict[str, str]:
    """When that many pods have arrived with all of their containers: who replaces whom, by their uids."""

    def over(found: list[Object]) -> bool:
        ends = [state for each in found for state in states(each).values()]
        return len(found) >= count and all(end in ("Arrived", "Kept", "Lost") for end in ends)

    found = records(api, namespace, over)
    story = [(each["metadata"]["name"], states(each), each["status"].get("reason")) for each in found]
    assert len(found) == count, story
    assert {end for each in found for end in states(each).values()} == {"Arrived"}, story
    pairs = {each["spec"]["pod"]["uid"]: each["status"]["target"]["uid"] for each in found}
    assert len(set(pairs)) == len(set(pairs.values())) == count, pairs
    return pairs


def states(record: Object) -> Mapping[str, str]:
    """The state of each container of a Migration."""
    known = {part["name"]: part["state"] for part in record.get("status", {}).get("containers", [])}
    return {name: known.get(name, "Expected") for name in record["spec"]["containers"]}


def warnings(api: Api, namespace: str) -> list[str]:
    """What Architect warns of in a namespace: a state that did not move, a container that started fresh."""
    listed = api.get(f"/api/v1/namespaces/{namespace}/events", fieldSelector="type=Warning")
    return [
        f"{each['involvedObject']['name']}: {each['reason']}: {each['message']}"
        for each in listed["items"]
        if "architect" in f"{each.get('reportingComponent')}{each.get('source', {}).get('component')}"
    ]
