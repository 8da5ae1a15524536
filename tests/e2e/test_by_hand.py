"""Pods are moved on purpose and are not told to end by it; what they came without they get by one command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from architect.hooks import PRE_STOP
from hack.api import Api, Object
from hack.nodes import Node
from tests.e2e import release, sleepers
from tests.e2e.conftest import Kubectl
from tests.e2e.sleepers import Sleeper, fetch, known_to, never_disturbed, sleeping

pytestmark = [pytest.mark.usefixtures("migration"), pytest.mark.timeout(600)]
_CLI = ("python3", "-c", "from architect.cli import kubectl; kubectl()")
_TOLD = "/var/lib/told"
_HOOK = "import os; open('/told/' + os.environ['HOSTNAME'], 'w').close()"
_SERVE = (
    "import itertools, sys; sys.path.insert(0, '/app'); from service import serve; "
    "calls = itertools.count(1); serve({'/': lambda *_: f'{next(calls)}\\n'})"
)
_IMAGE, _OTHER, _ASIDE = (f"docker.io/local/{name}" for name in ("busy:1", "udp:1", "busy:aside"))


@contextmanager
def cordoned(kubectl: Kubectl, node: Node) -> Iterator[None]:
    """Meanwhile no pod comes to the node."""
    kubectl("cordon", node.name)
    try:
        yield
    finally:
        kubectl("uncordon", node.name)


def architect(namespace: str, *arguments: str) -> list[Object]:
    """The migrations that a command of `kubectl architect` tells of."""
    told = release.run(*_CLI, *arguments, f"--namespace={namespace}", "--json")
    found: list[Object] = json.loads(told)["migrations"]
    return found


def patient(made: Object) -> Object:
    """The same with time to be moved in."""
    made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 30
    return made


def home(pod: Sleeper, nodes: list[Node]) -> tuple[Node, Node]:
    """The node that the pod is on, and the other one."""
    here = next(node for node in nodes if node.name == pod.read()["spec"]["nodeName"])
    return here, next(node for node in nodes if node is not here)


def count(node: Node, pod: Sleeper) -> int:
    """What the counter in its memory says next."""
    return int(fetch(node, f"http://{pod.address}:8080/"))


def told(node: Node) -> list[str]:
    """The pods whose preStop hooks have run there."""
    return node.run(["sh", "-c", f"mkdir -p {_TOLD} && ls {_TOLD}"]).split()


def hooked(name: str, **wanted: Any) -> Object:
    """A Deployment whose preStop hook leaves a file on the node."""
    hook = {"preStop": {"exec": {"command": ["/usr/bin/python3", "-c", _HOOK]}}}
    mounts = [{"name": "told", "mountPath": "/told"}]
    made = patient(sleeping(name, lifecycle=hook, volumeMounts=mounts, **wanted))
    volume = {"name": "told", "hostPath": {"path": _TOLD, "type": "DirectoryOrCreate"}}
    made["spec"]["template"]["spec"]["volumes"] = [volume]
    return made


@pytest.mark.parametrize("asleep", [False, True])
def test_what_moves_is_not_told_to_end_and_what_is_scaled_away_is(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node], asleep: bool
) -> None:
    kubectl("apply", "-f", "-", stdin=hooked("web", idle="2s" if asleep else "1h"))
    (before,) = sleepers.pods_of(api, namespace, "web")
    here, there = home(before, nodes)
    assert count(there, before) == 1
    by_hand = ("exec", before.name, "--", PRE_STOP, "/usr/bin/python3", "-c", "print('ran')")
    assert kubectl(*by_hand) == "ran\n", "that word alone ends nothing, and keeps nothing from moving"
    if asleep:
        before.await_asleep()
    with cordoned(kubectl, here):
        (move,) = architect(namespace, "migrate", before.name, "--wait")
        assert (move["state"], move["to"], move["asleep"]) == ("Arrived", there.name, asleep)
        (after,) = sleepers.pods_of(api, namespace, "web")
        if asleep:
            after.await_label("SCALED_DOWN")
            assert known_to(there, after)["wakes"] == 0
        assert count(here, after) == 2
        assert before.name not in told(here)
        assert after.name not in told(there)
        kubectl("scale", "deployment/web", "--replicas=0")
        api.await_gone(after.path)
        assert after.name in told(there)


def test_what_would_not_move_is_not_evicted(api: Api, kubectl: Kubectl, namespace: str) -> None:
    made = sleeping("web", idle="1h")["spec"]["template"]
    bare = {"apiVersion": "v1", "kind": "Pod", **made, "metadata": {**made["metadata"], "name": "bare"}}
    del bare["spec"]["topologySpreadConstraints"]
    kubectl("apply", "-f", "-", stdin=bare)
    pod = Sleeper(api, namespace, "bare")
    pod.await_label("RUNNING")
    refused = release.failed(*_CLI, "migrate", "bare", f"--namespace={namespace}")
    assert f"pod {namespace}/bare would not move: nobody replaces it: it has no owner" in refused
    assert "deletionTimestamp" not in pod.read()["metadata"]


@contextmanager
def other_image(node: Node) -> Iterator[None]:
    """Meanwhile the node has another image by the same name."""
    ctr = ["ctr", "--namespace=k8s.io", "images"]
    node.run([*ctr, "tag", "--force", _IMAGE, _ASIDE])
    node.run([*ctr, "tag", "--force", _OTHER, _IMAGE])
    try:
        yield
    finally:
        node.run([*ctr, "tag", "--force", _ASIDE, _IMAGE])
        node.run([*ctr, "remove", _ASIDE])


def test_memory_does_not_go_on_in_another_image_and_is_given_back_by_one_command(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    command = ["/usr/bin/python3", "-B", "-c", _SERVE]
    kubectl("apply", "-f", "-", stdin=patient(sleeping("web", "busy", idle="1h", command=command)))
    (before,) = sleepers.pods_of(api, namespace, "web")
    here, there = home(before, nodes)
    assert [count(here, before) for _ in range(3)] == [1, 2, 3]
    with cordoned(kubectl, here):
        with other_image(there):
            kubectl("delete", "pod", before.name)
            (fresh,) = sleepers.pods_of(api, namespace, "web")
            fresh.await_reason("MigrationFailed")
        assert count(there, fresh) == 1
        (move,) = architect(namespace, "migrations")
        assert (move["state"], move["replacement"]) == ("Kept", fresh.name)
        assert "its image is another one here by the same name (sha256:" in move["reason"]
        (move,) = architect(namespace, "restore", fresh.name, "--yes", "--wait")
        assert (move["state"], move["pod"], move["from"]) == ("Arrived", before.name, here.name)
        (after,) = sleepers.pods_of(api, namespace, "web")
        assert count(there, after) == 4
        assert never_disturbed(after.read())
        assert before.reasons()["MigrationStarted"] == 1
        assert after.reasons()["MigrationCompleted"] == 1
        assert fresh.reasons()["MigrationFailed"] == 1
