"""A Deployment gets one label: it sleeps when nobody uses it, wakes when somebody does, and is the same."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from hack.api import Api, Object
from hack.nodes import Node
from tests.e2e import sleepers
from tests.e2e.conftest import Kubectl, service
from tests.e2e.sleepers import Sleeper, fetch, known_to, never_disturbed, ready_since, sleeping

pytestmark = pytest.mark.usefixtures("architect")
_NAMES: Final = ("first", "second")
_SLEEPS: Final = 10
_HEAP: Final = 60e6


@pytest.fixture
def pair(api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]) -> Iterator[list[Sleeper]]:
    """A sleeper on each node, with a Service each; at the end, as undisturbed as at the beginning."""
    for name, node in zip(_NAMES, nodes, strict=True):
        kubectl("apply", "-f", "-", stdin=sleeping(name, node=node))
        kubectl("apply", "-f", "-", stdin=service(name))
    pods = [sleepers.pods_of(api, namespace, name)[0] for name in _NAMES]
    since = [ready_since(pod.read()) for pod in pods]
    yield pods
    for pod, began in zip(pods, since, strict=True):
        seen = pod.read()
        assert never_disturbed(seen)
        assert ready_since(seen) == began, "it was not ready for a moment"


def _cluster_ip(api: Api, namespace: str, name: str) -> str:
    return str(api.get(f"/api/v1/namespaces/{namespace}/services/{name}")["spec"]["clusterIP"])


def test_it_sleeps_and_says_so(pair: list[Sleeper]) -> None:
    for pod in pair:
        seen = pod.await_asleep()
        assert never_disturbed(seen)
        assert seen["spec"]["containers"][0]["resources"]["requests"] == sleepers.NOTHING
        assert seen["spec"]["containers"][0]["resources"]["limits"] == sleepers.LIMITS["limits"]
        assert seen["metadata"]["annotations"][f"{sleepers.PREFIX}/cpu-requests"] == '{"app":"100m"}'
        assert seen["metadata"]["annotations"][f"{sleepers.PREFIX}/memory-requests"] == '{"app":"60Mi"}'
        for reason in ("CheckpointCreated", "ScaleDownCompleted"):
            pod.await_reason(reason)


def test_whoever_needs_it_wakes_it_and_finds_it_as_it_was(
    pair: list[Sleeper], api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    services = [f"http://{_cluster_ip(api, namespace, name)}/" for name in _NAMES]
    others = list(reversed(nodes))
    for expected, by in enumerate(("service", "address", "port-forward", "exec"), 1):
        for pod in pair:
            pod.await_asleep()
        for pod, url, other in zip(pair, services, others, strict=True):
            direct = f"http://{pod.address}:8080/"
            if by == "service":
                answer = fetch(other, url)
            elif by == "address":
                answer = fetch(other, direct)
            elif by == "port-forward":
                with (
                    sleepers.port_forward(namespace, pod.name) as forwarded,
                    urllib.request.urlopen(forwarded, timeout=30) as response,
                ):
                    answer = response.read().decode()
            else:
                assert kubectl("exec", pod.name, "--", "cat", "/etc/hostname") == f"{pod.name}\n"
                answer = fetch(other, direct)
            assert answer == f"{expected}\n", f"woken by {by}, it has forgotten"
            pod.await_reason("ScaleUpCompleted")
        for pod in pair:
            assert never_disturbed(pod.await_awake())


def test_its_log_has_no_gap(pair: list[Sleeper], kubectl: Kubectl, nodes: list[Node]) -> None:
    for _ in range(2):
        for pod in pair:
            pod.await_asleep()
            fetch(nodes[0], f"http://{pod.address}:8080/log?n=3")
    for pod in pair:
        assert kubectl("logs", pod.name) == "listening\n" + "".join(f"line {n}\n" for n in range(1, 7))


def test_after_a_wake_people_get_into_it(
    pair: list[Sleeper], kubectl: Kubectl, namespace: str, nodes: list[Node], tmp_path: object
) -> None:
    for pod in pair:
        pod.await_asleep()
    for pod in pair:
        source, back = f"{tmp_path}/file", f"{tmp_path}/back"
        with open(source, "w", encoding="utf-8") as file:
            file.write(pod.name)
        kubectl("cp", source, f"{pod.name}:/app/file")
        kubectl("cp", f"{pod.name}:/app/file", back)
        with open(back, encoding="utf-8") as file:
            assert file.read() == pod.name
        assert _attached(namespace, pod, nodes[0]) == "line 1\n"
        assert fetch(nodes[0], f"http://{pod.address}:8080/") == "1\n"


def test_after_a_wake_a_debugger_gets_into_it(
    pair: list[Sleeper], kubectl: Kubectl, nodes: list[Node]
) -> None:
    look = ["/usr/bin/python3", "-c", "print(open('/proc/1/cmdline').read())"]
    for pod in pair:
        pod.await_asleep()
        assert fetch(nodes[0], f"http://{pod.address}:8080/") == "1\n"
        kubectl("debug", pod.name, "--image=local/web:1", "--target=app", "--container=look", "--", *look)
        pod.api.await_object(pod.path, lambda seen: "terminated" in _debugger(seen))
        assert "/app/web.py" in kubectl("logs", pod.name, "--container=look")


def _debugger(pod: Object) -> Object:
    (status,) = pod["status"].get("ephemeralContainerStatuses") or [{"state": {}}]
    state: Object = status["state"]
    return state


def _attached(namespace: str, pod: Sleeper, node: Node) -> str:
    argv = ["kubectl", f"--namespace={namespace}", "attach", pod.name, "--container=app"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as attached:
        try:
            assert attached.stdout
            assert attached.stderr
            attached.stderr.readline()  # how to see the beginning: it is attached
            fetch(node, f"http://{pod.address}:8080/log?n=1")
            return attached.stdout.readline()
        finally:
            attached.terminate()


@pytest.mark.timeout(600)
def test_over_ten_sleeps_its_memory_is_gone_each_time_and_its_cpu_counter_never_goes_back(
    pair: list[Sleeper], api: Api, nodes: list[Node]
) -> None:
    meters = [_Meter(api, node, pod) for node, pod in zip(nodes, pair, strict=True)]
    for meter, pod in zip(meters, pair, strict=True):
        with pod.held_awake():
            fetch(nodes[0], f"http://{pod.address}:8080/heap?mb=60")
            meter.await_memory(lambda found: found > _HEAP)
    for number in range(1, _SLEEPS + 1):
        for meter, pod in zip(meters, pair, strict=True):
            assert fetch(nodes[0], f"http://{pod.address}:8080/") == f"{number}\n"
            meter.began = time.time()
        for meter in meters:
            meter.await_memory(lambda found: found < _HEAP / 2)
    for node, pod in zip(nodes, pair, strict=True):
        assert known_to(node, pod)["sleeps"] >= _SLEEPS


class _Meter:
    """What kubelet's /metrics/resource says of a pod's container, which is one and the same all the time."""

    def __init__(self, api: Api, node: Node, pod: Sleeper) -> None:
        self._api = api
        self._node = node
        self._pod = pod
        self._cpu = 0.0
        self._started = 0.0
        self.began = 0.0
        """Only what kubelet measured later counts, in Unix time."""

    def await_memory(self, wanted: Callable[[float], bool]) -> None:
        """Wait until kubelet has measured such a working set."""
        deadline = time.monotonic() + 60
        while not (found := self._read()) or not wanted(found):
            assert time.monotonic() < deadline, f"kubelet still sees {found / 1e6:.0f} MB of {self._pod.name}"
            time.sleep(0.5)  # kubelet measures from time to time, and tells nobody

    def _read(self) -> float:
        """The working set; 0 if it has not been measured since."""
        path = f"/api/v1/nodes/{self._node.name}/proxy/metrics/resource"
        mine = f'container="app",namespace="{self._pod.namespace}",pod="{self._pod.name}"'
        rows = [line.split() for line in self._api.text(path).splitlines() if mine in line]
        found = {row[0].partition("{")[0]: [float(each) for each in row[1:]] for row in rows}
        if not found:
            return 0.0
        cpu, started = (
            found[f"container_{name}"][0] for name in ("cpu_usage_seconds_total", "start_time_seconds")
        )
        assert cpu >= self._cpu
        assert started == (self._started or started)
        self._cpu, self._started = cpu, started
        memory, milliseconds = found["container_memory_working_set_bytes"]
        return memory if milliseconds / 1000 > self.began else 0.0


def test_the_node_can_give_away_what_it_requested(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    memory = api.get(f"/api/v1/nodes/{nodes[0].name}")["status"]["allocatable"]["memory"]
    most = f"{int(memory.removesuffix('Ki')) * 6 // 10}Ki"
    # More than half: for two there is room only while the first asks for nothing.
    resources = {"requests": {"cpu": "100m", "memory": most}, "limits": {"cpu": "1", "memory": memory}}
    kubectl("apply", "-f", "-", stdin=sleeping("large", node=nodes[0], resources=resources))
    (pod,) = sleepers.pods_of(api, namespace, "large")
    pod.await_asleep()
    kubectl("apply", "-f", "-", stdin=sleeping("other", node=nodes[0], resources=resources, idle="1h"))
    sleepers.pods_of(api, namespace, "other")
