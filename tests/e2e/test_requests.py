"""The requests of pods that a real kubelet and a real scheduler handle; the shims play a script."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from architect.kube import Client, pod_path, pods_path
from architect.kube.kubeconfig import from_kubeconfig
from tests.daemon.conftest import Box
from tests.daemon.fake_shim import container
from tests.kube.apiserver import until

ID = "c" * 64
NODE = "node-1"


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Client(from_kubeconfig(os.environ["KUBECONFIG"])) as client:
        yield client


def greedy(name: str, asked: dict[str, str]) -> dict[str, Any]:
    """A pod that asks for more than half of the node, and takes next to nothing."""
    resources = {"requests": asked, "limits": {"cpu": "64"}}
    app = {"name": "app", "image": "local/web:1", "resources": resources}
    place = {"kubernetes.io/hostname": NODE}
    return {
        "metadata": {"name": name},
        "spec": {"nodeSelector": place, "containers": [app], "terminationGracePeriodSeconds": 1},
    }


async def test_another_pod_fits_into_the_requests_of_a_sleeper_and_a_full_node_is_told_of(
    client: Client, namespace: str, tmp_path: Path
) -> None:
    async def of(name: str) -> dict[str, Any]:
        """A pod's container as kubelet tells of it."""
        found = (await client.get(pod_path(namespace, name)))["status"].get("containerStatuses")
        return dict(found[0]) if found else {}

    async def running(name: str) -> bool:
        return bool((await of(name)).get("ready"))

    async def resized(requests: dict[str, str]) -> bool:
        status = await of("web")
        allocated, actual = status["allocatedResources"], status["resources"]["requests"]
        return bool(allocated == actual == requests)

    node = (await client.get(f"/api/v1/nodes/{NODE}"))["status"]["allocatable"]
    memory = int(node["memory"].removesuffix("Ki")) * 6 // 10
    asked = {"cpu": f"{int(node['cpu']) * 600}m", "memory": f"{memory}Ki"}
    made = await client.create(pods_path(namespace), greedy("web", asked))
    await until(lambda: running("web"))
    box = Box(tmp_path)
    box.kubeconfig, box.node_name = os.environ["KUBECONFIG"], NODE
    async with AsyncExitStack() as stack:
        shim = box.shim("pod1", container(ID))
        shim.identity = namespace, "web", made["metadata"]["uid"]
        await stack.enter_async_context(shim)
        await stack.enter_async_context(box.daemon())
        await box.until_state(ID, "RUNNING")
        await box.ask("POST", f"/v1/containers/{ID}/hibernate")
        await until(lambda: resized({"cpu": "0", "memory": "1"}))
        await client.create(pods_path(namespace), greedy("other", asked))
        await until(lambda: running("other"))  # the scheduler has found it room
        shim.packet(ID)
        await box.until_state(ID, "RUNNING")

        async def told() -> bool:  # kubelet has an Event of this name, too
            events = await client.all(f"/api/v1/namespaces/{namespace}/events")
            return any(
                e["reason"] == "ResizeDeferred" and e["source"]["component"] == "architectd" for e in events
            )

        await until(told)
        _, answer = await box.ask("GET", f"/v1/containers/{ID}/explain")
        assert any("(Deferred): Node didn't have enough resource" in line for line in answer["sentences"])
        await client.delete(pod_path(namespace, "other"))
        await until(lambda: resized(asked))  # kubelet itself has tried again
        found = await client.get(pod_path(namespace, "web"))
        assert found["metadata"]["labels"] == {"status.architect.loopholelabs.io/app": "RUNNING"}
        assert "annotations" not in found["metadata"]
        assert found["status"]["containerStatuses"][0]["restartCount"] == 0
