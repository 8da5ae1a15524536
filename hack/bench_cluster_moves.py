"""How long a pod takes to go to another node with its memory, beside one that starts anew there.

Each is evicted from a node that takes no pods any more, back and forth. When its program stood still, and
since when it goes on, it says itself, by the clock that all have in common: no network is in that. Beside it
a client asks again and again, by the Service's address, and gives up on nobody for longer than a moment.
"""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

from architect.gate.netns import socket_in
from hack.api import Api, Object, has_condition
from hack.bench_cluster_pods import daemon_of, deployments, hibernate
from hack.bench_figures import Figures
from hack.bench_processes import pss, rss
from hack.control import await_true
from hack.nodes import Node
from tests.e2e import release
from tests.e2e.conftest import deployment, service
from tests.e2e.sleepers import Sleeper, fetch, pods_of, sleeping

_NEVER: Final = "24h"
"""Idle time of what only the bench puts to sleep."""
_TURNS: Final = 8
_LARGE_TURNS: Final = 3
_SECONDS: Final = 120.0
_PATIENCE_SECONDS: Final = 0.1
_GRACE: Final = 60
_LARGE_MB: Final = 1000
_MB: Final = 100
_MOVES: Final = "/apis/architect.loopholelabs.io/v1alpha1/namespaces/{}/migrations"


