"""kubelet probes sleepers of every kind: they sleep on and are well; one that hangs awake is restarted."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from hack.api import Api
from hack.certificates import Authority
from hack.control import await_true
from hack.nodes import Node
from tests.e2e import release, sleepers
from tests.e2e.conftest import Kubectl
from tests.e2e.sleepers import Sleeper, app, fetch, known_to, never_disturbed, sleeping

pytestmark = pytest.mark.usefixtures("architect")
_OFTEN: Final = {"periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 3}
_KINDS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "web": {
        "livenessProbe": {"httpGet": {"path": "/", "port": 8080}},
        "readinessProbe": {"httpGet": {"path": "/", "port": 8443, "scheme": "HTTPS"}},
    },
    "rpc": {
        "livenessProbe": {"grpc": {"port": 9090}},
        "readinessProbe": {"tcpSocket": {"port": 8080}},
    },
    "exec": {"livenessProbe": {"exec": {"command": ["/usr/bin/python3", "-IS", "-c", "pass"]}}},
}
_SLEEPS: Final = 3
_PROBES: Final = 3


@pytest.fixture
def probed(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node], tmp_path: Path
) -> Callable[[], dict[str, tuple[Node, Sleeper]]]:
    """Runs tests/node/probed.py in a pod for each set of probes."""

    def start() -> dict[str, tuple[Node, Sleeper]]:
        Authority(str(tmp_path)).issue("app", "/CN=app", ["DNS:app"])
        keys = {
            name: base64.b64encode((tmp_path / name).read_bytes()).decode() for name in ("app.crt", "app.key")
        }
        api.create(f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": "keys"}, "data": keys})
        places = dict(zip(_KINDS, (nodes[0], nodes[1], nodes[1]), strict=True))
        for name, probes in _KINDS.items():
            made = sleeping(
                name,
                node=places[name],
                image="web",
                ports=[{"containerPort": port} for port in (8080, 8443, 9090)],
                command=["/usr/bin/python3", "-B", "/src/tests/node/probed.py"],
                volumeMounts=[{"name": "src", "mountPath": "/src"}, {"name": "keys", "mountPath": "/keys"}],
            )
            spec = made["spec"]["template"]["spec"]
            spec["containers"][0] |= {kind: {**probe, **_OFTEN} for kind, probe in probes.items()}
            # The image that has Python with TLS and gRPC.
            spec["containers"][0]["image"] = f"docker.io/local/architect-control:{release.version()}"
            spec["volumes"] = [
                {"name": "src", "hostPath": {"path": "/opt/box"}},
                {"name": "keys", "secret": {"secretName": "keys"}},
            ]
            kubectl("apply", "-f", "-", stdin=made)
        return {name: (node, sleepers.pods_of(api, namespace, name)[0]) for name, node in places.items()}

    return start


def _succeeded(api: Api, node: Node, pod: Sleeper) -> dict[str, float]:
    """How many probes of each type have succeeded, as kubelet counts them."""
    text = api.text(f"/api/v1/nodes/{node.name}/proxy/metrics/probes")
    found: dict[str, float] = {}
    for line in text.splitlines():
        labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
        if labels.get("pod") == pod.name and labels.get("result") == "successful" and "_total" in line:
            found[labels["probe_type"]] = float(line.rpartition(" ")[2])
    return found


def _await_asleep_again(node: Node, pod: Sleeper, wakes: int) -> None:
    """Waits until it sleeps after that many wakes: its label may still be that of the sleep before."""

    def sleeps() -> bool:
        now = known_to(node, pod)
        return (now["state"], now["sleeps"] > now["wakes"] >= wakes) == ("SCALED_DOWN", True)

    await_true(sleeps, f"{pod.name} sleeps after {wakes} wakes")
    pod.await_asleep()


def test_a_sleeper_is_well_and_sleeps_on_and_one_that_hangs_is_restarted(
    api: Api, probed: Callable[[], dict[str, tuple[Node, Sleeper]]], nodes: list[Node]
) -> None:
    pods = probed()
    for round_ in range(_SLEEPS):
        for each in pods.values():
            _await_asleep_again(*each, wakes=round_)
        before = {name: (_succeeded(api, *each), known_to(*each)) for name, each in pods.items()}
        deadline = time.monotonic() + 60
        for name, each in pods.items():
            counts, known = before[name]
            assert counts.keys() == {kind.removesuffix("Probe").capitalize() for kind in _KINDS[name]}
            # kubelet tells nobody when it probes.
            while any(_succeeded(api, *each)[kind] < count + _PROBES for kind, count in counts.items()):
                assert time.monotonic() < deadline, f"{name} is not probed, or not well: {known_to(*each)}"
                time.sleep(0.5)
            now = known_to(*each)
            assert now["state"] == "SCALED_DOWN"
            assert (now["sleeps"], now["wakes"]) == (known["sleeps"], known["wakes"]), f"{name} was woken"
            assert never_disturbed(each[1].read())
        for _, pod in pods.values():
            fetch(nodes[round_ % 2], f"http://{pod.address}:8080/")
    node, pod = pods["web"]
    node.run(["pkill", "-STOP", "-f", "^/usr/bin/python3 -B /src/tests/node/probed.py"])
    restarted = api.await_object(pod.path, lambda seen: app(seen)["restartCount"] == 1)
    assert app(restarted)["lastState"]["terminated"]
    node.run(["pkill", "-CONT", "-f", "^/usr/bin/python3 -B /src/tests/node/probed.py"])
