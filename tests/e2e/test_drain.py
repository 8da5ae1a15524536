"""`kubectl drain` of a whole node: all of it goes on, on the other node, each as the one it replaces."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from hack.api import Api, Object, has_condition
from hack.nodes import Node
from tests.e2e import release, travellers
from tests.e2e.conftest import Kubectl
from tests.e2e.sleepers import Sleeper, fetch, never_disturbed
from tests.e2e.travellers import Call, as_stateful_set, moving, with_second

pytestmark = [pytest.mark.usefixtures("migration"), pytest.mark.timeout(900)]
_PORTS = {"app": 8080, "beside": 8081}
_ARRIVED = 'architect_migrations_arrived_total{outcome="arrived"}'
_FRESH = 'architect_migrations_arrived_total{outcome="fresh"}'
_LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{release.NAMESPACE}/leases/architect-controlplane"


@dataclass
class Member:
    """A pod that is drained, with what its containers answered, by name; and those that sleep."""

    pod: Sleeper
    uid: str
    said: dict[str, Call]
    asleep: set[str]


def leading(api: Api, nodes: list[Node]) -> tuple[Node, Node]:
    """The node with the replica that leads the control plane, and the other one."""
    held = api.await_object(_LEASE, lambda seen: seen["spec"].get("holderIdentity"))
    holder = held["spec"]["holderIdentity"].rpartition("_")[0]
    pod = api.get(f"/api/v1/namespaces/{release.NAMESPACE}/pods/{holder}")
    here = next(node for node in nodes if node.name == pod["spec"]["nodeName"])
    return here, next(node for node in nodes if node is not here)


def settled(api: Api, namespace: str, count: int, node: Node) -> list[Sleeper]:
    """All pods of the namespace, when there are so many, each ready, and on that node."""

    def there(pods: list[Object]) -> bool:
        places = {pod["spec"].get("nodeName") for pod in pods}
        return len(pods) == count and places == {node.name} and all(has_condition(p, "Ready") for p in pods)

    found = api.await_list(f"/api/v1/namespaces/{namespace}/pods", there, travellers.SECONDS)
    return sorted((Sleeper(api, namespace, pod["metadata"]["name"]) for pod in found), key=lambda p: p.name)


def members(node: Node, pods: list[Sleeper]) -> list[Member]:
    """The pods, each having been asked a different number of times."""
    found = []
    for number, pod in enumerate(pods, 1):
        names = [each["name"] for each in pod.read()["spec"]["containers"]]
        for name in names:
            travellers.await_listening(node, pod, _PORTS[name])
        said = {name: [travellers.call(node, pod, _PORTS[name]) for _ in range(number)][-1] for name in names}
        assert all(call.count == number for call in said.values())
        found.append(Member(pod, pod.read()["metadata"]["uid"], said, set()))
    return found


def drain(kubectl: Kubectl, node: Node, *options: str) -> None:
    """Returns when no pod is left there that may go."""
    options = (
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        f"--timeout={travellers.SECONDS:.0f}s",
        *options,
    )
    kubectl("drain", node.name, *options, timeout=travellers.SECONDS + 30)


def check_gone_on(api: Api, node: Node, before: list[Member], after: list[Sleeper]) -> None:
    """Each of `after` is one of `before`, as the records say, with all that it had; nobody is twice."""
    replaced = travellers.successors(api, after[0].namespace, len(before))
    by_uid = {pod.read()["metadata"]["uid"]: pod for pod in after}
    tokens = []
    for member in before:
        pod = by_uid.pop(replaced[member.uid])
        assert {
            name for name, each in travellers.statuses(node, pod).items() if each["wakes"] == 0
        } == member.asleep
        for name, said in member.said.items():
            now = travellers.call(node, pod, _PORTS[name])
            assert now == Call(said.token, said.count + 1), f"{member.pod.name} {name}"
            written = fetch(node, f"http://{pod.address}:{_PORTS[name]}/files").split()
            assert written == [said.token, said.token], f"files of {member.pod.name} {name}"
            tokens.append(now.token)
        assert never_disturbed(pod.read())
    assert not by_uid
    assert len(set(tokens)) == len(tokens)
    assert travellers.warnings(api, after[0].namespace) == []


def test_all_that_runs_and_sleeps_on_a_drained_node_goes_on_and_so_does_the_control_plane(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    here, there = leading(api, nodes)
    with travellers.closed(api, there):
        kubectl("apply", "-f", "-", stdin=moving("web", replicas=3))
        kubectl("apply", "-f", "-", stdin=as_stateful_set(moving("db", replicas=2)))
        kubectl("apply", "-f", "-", stdin=with_second(moving("pair")))
        before = members(here, settled(api, namespace, 6, here))
    for member in (before[0], before[2], before[-1]):  # db-0, the pair, a web
        member.pod.hibernate()
        member.asleep.add("app")
    counted = {name: travellers.metric(there, name) for name in (_ARRIVED, _FRESH)}
    try:
        drain(kubectl, here)
        after = settled(api, namespace, 6, there)
        check_gone_on(api, there, before, after)
        moved = sum(len(member.said) for member in before)
        assert travellers.metric(there, _ARRIVED) == counted[_ARRIVED] + moved
        assert travellers.metric(there, _FRESH) == counted[_FRESH]
    finally:
        travellers.cordon(api, here, closed=False)
    release.await_ready()


def test_ten_replicas_drained_at_once_are_not_mixed_up(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    here, there = leading(api, nodes)
    with travellers.closed(api, there):
        kubectl("apply", "-f", "-", stdin=moving("web", replicas=10))
        before = members(here, settled(api, namespace, 10, here))
    try:
        drain(kubectl, here, "--pod-selector=app=web")
        after = settled(api, namespace, 10, there)
        check_gone_on(api, there, before, after)
    finally:
        travellers.cordon(api, here, closed=False)
