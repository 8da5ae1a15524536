"""`kubectl architect migrate` and `restore` with a real API server and the control plane."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from architect.cli import moving
from architect.cli.cluster import Failed
from architect.kube import Client, pod_path, pods_path
from architect.migration import methods
from tests.kube.migrating import SYSTEM, FollowState, Node, Object, Shop

CONTROL_PLANE = {"app.kubernetes.io/name": "architect-controlplane"}
DAEMON = {"app.kubernetes.io/name": "architectd"}


async def system_pod(client: Client, labels: Object, node: str) -> Object:
    """A pod of Architect's own that is ready."""
    metadata = {"generateName": "own-", "labels": labels}
    spec = {"nodeName": node, "containers": [{"name": "own", "image": "local/web:1"}]}
    made = await client.create(pods_path(SYSTEM), {"metadata": metadata, "spec": spec})
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    path = pod_path(SYSTEM, made["metadata"]["name"])
    await client.patch(f"{path}/status", {"status": ready})
    return {**made, "path": path}


async def removed(client: Client, pod: Object) -> None:
    await client.delete(pod["path"], gracePeriodSeconds="0")


async def left(shop: Shop, one: Node, two: Node, old: Object) -> tuple[Object, Any]:
    """What the nodes do of a pod that was told to go, up to where its replacement has its copy."""
    answer = await one.leave(old)
    assert answer.verdict == answer.Verdict.MOVES, answer.reason
    await one.offer(old, answer.migration, for_node="node-2")
    await shop.finish(old)
    new = await shop.pod("node-2")
    await two.claim(new).next()
    return new, answer.migration


async def test_a_pod_is_evicted_and_its_arrival_told(client: Client, nodes: list[Node], shop: Shop) -> None:
    one, two = nodes
    old = await shop.running("node-1")
    namespace, name = shop.namespace, old["metadata"]["name"]
    with pytest.raises(Failed, match="no control plane runs"):
        await moving.to_migrate(client, namespace, name)
    plane = await system_pod(client, CONTROL_PLANE, "node-1")
    with pytest.raises(Failed, match="no architectd runs on its node node-1"):
        await moving.to_migrate(client, namespace, name)
    daemon = await system_pod(client, DAEMON, "node-1")
    found = await moving.to_migrate(client, namespace, name)
    await moving.evict(client, found)
    telling = asyncio.create_task(moving.outcome(client, found))
    new, migration = await left(shop, one, two, old)
    await two.tell(methods.TAKE, new, migration)
    assert not telling.done()
    await two.tell(methods.CONFIRM, new, migration, restore_us=90)
    (entry,) = await asyncio.wait_for(telling, 60)
    assert (entry["state"], entry["replacement"]) == ("Arrived", new["metadata"]["name"])
    for each in (plane, daemon):
        await removed(client, each)


async def test_a_pod_that_ends_after_all_is_told_of(client: Client, nodes: list[Node], shop: Shop) -> None:
    old = await shop.running("node-1")
    await shop.scale(0)
    await moving.evict(client, old)
    telling = asyncio.create_task(moving.outcome(client, old))
    answer = await nodes[0].leave(old)
    assert answer.verdict == answer.Verdict.ENDS
    await shop.finish(old)
    assert await asyncio.wait_for(telling, 60) == []


async def test_a_disruption_budget_is_respected(client: Client, shop: Shop) -> None:
    pod = await shop.running("node-1")
    budgets = f"/apis/policy/v1/namespaces/{shop.namespace}/poddisruptionbudgets"
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}
    await client.create(budgets, {"metadata": {"name": "web"}, "spec": spec})
    with pytest.raises(Failed, match="may not be evicted now"):
        await moving.evict(client, pod)
    assert "deletionTimestamp" not in (await client.get(pod["path"]))["metadata"]


async def test_another_pod_by_that_name_is_not_evicted(client: Client, shop: Shop) -> None:
    pod = await shop.running("node-1")
    stale = {**pod, "metadata": {**pod["metadata"], "uid": "of-one-before"}}
    with pytest.raises(Failed, match="is gone already"):
        await moving.evict(client, stale)
    assert "deletionTimestamp" not in (await client.get(pod["path"]))["metadata"]


async def kept(shop: Shop, one: Node, two: Node) -> tuple[Object, Object, str]:
    """A pod that has left, the one that began fresh, and the record's name."""
    old = await shop.running("node-1")
    await shop.evict(old)
    fresh, migration = await left(shop, one, two, old)
    await two.tell(methods.ABANDON, fresh, migration, reason="its image is spoilt")
    await shop.begin(fresh)
    await shop.until_record(old, lambda found: (found.get("status") or {}).get("endTime"))
    return old, fresh, migration


async def test_a_kept_copy_is_given_back_by_one_command(
    client: Client, nodes: list[Node], shop: Shop
) -> None:
    one, two = nodes
    old, fresh, migration = await kept(shop, one, two)
    copy = await moving.kept(client, shop.namespace, fresh["metadata"]["name"])
    assert copy.record["metadata"]["name"] == migration
    await moving.restore(client, copy)
    assert "deletionTimestamp" in (await client.get(fresh["path"]))["metadata"]
    telling = asyncio.create_task(moving.restored(client, copy))
    await shop.finish(fresh)
    new = await shop.pod("node-2")
    claim = two.claim(new)
    await claim.next()
    follow = one.follow(old, migration)
    event = await follow.until(FollowState.CLAIMED)
    assert event.target.uid == new["metadata"]["uid"]
    await one.offer(old, migration, for_node="node-2")
    await two.tell(methods.TAKE, new, migration)
    await two.tell(methods.CONFIRM, new, migration, restore_us=90)
    (entry,) = await asyncio.wait_for(telling, 60)
    assert (entry["state"], entry["replacement"]) == ("Arrived", new["metadata"]["name"])
    await claim.close()
    await follow.close()


async def test_nothing_is_asked_for_while_a_budget_forbids_to_make_room(
    client: Client, nodes: list[Node], shop: Shop
) -> None:
    one, two = nodes
    _, fresh, migration = await kept(shop, one, two)
    budgets = f"/apis/policy/v1/namespaces/{shop.namespace}/poddisruptionbudgets"
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}
    await client.create(budgets, {"metadata": {"name": "web"}, "spec": spec})
    copy = await moving.kept(client, shop.namespace, migration)
    with pytest.raises(Failed, match="may not be evicted now"):
        await moving.restore(client, copy)
    assert (await shop.records())[copy.record["spec"]["pod"]["name"]] == copy.record
    assert "deletionTimestamp" not in (await client.get(fresh["path"]))["metadata"]
