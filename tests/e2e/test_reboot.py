"""A node loses power while pods sleep and run on it."""

from __future__ import annotations

import pytest

from hack.api import Api, has_condition
from hack.nodes import Node
from tests.e2e import release, sleepers
from tests.e2e.conftest import Kubectl
from tests.e2e.sleepers import STATUS, app, fetch, sleeping


@pytest.mark.usefixtures("architect")
def test_after_a_reboot_sleepers_sleep_with_their_memory_and_who_ran_starts_fresh(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    kubectl("apply", "-f", "-", stdin=sleeping("there", node=nodes[1]))
    kubectl("apply", "-f", "-", stdin=sleeping("awake", node=nodes[1], idle="1h"))
    kubectl("apply", "-f", "-", stdin=sleeping("here", node=nodes[0]))
    there, awake, here = (sleepers.pods_of(api, namespace, name)[0] for name in ("there", "awake", "here"))
    for pod in (there, awake, here):
        assert fetch(nodes[0], f"http://{pod.address}:8080/") == "1\n"
    for pod in (there, here):
        pod.await_asleep()
    nodes[1].power_off()
    nodes[1].power_on(nodes)
    for pod in (there, awake):
        api.await_object(
            pod.path, lambda seen: app(seen)["restartCount"] == 1 and has_condition(seen, "Ready")
        )
    release.await_ready()
    awake.await_reason("StartedFresh")
    assert there.read()["metadata"]["labels"][STATUS] == "SCALED_DOWN", "it has begun asleep"
    assert fetch(nodes[0], f"http://{there.address}:8080/") == "2\n", "it has its memory"
    assert fetch(nodes[0], f"http://{here.address}:8080/") == "2\n", "its node had power all the time"
    assert fetch(nodes[0], f"http://{awake.address}:8080/") == "1\n", "its memory went with the power"
    for pod in (there, here):
        assert "StartedFresh" not in pod.reasons()
        pod.await_asleep()
    kubectl("delete", "deployment", "--all")
    for pod in (there, awake, here):
        api.await_gone(pod.path)