class _Client:
    """Asks the same again and again, and knows the longest time without an answer."""

    def __init__(self, node: Node, address: tuple[str, int]) -> None:
        self._where = f"/run/netns/{node.name}"
        self._address = address
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._answered = self.longest = 0.0
        """Seconds: when, by the monotonic clock; and the longest time in between."""
        self.count = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def await_more(self) -> None:
        """Wait until it has been answered a few times more."""
        before = self.count
        await_true(lambda: self.count > before + 3, "the client is answered")

    def _run(self) -> None:
        while not self._over.wait(0.005):
            try:
                self._ask()
            except OSError:
                continue
            now = time.monotonic()
            if self.count:
                self.longest = max(self.longest, now - self._answered)
            self._answered = now
            self.count += 1

    def _ask(self) -> None:
        with socket_in(self._where, socket.AF_INET, socket.SOCK_STREAM) as connection:
            connection.settimeout(_PATIENCE_SECONDS)
            connection.connect(self._address)
            connection.sendall(b"GET /pid HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            if connection.recv(1) != b"H":
                raise ConnectionError("it answered something else")


class _Moved:
    """A Deployment of one pod, and its Service, to be evicted again and again."""

    def __init__(self, api: Api, namespace: str, nodes: list[Node], made: Object) -> None:
        self._api = api
        self._namespace = namespace
        self._nodes = nodes
        self._name = str(made["metadata"]["name"])
        api.create(deployments(namespace), made)
        offered = api.create(f"/api/v1/namespaces/{namespace}/services", service(self._name))
        self._client_goes_to = (str(offered["spec"]["clusterIP"]), 80)

    def remove(self) -> None:
        """Returns when its pods are gone."""
        self._api.delete(f"{deployments(self._namespace)}/{self._name}")
        self._api.delete(f"/api/v1/namespaces/{self._namespace}/services/{self._name}")
        pods, selector = f"/api/v1/namespaces/{self._namespace}/pods", f"app={self._name}"
        self._api.await_list(pods, lambda found: not found, _SECONDS, labelSelector=selector)

    def pod(self) -> tuple[Sleeper, Node]:
        """Its pod, when that is alone and ready, and the node of that."""
        (pod,) = pods_of(self._api, self._namespace, self._name)
        name = pod.read()["spec"]["nodeName"]
        return pod, next(node for node in self._nodes if node.name == name)

    def answering(self) -> tuple[Sleeper, Node]:
        """The same, when it answers: all of its memory is there then."""
        pod, node = self.pod()
        address = pod.address

        def answers() -> bool:
            try:
                fetch(node, f"http://{address}:8080/stood")
            except subprocess.CalledProcessError:
                return False
            return True

        await_true(answers, f"{pod.name} answers")
        return pod, node

    @contextmanager
    def client(self) -> Iterator[_Client]:
        """Somebody who asks it all the time, from the first node."""
        with _Client(self._nodes[0], self._client_goes_to) as found:
            found.await_more()
            found.longest = 0.0
            yield found
            found.await_more()

    @contextmanager
    def evicted(self, pod: Sleeper, node: Node) -> Iterator[float]:
        """Its node takes no pods, and it is told to go: Unix seconds, just before that."""
        self._api.patch(f"/api/v1/nodes/{node.name}", {"spec": {"unschedulable": True}})
        try:
            metadata = {"name": pod.name, "namespace": pod.namespace}
            body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
            began = time.time()
            self._api.create(f"{pod.path}/eviction", body)
            yield began
            self._api.await_gone(pod.path, _SECONDS)
        finally:
            self._api.patch(f"/api/v1/nodes/{node.name}", {"spec": {"unschedulable": False}})

    def await_replaced(self, pod: Sleeper) -> None:
        """Wait until another pod of it is ready."""

        def ready(found: list[Object]) -> bool:
            return any(has_condition(each, "Ready") for each in found if each["metadata"]["name"] != pod.name)

        selector = f"app={self._name}"
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        self._api.await_list(path, ready, _SECONDS, labelSelector=selector)

    def await_arrived(self, pod: Sleeper) -> None:
        """Wait until what it left has arrived. Raises RuntimeError when it comes to nothing."""

        def over(found: list[Object]) -> str:
            mine = (each for each in found if each["spec"]["pod"]["name"] == pod.name)
            phase = str(next((each.get("status") or {} for each in mine), {}).get("phase") or "")
            if phase in ("Kept", "Lost"):
                raise RuntimeError(f"{pod.name} did not move: {found}")
            return phase if phase == "Arrived" else ""

        self._api.await_list(_MOVES.format(self._namespace), over, _SECONDS)


def moves(api: Api, namespace: str, nodes: list[Node], figures: Figures) -> None:
    """Everything that is measured of moves."""
    release.await_certified(nodes)
    _side_by_side(api, namespace, nodes, figures)
    _sleepers(api, namespace, nodes, figures)
    _live(api, namespace, nodes, figures)
    pid = daemon_of(nodes[0]).pid()
    figures.add("daemon_pss_migration", "MiB", pss(pid))
    figures.add("daemon_rss_migration", "MiB", rss(pid))


def _side_by_side(api: Api, namespace: str, nodes: list[Node], figures: Figures) -> None:
    """Of 100 MB: with its memory, and one that has none, in turns."""
    ours = _Moved(api, namespace, nodes, _sized("moved", _MB, managed=True))
    theirs = _Moved(api, namespace, nodes, _sized("plain", _MB, managed=False))
    for turn in range(_TURNS + 1):
        into = figures if turn else Figures()  # the first reads its files from the disk
        _moved(ours, "migrate_live_100mb", into)
        _replaced(theirs, "drain_100mb_runc", into)
    ours.remove()
    theirs.remove()


def _live(api: Api, namespace: str, nodes: list[Node], figures: Figures) -> None:
    moved = _Moved(api, namespace, nodes, _sized("large", _LARGE_MB, managed=True))
    for turn in range(_LARGE_TURNS + 1):
        _moved(moved, "migrate_live_1gb", figures if turn else Figures())
    moved.remove()


def _moved(moved: _Moved, name: str, figures: Figures) -> None:
    """From the eviction until its program goes on; how long that stood still, and its client waited."""
    pod, node = moved.answering()
    with moved.client() as client, moved.evicted(pod, node) as began:
        moved.await_arrived(pod)
        moved.await_replaced(pod)
    after, there = moved.pod()
    stood, went_on = map(float, fetch(there, f"http://{after.address}:8080/stood").split())
    if stood < began:
        raise RuntimeError(f"{after.name} has not stood still since {pod.name} was evicted: it began anew")
    figures.add(name, "ms", (went_on - began) * 1e3)
    figures.add(f"{name}_frozen", "ms", (went_on - stood) * 1e3)
    figures.add(f"{name}_gap", "ms", client.longest * 1e3)


def _replaced(plain: _Moved, name: str, figures: Figures) -> None:
    """From the eviction until its replacement is ready; how long its client waited."""
    pod, node = plain.answering()
    with plain.client() as client, plain.evicted(pod, node) as began:
        plain.await_replaced(pod)
        figures.add(name, "ms", (time.time() - began) * 1e3)
    figures.add(f"{name}_gap", "ms", client.longest * 1e3)


def _sleepers(api: Api, namespace: str, nodes: list[Node], figures: Figures) -> None:
    """From the eviction until the replacement sleeps as it did."""
    moved = _Moved(api, namespace, nodes, _sized("asleep", 0, managed=True))
    for turn in range(_TURNS + 1):
        into = figures if turn else Figures()
        pod, node = moved.answering()
        hibernate(daemon_of(node), pod)
        pod.await_label("SCALED_DOWN")
        with moved.evicted(pod, node) as began:
            moved.await_arrived(pod)
            into.add("migrate_sleeper", "ms", (time.time() - began) * 1e3)
    moved.remove()


def _sized(name: str, megabytes: int, *, managed: bool) -> Object:
    """A Deployment of one pod with a heap of that size."""
    memory = f"{megabytes * 5 // 4 + 150}Mi"
    container: dict[str, Any] = {
        "env": [{"name": "HEAP_MB", "value": str(megabytes)}],
        "resources": {"requests": {"cpu": "10m", "memory": "10Mi"}, "limits": {"cpu": "2", "memory": memory}},
    }
    made = sleeping(name, idle=_NEVER, **container) if managed else deployment(name, **container)
    made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = _GRACE
    return made
