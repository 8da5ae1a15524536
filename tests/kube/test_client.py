"""The client and a real API server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from architect.kube import (
    Client,
    Conflict,
    NoAccess,
    NotFound,
    Patch,
    Refused,
    Unreachable,
    in_cluster,
    pod_path,
    pods_path,
)
from architect.kube.following import Backoff, Following
from architect.kube.kubeconfig import from_kubeconfig
from tests.kube.apiserver import DAEMON, ApiServer, pod, until


async def test_objects_are_created_read_changed_and_deleted(client: Client, namespace: str) -> None:
    made = await client.create(pods_path(namespace), pod("web"))
    assert made["spec"]["nodeName"] == "node-1"
    with pytest.raises(Conflict, match="already exists"):
        await client.create(pods_path(namespace), pod("web"))
    path = pod_path(namespace, "web")
    merged = await client.patch(path, {"metadata": {"labels": {"a": "1", "b": "2"}}})
    assert merged["metadata"]["labels"] == {"a": "1", "b": "2"}
    await client.patch(path, {"metadata": {"labels": {"a": None}}})
    operation = [{"op": "test", "path": "/metadata/labels/b", "value": "2"}]
    changed = await client.patch(path, operation, Patch.JSON)
    assert changed["metadata"]["labels"] == {"b": "2"}
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"], "labels": {"c": "3"}}}
    with pytest.raises(Conflict):
        await client.patch(path, stale)
    await client.delete(path, gracePeriodSeconds="0")
    with pytest.raises(NotFound, match='pods "web" not found'):
        await client.get(path)


async def test_a_resize_patches_the_subresource(client: Client, namespace: str) -> None:
    await client.create(pods_path(namespace), pod("web"))
    body = {"spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "0", "memory": "0"}}}]}}
    resized = await client.patch(pod_path(namespace, "web", "resize"), body, Patch.STRATEGIC)
    assert resized["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "0", "memory": "0"}


async def test_what_is_refused_says_why(client: Client, server: ApiServer, namespace: str) -> None:
    with pytest.raises(Refused, match="must consist of"):
        await client.create(pods_path(namespace), pod("NOT A NAME"))
    async with Client(server.access(DAEMON)) as daemon:
        with pytest.raises(Refused, match="forbidden") as forbidden:
            await daemon.create(pods_path(namespace), pod("web"))
    assert forbidden.value.status == 403
    async with Client(server.access("nobody's")) as nobody:
        with pytest.raises(Refused) as unknown:
            await nobody.get(pods_path(namespace))
    assert unknown.value.status == 401


async def test_large_collections_come_page_by_page(client: Client, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    before = len(await client.all(path))
    await asyncio.gather(*(client.create(path, {"metadata": {"name": f"m{i}"}}) for i in range(120)))
    pages = [len(items) async for items, version in client.pages(path) if version]
    assert pages == [50, 50, 20 + before]


async def test_a_server_that_is_not_there_is_unreachable(server: ApiServer) -> None:
    access = server.access()
    access.server = "https://127.0.0.1:1"
    async with Client(access) as client:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
            await client.get("/version")


async def test_a_server_whose_certificate_nobody_vouches_for_is_not_asked(server: ApiServer) -> None:
    access = server.access()
    access.tls = lambda: None  # the CAs of the system
    async with Client(access) as client:
        with pytest.raises(Unreachable, match="certificate"):
            await client.get("/version")


async def test_a_token_is_read_again_when_its_file_changes(
    server: ApiServer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    (tmp_path / "namespace").write_text("default")
    (tmp_path / "ca.crt").write_bytes((server.directory / "apiserver.crt").read_bytes())
    (tmp_path / "first").write_text("an old one")
    (tmp_path / "second").write_text(f"{DAEMON}\n")
    (tmp_path / "token").symlink_to(tmp_path / "first")
    async with Client(in_cluster(str(tmp_path))) as client:
        with pytest.raises(Refused):
            await client.get("/api/v1/pods")
        (tmp_path / "next").symlink_to(tmp_path / "second")
        (tmp_path / "next").rename(tmp_path / "token")  # as kubelet does it
        assert (await client.get("/api/v1/pods"))["kind"] == "PodList"


def test_outside_of_a_cluster_there_is_no_access(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(NoAccess, match="no pod of a cluster"):
        in_cluster()


async def test_a_kubeconfig_gives_access(server: ApiServer) -> None:
    access = from_kubeconfig(server.kubeconfig(namespace="elsewhere"))
    assert access.namespace == "elsewhere"
    async with Client(access) as client:
        assert (await client.get("/version"))["major"] == "1"


class Heard:
    def __init__(self) -> None:
        self.all: dict[str, str] = {}
        self.lists = 0
        self.reasons: list[str] = []

    def listed(self, items: list[tuple[str, str]]) -> None:
        self.all = dict(items)
        self.lists += 1

    def changed(self, item: tuple[str, str]) -> None:
        self.all[item[0]] = item[1]

    def deleted(self, item: tuple[str, str]) -> None:
        del self.all[item[0]]

    def lost(self, reason: str) -> None:
        self.reasons.append(reason)


async def test_a_collection_is_followed(client: Client, namespace: str) -> None:
    heard = Heard()

    def reduce(item: dict[str, Any]) -> tuple[str, str]:
        return item["metadata"]["name"], item["metadata"].get("labels", {}).get("a", "")

    await client.create(pods_path(namespace), pod("first"))
    await client.create(pods_path(namespace), pod("elsewhere", node="node-2"))
    following = Following(
        client,
        pods_path(namespace),
        heard,
        reduce,
        backoff=Backoff(0.01),
        fieldSelector="spec.nodeName=node-1",
    )
    task = asyncio.create_task(following.run())
    try:
        await until(lambda: heard.all == {"first": ""})
        await client.create(pods_path(namespace), pod("second"))
        await client.patch(pod_path(namespace, "first"), {"metadata": {"labels": {"a": "x" * 60}}})
        await until(lambda: heard.all == {"first": "x" * 60, "second": ""})
        await client.delete(pod_path(namespace, "first"), gracePeriodSeconds="0")
        await until(lambda: heard.all == {"second": ""})
        assert heard.lists == 1
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
