"""Pods that move from node to node and back, again and again: memory, clients, clocks."""

from __future__ import annotations

import http.client
import json
import math
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

import pytest

from hack.api import Api, Object, has_condition
from hack.nodes import Node
from tests.e2e import sleepers, travellers
from tests.e2e.conftest import Kubectl, service
from tests.e2e.sleepers import Sleeper, fetch
from tests.e2e.travellers import moving

pytestmark = [pytest.mark.usefixtures("migration"), pytest.mark.timeout(1500)]
_MOVES = 50
_MEGABYTES = 100
_CONNECT_SECONDS = 0.3
_ANSWER_SECONDS = 1.5
"""On a node that is short of processors, too: not to answer is what is looked for."""
_PAUSE_SECONDS = 0.02
_DAY = 24 * 3600.0


def move(api: Api, pod: Sleeper, nodes: list[Node]) -> tuple[Sleeper, Node]:
    """Evicts it; the pod that replaces it on the other node, ready, and that node."""
    seen = pod.read()
    here = next(node for node in nodes if node.name == seen["spec"]["nodeName"])
    there = next(node for node in nodes if node is not here)
    travellers.cordon(api, there, closed=False)
    with travellers.closed(api, here):
        travellers.evict(api, pod)
        return replacement(api, pod, seen), there


def replacement(api: Api, pod: Sleeper, before: Object) -> Sleeper:
    """The pod of the same owner that is ready, and is not this one."""

    def ready(pods: list[Object]) -> list[Object]:
        # Those that were told to go before it may still be there, and ready.
        here = [each for each in pods if "deletionTimestamp" not in each["metadata"]]
        others = [each for each in here if each["metadata"]["uid"] != before["metadata"]["uid"]]
        return [each for each in others if has_condition(each, "Ready")]

    found = api.await_list(
        f"/api/v1/namespaces/{pod.namespace}/pods", ready, travellers.SECONDS,
        labelSelector=f"app={before['metadata']['labels']['app']}",
    )  # fmt: skip
    (after,) = ready(found)
    return Sleeper(api, pod.namespace, after["metadata"]["name"])


@dataclass
class Client:
    """Asks a Service all the time, on a new connection each, and again at once when there is no answer."""

    address: str
    answers: list[tuple[float, str, int]] = field(default_factory=list)
    """When it came, the token, the count."""
    errors: list[tuple[float, str]] = field(default_factory=list)
    """When, and what was said instead of an answer."""
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def _ask(self) -> None:
        while not self._ended.wait(_PAUSE_SECONDS):
            connection = http.client.HTTPConnection(self.address, 80, timeout=_CONNECT_SECONDS)
            try:
                connection.connect()
                connection.sock.settimeout(_ANSWER_SECONDS)
                connection.request("GET", "/")
                response = connection.getresponse()
                token, count = response.read().decode().split()
                self.answers.append((time.monotonic(), token, int(count)))
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.errors.append((time.monotonic(), repr(error)))
            finally:
                connection.close()

    def gaps(self) -> list[Gap]:
        """Each run of errors between two answers."""
        found = []
        for (before, *_), (after, *_) in pairwise(self.answers):
            said = [error for moment, error in self.errors if before < moment < after]
            if said:
                found.append(Gap(before, after - before, said))
        return found


@dataclass
class Gap:
    """From when on there were errors instead of answers, for how many seconds, and which."""

    since: float
    seconds: float
    errors: list[str]


