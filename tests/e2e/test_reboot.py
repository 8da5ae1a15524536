"""A node loses power while pods sleep on it."""

from __future__ import annotations

import pytest

from hack.api import Api, has_condition
from hack.nodes import Node
from tests.e2e import release, sleepers
from tests.e2e.conftest import Kubectl
from tests.e2e.sleepers import app, fetch, sleeping


@pytest.mark.usefixtures("architect")
def test_sleepers_run_and_sleep_again_after_a_reboot(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    kubectl("apply", "-f", "-", stdin=sleeping("there", node=nodes[1]))
    kubectl("apply", "-f", "-", stdin=sleeping("here", node=nodes[0]))
    there, here = (sleepers.pods_of(api, namespace, name)[0] for name in ("there", "here"))
    for pod in (there, here):
        assert fetch(nodes[0], f"http://{pod.address}:8080/") == "1\n"
        pod.await_asleep()
    nodes[1].power_off()
    nodes[1].power_on(nodes)
    api.await_object(there.path, lambda seen: app(seen)["restartCount"] == 1 and has_condition(seen, "Ready"))
    release.await_ready()
    assert fetch(nodes[0], f"http://{there.address}:8080/") == "1\n", "it has not started afresh"
    assert fetch(nodes[0], f"http://{here.address}:8080/") == "2\n", "its node had power all the time"
    there.await_reason("StartedFresh")
    assert "StartedFresh" not in here.reasons()
    for pod in (there, here):
        pod.await_asleep()
    kubectl("delete", "deployment", "--all")
    for pod in (there, here):
        api.await_gone(pod.path)
