"""What an owner, a cluster and bad luck do to sleepers: the right result, and nothing left on the node."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from typing import Any

import pytest

from hack import services
from hack.api import Api, Object
from hack.nodes import Node
from tests.e2e import release, sleepers
from tests.e2e.conftest import Kubectl
from tests.e2e.sleepers import Sleeper, app, fetch, known_to, never_disturbed, sleeping

pytestmark = pytest.mark.usefixtures("architect")
_LEFT = """
pods="%s"
for pod in $pods; do
  find /sys/fs/cgroup -type d -name "*$pod*" 2>/dev/null
  ls -d /var/lib/architect/pods/$pod /var/lib/kubelet/pods/$pod 2>/dev/null
done
exit 0
"""
_SHIMS = "ls /run/architect/shims 2>/dev/null | grep -c '[.]sock$' || true"
_MINUTE = 60.0
_PATIENCE = 180.0
"""Kubelet pauses up to a minute before it asks an API server again that was away for long."""
_KILL_DAEMON = "kill -9 $(pgrep -f '^python3 -m daemon ')"


def _await(what: str, holds: Any) -> None:
    """For what nobody tells: files and processes on a node."""
    deadline = time.monotonic() + 60
    while found := holds():
        assert time.monotonic() < deadline, f"{what}: {found}"
        time.sleep(0.3)


def _nothing_left(nodes: Iterable[Node], pods: Iterable[Object]) -> None:
    """Wait until nothing of these pods is on the nodes."""
    uids = " ".join(pod["metadata"]["uid"] for pod in pods)
    for node in nodes:
        _await(f"left on {node.name}", lambda node=node: node.run(["sh", "-c", _LEFT % uids]))


def _gone(api: Api, namespace: str, pods: Iterable[Sleeper]) -> None:
    for pod in pods:
        api.await_gone(pod.path)


def _many(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node], names: Iterable[str], **more: Any
) -> list[Sleeper]:
    """A sleeper by each name, spread over the nodes."""
    names = list(names)
    for number, name in enumerate(names):
        made = sleeping(name, node=nodes[number % len(nodes)], **more)
        kubectl("apply", "-f", "-", stdin=made)
    return [sleepers.pods_of(api, namespace, name)[0] for name in names]


def test_a_rolling_update_and_scaling_replace_sleepers_without_a_trace(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    kubectl("apply", "-f", "-", stdin=sleeping("web", replicas=2))
    first = sleepers.pods_of(api, namespace, "web", 2)
    before = [pod.await_asleep() for pod in first]
    kubectl("scale", "deployment/web", "--replicas=4")
    four = sleepers.pods_of(api, namespace, "web", 4)
    assert {pod.name for pod in first} < {pod.name for pod in four}
    assert all(never_disturbed(pod.read()) for pod in first)
    before += [pod.await_asleep() for pod in four if pod not in first]
    kubectl("set", "env", "deployment/web", "NEW=1")
    kubectl("rollout", "status", "deployment/web", "--timeout=120s")
    _gone(api, namespace, four)
    second = sleepers.pods_of(api, namespace, "web", 4)
    before += [pod.await_asleep() for pod in second]
    kubectl("scale", "deployment/web", "--replicas=0")
    _gone(api, namespace, second)
    _nothing_left(nodes, before)


def test_deleted_asleep_falling_asleep_waking_or_evicted_it_is_gone_without_a_trace(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    env = [{"name": "HEAP_MB", "value": "60"}]
    asleep, falling, waking, evicted = _many(
        api, kubectl, namespace, nodes, ("asleep", "falling", "waking", "evicted"), env=env, idle="1h"
    )
    everyone = [asleep, falling, waking, evicted]
    seen = [pod.read() for pod in everyone]
    for pod in (asleep, waking, evicted):
        pod.hibernate()
        pod.await_asleep()
    # Their owners go first, so that nothing takes their place.
    for name in ("asleep", "falling", "waking", "evicted"):
        kubectl("delete", f"deployment/{name}", "--cascade=orphan")
        kubectl("delete", "replicaset", f"--selector=app={name}", "--cascade=orphan")
    started = [
        subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for argv in (
            ["curl", "--silent", "--max-time", "20", f"http://{waking.address}:8080/"],
            ["python3", "-c", "from architect.cli import kubectl; kubectl()", "hibernate",
             f"--namespace={namespace}", f"{falling.name}/app"],
        )
    ]  # fmt: skip
    for pod in (asleep, falling, waking):
        api.delete(pod.path)
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": evicted.name, "namespace": namespace},
    }
    api.create(f"{evicted.path}/eviction", eviction)
    for each in started:
        each.wait(timeout=60)
    _gone(api, namespace, everyone)
    _nothing_left(nodes, seen)


@pytest.mark.timeout(600)
def test_without_the_api_server_for_a_minute_pods_sleep_and_wake_and_afterwards_all_is_told(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    # Turning sleeps and wakes all the time, woken wakes and stays awake, dozing falls asleep.
    ((turning, here), (woken, there), (dozing, _)) = everyone = [
        (_many(api, kubectl, namespace, [node], [name], idle=idle)[0], node)
        for name, node, idle in (
            ("turning", nodes[0], "2s"),
            ("woken", nodes[1], "1h"),
            ("dozing", nodes[0], "10s"),
        )
    ]
    addresses = {pod: pod.address for pod, _ in everyone}
    woken.hibernate()
    for pod in (turning, woken):
        pod.await_asleep()
    for pod, node in everyone[:2]:
        pod.await_events(known_to(node, pod))
    with dozing.held_awake():
        dozing.await_awake()
        dozing.await_events(known_to(here, dozing))
    services.kill("kube-apiserver")
    try:
        until = time.monotonic() + _MINUTE
        assert fetch(here, f"http://{addresses[woken]}:8080/") == "1\n"
        answers = 0
        while time.monotonic() < until:
            before = known_to(here, turning)["sleeps"]
            answers += 1
            assert fetch(there, f"http://{addresses[turning]}:8080/") == f"{answers}\n"
            _await("turning is awake", lambda: known_to(here, turning)["sleeps"] == before)  # noqa: B023
        assert known_to(here, dozing)["state"] == "SCALED_DOWN"
    finally:
        services.start("kube-apiserver")
        api.await_ready()
    woken.await_label("RUNNING", _PATIENCE)
    woken.await_requests(sleepers.LIMITS["requests"], _PATIENCE)
    for pod in (turning, dozing):
        pod.await_asleep(_PATIENCE)
    for pod, node in everyone:
        pod.await_events(known_to(node, pod), _PATIENCE)
        # Its node may have been given up for a moment: nothing was heard of it for so long.
        api.await_object(pod.path, never_disturbed, _PATIENCE)
    assert turning.reasons()["ScaleUpCompleted"] == answers
    assert fetch(there, f"http://{addresses[turning]}:8080/") == f"{answers + 1}\n"
    turning.await_awake(_PATIENCE)


def test_daemon_containerd_and_kubelet_may_be_killed_while_pods_sleep(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    pods = _many(api, kubectl, namespace, nodes, ("one", "two"))
    addresses = [pod.address for pod in pods]
    for pod in pods:
        pod.await_asleep()
    for node in nodes:
        node.run(["sh", "-c", _KILL_DAEMON])
        node.kill("kubelet", "containerd")
    for node, address in zip(reversed(nodes), addresses, strict=True):
        assert fetch(node, f"http://{address}:8080/") == "1\n", "its shim wakes it by itself"
    for node in nodes:
        node.start("containerd", "kubelet")
    release.await_ready()
    for pod in pods:
        pod.await_asleep()
        pod.await_reason("ScaleDownCompleted", 2)
        assert app(pod.read())["restartCount"] == 0
    for node, address in zip(reversed(nodes), addresses, strict=True):
        assert fetch(node, f"http://{address}:8080/") == "2\n"


def test_a_webhook_that_is_killed_delays_only_those_who_ask(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    for node in nodes:
        node.run(["pkill", "-KILL", "-f", "^python3 -m webhook "])
    (pod,) = _many(api, kubectl, namespace, nodes, ("asks",))  # its ReplicaSet tries until it is heard
    pod.await_asleep()
    release.await_ready()