def test_a_hundred_changing_megabytes_are_intact_after_each_of_fifty_moves(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    env = [{"name": "LEDGER_MB", "value": str(_MEGABYTES)}]
    kubectl("apply", "-f", "-", stdin=moving("web", env=env, resources=_resources()))
    kubectl("apply", "-f", "-", stdin=service("web"))
    address = api.get(f"/api/v1/namespaces/{namespace}/services/web")["spec"]["clusterIP"]
    (pod,) = sleepers.pods_of(api, namespace, "web")
    node = next(node for node in nodes if node.name == pod.read()["spec"]["nodeName"])
    travellers.await_listening(node, pod)
    token, written = fetch(node, f"http://{pod.address}:8080/check").split()
    took, began = [], []
    with Client(address) as client:
        for number in range(1, _MOVES + 1):
            began.append(time.monotonic())
            pod, node = move(api, pod, nodes)
            took.append(time.monotonic() - began[-1])
            same, more = fetch(node, f"http://{pod.address}:8080/check").split()
            assert same == token, f"move {number}: it is another one"
            assert int(more) > int(written), f"move {number}: its memory stands still"
            written = more
            heard = len(client.answers) + 2  # by its Service again, before it moves on
            while len(client.answers) < heard:
                time.sleep(_PAUSE_SECONDS)  # it asks all the time
    travellers.successors(api, namespace, _MOVES)
    assert {each for _, each, _ in client.answers} == {token}
    counts = [count for *_, count in client.answers]
    assert counts == sorted(set(counts)), "an answer was given twice, or counting went back"
    gaps = client.gaps()
    _report("seconds from eviction to Ready", took)
    single = [gap for gap in gaps if len(gap.errors) == 1]
    print(f"\n{len(single)} tries failed alone: {single}", flush=True)  # noqa: T201  a slow machine's
    gaps = [gap for gap in gaps if len(gap.errors) > 1]
    _report("gap of a client", [gap.seconds for gap in gaps])
    of_moves = [
        [gap for gap in gaps if one <= gap.since < other] for one, other in pairwise([*began, math.inf])
    ]
    assert all(len(each) <= 1 for each in of_moves), [each for each in of_moves if len(each) > 1]
    assert travellers.warnings(api, namespace) == []


def _resources() -> Object:
    return {"requests": {"cpu": "100m", "memory": "160Mi"}, "limits": {"cpu": "1", "memory": "400Mi"}}


def _report(what: str, seconds: list[float]) -> None:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    told = f"p50 {cuts[49]:.2f}, p99 {cuts[98]:.2f}, worst {max(seconds):.2f} s"
    print(f"\n{what} ({len(seconds)}): {told}", flush=True)  # noqa: T201  what was measured


def uptime(node: Node) -> dict[str, float]:
    """What the clocks of a node say."""
    script = "import time; print(time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))"
    monotonic, boottime = node.run(["python3", "-IS", "-c", script]).split()
    return {"monotonic": float(monotonic), "boottime": float(boottime)}


def test_clocks_stand_still_on_the_way_and_never_jump_whichever_nodes_were_booted_first(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    ahead = {name: abs(uptime(nodes[1])[name] - uptime(nodes[0])[name]) for name in ("monotonic", "boottime")}
    assert min(ahead.values()) > _DAY, "the nodes could not be told apart"
    kubectl("apply", "-f", "-", stdin=moving("clocks", "clocks"))
    (pod,) = sleepers.pods_of(api, namespace, "clocks")
    node = next(node for node in nodes if node.name == pod.read()["spec"]["nodeName"])
    travellers.await_listening(node, pod)
    for asleep in (False, False, True, True):
        began = time.monotonic()
        before = clocks(node, pod)
        fetch(node, f"http://{pod.address}:8080/alarm?seconds=4")
        if asleep:
            pod.hibernate()
        pod, node = move(api, pod, nodes)
        late = float(fetch(node, f"http://{pod.address}:8080/rung"))
        after = clocks(node, pod)
        passed = time.monotonic() - began
        assert 0 <= late < passed, f"on {node.name} an alarm rang {late} s late"
        for name in ("monotonic", "boottime"):
            on = after["now"][name] - before["now"][name]
            assert 0 < on < passed, f"on {node.name} {name} went on by {on} s in {passed} s"
            assert after["back"][name] == 0
            assert after["longest"][name] < passed
    travellers.successors(api, namespace, 4)
    assert travellers.warnings(api, namespace) == []


def clocks(node: Node, pod: Sleeper) -> Any:
    """What the clocks of the pod's `clocks` say and have done; each of its timers still ticks."""
    try:
        return json.loads(fetch(node, f"http://{pod.address}:8080/clocks"))
    except subprocess.CalledProcessError:
        ticks = [fetch(node, f"http://{pod.address}:8080/ticks") for _ in range(2)]
        pytest.fail(f"not all timers of {pod.name} on {node.name} tick: {ticks}")
