"""The daemon, shims that play a script, and a real API server: what Kubernetes is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from architect.kube import Client, Patch, pod_path, pods_path
from daemon.kubernetes.farewell import leave
from tests.daemon.conftest import Box
from tests.daemon.fake_shim import FakeShim, container
from tests.kube.apiserver import DAEMON, ApiServer, pod, until

ID = "c" * 64
LABEL = "status.architect.loopholelabs.io/app"
CPU = "architect.loopholelabs.io/cpu-requests"
MEMORY = "architect.loopholelabs.io/memory-requests"
FULL = {"cpu": "250m", "memory": "64Mi"}
NONE = {"cpu": "0", "memory": "1"}


@pytest.fixture
def box(tmp_path: Path, server: ApiServer) -> Box:
    box = Box(tmp_path)
    box.kubeconfig = server.kubeconfig(DAEMON)
    return box


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


class Cluster:
    """One pod of the cluster, and the shim that serves it."""

    def __init__(self, client: Client, namespace: str, box: Box) -> None:
        self.client = client
        self.namespace = namespace
        self.box = box
        self.uid = ""

    async def create(self, *containers: dict[str, Any]) -> None:
        made = await self.client.create(pods_path(self.namespace), pod("web", *containers))
        self.uid = made["metadata"]["uid"]

    def shim(self, **fields: Any) -> FakeShim:
        shim = self.box.shim("pod1", container(ID, **fields))
        shim.identity = self.namespace, "web", self.uid
        return shim

    async def get(self) -> dict[str, Any]:
        return await self.client.get(pod_path(self.namespace, "web"))

    async def said(self) -> tuple[str | None, dict[str, str], dict[str, Any]]:
        """The label, the requests, and what the annotations keep."""
        found = await self.get()
        annotations = found["metadata"].get("annotations", {})
        return (
            found["metadata"].get("labels", {}).get(LABEL),
            found["spec"]["containers"][0]["resources"].get("requests", {}),
            {key: json.loads(annotations[key]) for key in (CPU, MEMORY) if key in annotations},
        )

    async def until_said(self, label: str | None, requests: dict[str, str]) -> None:
        kept = {CPU: {"app": "250m"}, MEMORY: {"app": "64Mi"}} if requests == NONE else {}

        async def reached() -> bool:
            return await self.said() == (label, requests, kept)

        try:
            await until(reached)
        except TimeoutError:
            pytest.fail(f"it stays at {await self.said()}, not {label}, {requests}")

    async def hibernate(self) -> None:
        """Puts the container to sleep, as soon as the daemon knows it."""
        await self.box.until_state(ID, "RUNNING")
        status, answer = await self.box.ask("POST", f"/v1/containers/{ID}/hibernate")
        assert status == 200, answer

    async def events(self, reason: str = "") -> list[dict[str, Any]]:
        found = await self.client.all(f"/api/v1/namespaces/{self.namespace}/events")
        return [event for event in found if reason in ("", event["reason"])]

    async def sentences(self) -> list[str]:
        _, answer = await self.box.ask("GET", f"/v1/containers/{ID}/explain")
        found: list[str] = answer["sentences"]
        return found


@pytest.fixture
async def cluster(client: Client, namespace: str, box: Box) -> Cluster:
    return Cluster(client, namespace, box)


async def test_sleep_and_wake_are_told_with_label_requests_and_events(
    cluster: Cluster, box: Box, stack: AsyncExitStack
) -> None:
    await cluster.create()
    shim = await stack.enter_async_context(cluster.shim())
    await stack.enter_async_context(box.daemon())
    await cluster.until_said("RUNNING", FULL)
    await cluster.hibernate()
    await cluster.until_said("SCALED_DOWN", NONE)
    assert (await cluster.get())["status"]["qosClass"] == "Burstable"
    assert "Its requests are released: cpu 250m, memory 64Mi." in await cluster.sentences()
    shim.packet(ID)
    await cluster.until_said("RUNNING", FULL)
    woke = (await until(lambda: cluster.events("ScaleUpCompleted")))[0]
    assert woke["message"] == "Container app was woken by packet in 42 ms"
    assert (woke["involvedObject"]["name"], woke["involvedObject"]["uid"]) == ("web", cluster.uid)
    assert woke["source"] == {"component": "architectd", "host": "node-1"}
    assert {event["reason"] for event in await cluster.events()} == {
        "CheckpointCreated",
        "ScaleDownCompleted",
        "ScaleUpCompleted",
    }


async def test_a_daemon_that_was_away_finds_out_what_is_wrong(
    cluster: Cluster, box: Box, stack: AsyncExitStack
) -> None:
    await cluster.create()
    shim = await stack.enter_async_context(cluster.shim())
    async with box.daemon():
        await cluster.hibernate()
        await cluster.until_said("SCALED_DOWN", NONE)
    shim.set(ID, phase="RUNNING", wakes=1)  # by exec, while no daemon was there
    await stack.enter_async_context(box.daemon())
    await cluster.until_said("RUNNING", FULL)


@pytest.mark.parametrize("lowered", [False, True], ids=["before the resize", "after the resize"])
async def test_a_daemon_that_died_amid_a_report_is_succeeded(
    cluster: Cluster, box: Box, stack: AsyncExitStack, lowered: bool
) -> None:
    await cluster.create()
    notes = {CPU: '{"app":"250m"}', MEMORY: '{"app":"64Mi"}'}
    await cluster.client.patch(
        pod_path(cluster.namespace, "web"),
        {"metadata": {"labels": {LABEL: "SCALED_DOWN"}, "annotations": notes}},
    )
    if lowered:
        body = {"spec": {"containers": [{"name": "app", "resources": {"requests": NONE}}]}}
        path = pod_path(cluster.namespace, "web", "resize")
        await cluster.client.patch(path, body, Patch.STRATEGIC)
    await stack.enter_async_context(cluster.shim())
    await stack.enter_async_context(box.daemon())
    await cluster.until_said("RUNNING", FULL)


async def test_a_guaranteed_pod_keeps_its_requests_and_explain_says_why(
    cluster: Cluster, box: Box, stack: AsyncExitStack
) -> None:
    same = {"cpu": "100m", "memory": "64Mi"}
    await cluster.create({"name": "app", "image": "a:1", "resources": {"requests": same, "limits": same}})
    await stack.enter_async_context(cluster.shim())
    await stack.enter_async_context(box.daemon())
    await cluster.until_said("RUNNING", same)
    await cluster.hibernate()
    await cluster.until_said("SCALED_DOWN", same)
    assert any("Guaranteed" in sentence for sentence in await cluster.sentences())


async def test_without_limits_the_qos_class_stays(cluster: Cluster, box: Box, stack: AsyncExitStack) -> None:
    await cluster.create({"name": "app", "image": "a:1", "resources": {"requests": FULL}})
    shim = await stack.enter_async_context(cluster.shim())
    await stack.enter_async_context(box.daemon())
    await cluster.hibernate()

    async def lowered() -> bool:
        return (await cluster.said())[1] == NONE

    await until(lowered)
    shim.packet(ID)
    await cluster.until_said("RUNNING", FULL)


async def test_a_resize_that_is_refused_is_told_and_the_label_is_right(
    cluster: Cluster, box: Box, stack: AsyncExitStack
) -> None:
    smallest = {"type": "Container", "min": {"cpu": "100m"}}
    await cluster.client.create(
        f"/api/v1/namespaces/{cluster.namespace}/limitranges",
        {"metadata": {"name": "small"}, "spec": {"limits": [smallest]}},
    )
    await cluster.create()
    await stack.enter_async_context(cluster.shim())
    await stack.enter_async_context(box.daemon())
    await cluster.hibernate()
    await cluster.until_said("SCALED_DOWN", FULL)
    refused = (await until(lambda: cluster.events("ResizeRefused")))[0]
    assert refused["type"] == "Warning"
    assert "minimum cpu usage per Container is 100m" in refused["message"]
    assert any("minimum cpu usage" in sentence for sentence in await cluster.sentences())


@pytest.mark.parametrize(
    ("reason", "event"), [("Deferred", "ResizeDeferred"), ("Infeasible", "ResizeInfeasible")]
)
async def test_a_resize_that_kubelet_does_not_carry_out_is_told(
    cluster: Cluster, box: Box, stack: AsyncExitStack, reason: str, event: str
) -> None:
    await cluster.create()
    shim = await stack.enter_async_context(cluster.shim(phase="SCALED_DOWN", sleeps=1))
    shim.close_gate(ID)
    await stack.enter_async_context(box.daemon())
    await cluster.until_said("SCALED_DOWN", NONE)
    shim.packet(ID)
    await cluster.until_said("RUNNING", FULL)
    condition = {"type": "PodResizePending", "status": "True", "reason": reason, "message": "Node is full"}
    await cluster.client.patch(
        pod_path(cluster.namespace, "web", "status"), {"status": {"conditions": [condition]}}
    )
    told = (await until(lambda: cluster.events(event)))[0]
    assert told["message"] == "Requests are not changed yet: Node is full"
    assert any("Node is full" in sentence for sentence in await cluster.sentences())


async def test_requests_that_kubelet_can_never_release_are_put_back(
    cluster: Cluster, box: Box, stack: AsyncExitStack
) -> None:
    await cluster.create()
    await stack.enter_async_context(cluster.shim(phase="SCALED_DOWN", sleeps=1))
    await stack.enter_async_context(box.daemon())
    await cluster.until_said("SCALED_DOWN", NONE)
    condition = {"type": "PodResizePending", "status": "True", "reason": "Infeasible", "message": "swap"}
    await cluster.client.patch(
        pod_path(cluster.namespace, "web", "status"), {"status": {"conditions": [condition]}}
    )
    await cluster.until_said("SCALED_DOWN", FULL)


async def test_a_user_who_resizes_a_sleeper_gets_what_was_asked_for(
    cluster: Cluster, box: Box, stack: AsyncExitStack
) -> None:
    await cluster.create()
    shim = await stack.enter_async_context(cluster.shim())
    await stack.enter_async_context(box.daemon())
    await cluster.hibernate()
    await cluster.until_said("SCALED_DOWN", NONE)
    body = {"spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "300m"}}}]}}
    path = pod_path(cluster.namespace, "web", "resize")
    await cluster.client.patch(path, body, Patch.STRATEGIC)

    async def kept() -> bool:
        _, requests, annotations = await cluster.said()
        return requests == NONE and annotations[CPU] == {"app": "300m"}

    await until(kept)
    shim.packet(ID)
    await cluster.until_said("RUNNING", {"cpu": "300m", "memory": "64Mi"})


async def test_failures_are_warnings(cluster: Cluster, box: Box, stack: AsyncExitStack) -> None:
    from architect.ttrpc.shim_v1 import Failure

    await cluster.create()
    shim = await stack.enter_async_context(cluster.shim())
    await stack.enter_async_context(box.daemon())
    await cluster.until_said("RUNNING", FULL)
    failures = [Failure(1, "wake", "criu failed"), Failure(2, "fresh start", "memory lost")]
    shim.set(ID, failures=failures)
    assert (await until(lambda: cluster.events("ScaleUpFailed")))[0]["type"] == "Warning"
    assert (await until(lambda: cluster.events("StartedFresh")))[0]["type"] == "Warning"


async def test_a_pod_that_flaps_has_few_events_with_a_count(
    cluster: Cluster, box: Box, stack: AsyncExitStack
) -> None:
    await cluster.create()
    shim = await stack.enter_async_context(cluster.shim())
    await stack.enter_async_context(box.daemon())
    await cluster.until_said("RUNNING", FULL)
    for _ in range(50):
        shim.set(ID, phase="SCALED_DOWN", sleeps=shim.statuses[ID].sleeps + 1)
        shim.set(ID, phase="RUNNING", wakes=shim.statuses[ID].wakes + 1)

    async def counted() -> bool:
        return [event["count"] for event in await cluster.events("ScaleUpCompleted")] == [50]

    await until(counted)
    assert len(await cluster.events()) == 3
    await cluster.until_said("RUNNING", FULL)


async def test_a_pod_of_another_name_or_node_is_left_alone(
    cluster: Cluster, box: Box, stack: AsyncExitStack
) -> None:
    await cluster.create()
    await cluster.client.create(pods_path(cluster.namespace), pod("other"))
    await stack.enter_async_context(cluster.shim())
    await stack.enter_async_context(box.daemon())
    await cluster.until_said("RUNNING", FULL)
    other = await cluster.client.get(pod_path(cluster.namespace, "other"))
    assert "labels" not in other["metadata"]


async def test_an_api_server_that_was_away_hears_the_truth_and_nothing_waits_for_it(
    cluster: Cluster, server: ApiServer, box: Box, stack: AsyncExitStack
) -> None:
    await cluster.create()
    shim = await stack.enter_async_context(cluster.shim())
    await stack.enter_async_context(box.daemon())
    await cluster.until_said("RUNNING", FULL)
    server.kill()
    try:
        for _ in range(3):
            await cluster.hibernate()
            shim.packet(ID)
            await box.until_state(ID, "RUNNING")
        await cluster.hibernate()

        async def noticed() -> bool:
            return any("Kubernetes is not told" in sentence for sentence in await cluster.sentences())

        await until(noticed)
        assert await box.metric("architect_kubernetes_connected") == 0
    finally:
        server.start()
        await server.ready()
    await cluster.until_said("SCALED_DOWN", NONE)

    async def counted() -> bool:
        return [event["count"] for event in await cluster.events("ScaleDownCompleted")] == [4]

    await until(counted)
    assert await box.metric("architect_kubernetes_connected") == 1


async def test_when_architect_leaves_a_sleeper_has_its_requests_back_and_nothing_is_said_of_it(
    cluster: Cluster, server: ApiServer, box: Box, stack: AsyncExitStack
) -> None:
    await cluster.create()
    await cluster.client.create(pods_path(cluster.namespace), pod("other"))
    other = await cluster.client.get(pod_path(cluster.namespace, "other"))
    async with AsyncExitStack() as node:
        await node.enter_async_context(cluster.shim())
        await node.enter_async_context(box.daemon())
        await cluster.hibernate()
        await cluster.until_said("SCALED_DOWN", NONE)
    as_daemon = await stack.enter_async_context(Client(server.access(DAEMON)))
    for _ in range(2):  # it may be broken off and begun again
        assert await leave(as_daemon, "node-1") == []
        assert await cluster.said() == (None, FULL, {})
    assert await cluster.client.get(pod_path(cluster.namespace, "other")) == other


async def test_requests_that_cannot_be_given_back_at_the_farewell_are_named_and_stay_written_down(
    cluster: Cluster, server: ApiServer, box: Box, stack: AsyncExitStack
) -> None:
    await cluster.create()
    async with AsyncExitStack() as node:
        await node.enter_async_context(cluster.shim())
        await node.enter_async_context(box.daemon())
        await cluster.hibernate()
        await cluster.until_said("SCALED_DOWN", NONE)
    largest = {"type": "Container", "max": {"cpu": "100m", "memory": "1Gi"}}
    await cluster.client.create(
        f"/api/v1/namespaces/{cluster.namespace}/limitranges",
        {"metadata": {"name": "large"}, "spec": {"limits": [largest]}},
    )
    as_daemon = await stack.enter_async_context(Client(server.access(DAEMON)))
    (sentence,) = await leave(as_daemon, "node-1")
    assert sentence.startswith(f"{cluster.namespace}/web keeps the requests of a sleeper: ")
    assert await cluster.said() == (None, NONE, {CPU: {"app": "250m"}, MEMORY: {"app": "64Mi"}})
