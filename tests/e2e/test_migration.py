"""Nodes are drained: what ran or slept there goes on, on the other node, where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hack.api import Api, Object
from hack.nodes import Node
from tests.e2e import release, sleepers
from tests.e2e.conftest import Kubectl
from tests.e2e.sleepers import Sleeper, fetch, known_to, never_disturbed, sleeping

pytestmark = [pytest.mark.usefixtures("migration"), pytest.mark.timeout(900)]
_GRACE = 30
_CLI = "from architect.cli import kubectl; kubectl()"
_SECONDS = 120.0


@contextmanager
def drained(kubectl: Kubectl, node: Node, selector: str) -> Iterator[None]:
    """The pods of `selector` are evicted from a node, and gone from it; it takes pods again at the end."""
    try:
        options = ("--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={_SECONDS:.0f}s")
        kubectl("drain", node.name, f"--pod-selector={selector}", *options, timeout=_SECONDS + 30)
        yield
    finally:
        kubectl("uncordon", node.name)


def moving(name: str, **wanted: Any) -> Object:
    """A Deployment whose pods move."""
    made = sleeping(name, **wanted)
    made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = _GRACE
    return made


def home(pod: Sleeper, nodes: list[Node]) -> tuple[Node, Node]:
    """The node that the pod is on, and the other one."""
    here = next(node for node in nodes if node.name == pod.read()["spec"]["nodeName"])
    return here, next(node for node in nodes if node is not here)


def count(node: Node, pod: Sleeper, port: int = 8080) -> int:
    """What the counter in its memory says next."""
    return int(fetch(node, f"http://{pod.address}:{port}/"))


def test_a_running_pod_counts_on_where_its_node_was_drained(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    kubectl("apply", "-f", "-", stdin=moving("web", idle="1h", env=[{"name": "HEAP_MB", "value": "20"}]))
    (before,) = sleepers.pods_of(api, namespace, "web")
    here, there = home(before, nodes)
    assert [count(here, before) for _ in range(3)] == [1, 2, 3]
    with drained(kubectl, here, "app=web"):
        (after,) = sleepers.pods_of(api, namespace, "web")
        assert home(after, nodes) == (there, here)
        assert count(here, after) == 4
        assert never_disturbed(after.read())
        after.await_reason("MigrationCompleted")
        told = release.run("python3", "-c", _CLI, "migrations", f"--namespace={namespace}", "--json")
        (move,) = json.loads(told)["migrations"]
        assert (move["from"], move["to"], move["state"]) == (here.name, there.name, "Arrived")
        assert move["received"] == move["bytes"] > 20e6
        assert 0 < move["freeze_us"] < move["seconds"] * 1e6


def test_a_sleeper_arrives_asleep_and_wakes_there_with_its_memory(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    kubectl("apply", "-f", "-", stdin=moving("web"))
    (before,) = sleepers.pods_of(api, namespace, "web")
    here, there = home(before, nodes)
    assert count(there, before) == 1
    before.await_asleep()
    with drained(kubectl, here, "app=web"):
        (after,) = sleepers.pods_of(api, namespace, "web")
        assert home(after, nodes) == (there, here)
        after.await_reason("MigrationCompleted")
        after.await_label("SCALED_DOWN")
        assert known_to(there, after)["wakes"] == 0
        assert count(here, after) == 2
        assert never_disturbed(after.read())


_BESIDE = (
    "import itertools, sys; sys.path.insert(0, '/app'); from service import serve; "
    "calls = itertools.count(1); serve({'/': lambda *_: f'{next(calls)}\\n'}, 8081)"
)
_WRITE = "open('/written', 'w').write('in the layer'); open('/cache/written', 'w').write('in the volume')"
_READ = "print(open('/written').read(), open('/cache/written').read())"


def test_all_containers_of_a_stateful_set_s_pod_move_with_their_files(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    made = moving("db", idle="1h", volumeMounts=[{"name": "cache", "mountPath": "/cache"}])
    made["kind"] = "StatefulSet"
    made["spec"]["serviceName"] = "db"
    template = made["spec"]["template"]
    template["metadata"]["annotations"][f"{sleepers.PREFIX}/scaledown-durations"] = json.dumps(
        {"app": "1h", "beside": "1h"}
    )
    template["spec"]["volumes"] = [{"name": "cache", "emptyDir": {}}]
    (first,) = template["spec"]["containers"]
    beside = {"name": "beside", "ports": [{"containerPort": 8081}]}
    beside["command"] = ["/usr/bin/python3", "-B", "-c", _BESIDE]
    template["spec"]["containers"].append({**first, **beside})
    kubectl("apply", "-f", "-", stdin=made)
    (before,) = sleepers.pods_of(api, namespace, "db")
    here, there = home(before, nodes)
    both = (8080, 8081)
    assert [count(here, before, port) for port in both] == [1, 1]
    assert [count(here, before, port) for port in both] == [2, 2]
    python = ("exec", "db-0", "--container=app", "--", "/usr/bin/python3", "-c")
    kubectl(*python, _WRITE)
    with drained(kubectl, here, "app=db"):
        (after,) = sleepers.pods_of(api, namespace, "db")
        assert after.name == "db-0"
        assert home(after, nodes) == (there, here)
        assert [count(here, after, port) for port in both] == [3, 3]
        assert kubectl(*python, _READ) == "in the layer in the volume\n"
        assert never_disturbed(after.read())
