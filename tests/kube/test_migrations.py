"""The control plane, nodes over mutual TLS, and a real API server: from a pod's eviction to its arrival."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Coroutine
from typing import Any

import grpc
import pytest

from architect.kube import Client, pod_path
from architect.migration import methods
from architect.migration.client import Refused
from architect.migration.v1 import migration_pb2 as v1
from architect.settings import MANAGED
from controlplane import farewell
from tests.kube import migrating
from tests.kube.apiserver import until
from tests.kube.migrating import ClaimState, FollowState, Node, Object, Shop, Stream, phase


async def test_an_evicted_pods_memory_finds_its_replacement(nodes: list[Node], shop: Shop) -> None:
    one, two = nodes
    old = await shop.running("node-1")
    await shop.evict(old)
    new = await shop.pod("node-2")
    claim = two.claim(new)  # before its node has said anything
    expected = await claim.next()
    assert expected.state == ClaimState.EXPECTED
    await two.tell(methods.PROGRESS, new, expected.migration)  # it waits, and says so
    answer = await one.leave(old)
    assert answer.verdict == answer.Verdict.MOVES, answer.reason
    assert 0 < answer.seconds_left <= 30
    follow = one.follow(old, answer.migration)
    event = await follow.until(FollowState.CLAIMED)
    assert (event.node, event.target.uid) == ("node-2", new["metadata"]["uid"])
    await one.offer(old, answer.migration, for_node="node-2", digest="sha256:1")
    ready = await claim.until(ClaimState.READY)
    assert (ready.offer.ticket, ready.offer.digest, ready.source_node) == ("for node-2", "sha256:1", "node-1")
    await two.tell(methods.PROGRESS, new, answer.migration, received_bytes=400, size_bytes=1000)
    await two.tell(methods.TAKE, new, answer.migration)
    assert (await claim.until(ClaimState.TAKEN)).migration == answer.migration
    await two.tell(methods.PROGRESS, new, answer.migration)  # of a daemon that has begun anew
    await two.tell(methods.CONFIRM, new, answer.migration, restore_us=90)
    assert [event.state for event in await follow.rest()][-1] == FollowState.DROP
    record = await shop.until_record(old, lambda found: phase(found) == "Arrived")
    part = record["status"]["containers"][0]
    assert (part["sizeBytes"], part["freezeMicroseconds"], part["restoreMicroseconds"]) == (1000, 70, 90)
    assert record["status"]["target"]["name"] == new["metadata"]["name"]


async def moved(shop: Shop, one: Node, *, asleep: bool = False) -> tuple[Object, str]:
    """A pod of node-1 that has left, with its image on the disk there; and the name of its record."""
    old = await shop.running("node-1")
    await shop.evict(old)
    answer = await one.leave(old, asleep=asleep)
    assert answer.verdict == answer.Verdict.MOVES, answer.reason
    await one.offer(old, answer.migration, for_node="node-2")
    return old, answer.migration


async def claimed(shop: Shop, two: Node) -> tuple[Object, Stream]:
    """A new pod of node-2 that claims; and what it is told."""
    new = await shop.pod("node-2")
    return new, two.claim(new)


async def test_who_slept_arrives_asleep(nodes: list[Node], shop: Shop) -> None:
    one, two = nodes
    await moved(shop, one, asleep=True)
    _, claim = await claimed(shop, two)
    ready = await claim.until(ClaimState.READY)
    assert ready.asleep
    await claim.close()


async def test_of_ten_that_go_at_once_each_replacement_gets_another(nodes: list[Node], shop: Shop) -> None:
    one, two = nodes
    await shop.scale(10)
    old = await asyncio.gather(*(shop.running("node-1") for _ in range(10)))
    await asyncio.gather(*(shop.evict(each) for each in old))
    answers = await asyncio.gather(*(one.leave(each) for each in old))
    assert {answer.verdict for answer in answers} == {v1.LeaveResponse.Verdict.MOVES}
    new = await asyncio.gather(*(shop.pod("node-2") for _ in range(10)))
    claims = [two.claim(each) for each in new]
    told = await asyncio.gather(*(claim.next() for claim in claims))
    assert {event.migration for event in told} == {answer.migration for answer in answers}
    await shop.scale(11)
    late, late_claim = await claimed(shop, two)
    assert (await late_claim.next()).state == ClaimState.NOBODY
    for each, event in zip(new, told, strict=True):
        with pytest.raises(Refused, match="is not"):
            await two.tell(methods.TAKE, late, event.migration)
        await two.tell(methods.TAKE, each, event.migration)
    for claim in claims:
        await claim.close()


async def test_more_than_are_wanted_do_not_move(nodes: list[Node], shop: Shop) -> None:
    one, _ = nodes
    await shop.scale(3)
    old = [await shop.running("node-1") for _ in range(3)]
    await shop.scale(2)
    await asyncio.gather(*(shop.evict(each) for each in old))
    answers = await asyncio.gather(*(one.leave(each) for each in old))
    verdicts = sorted(answer.verdict for answer in answers)
    assert verdicts == [v1.LeaveResponse.Verdict.ENDS, *[v1.LeaveResponse.Verdict.MOVES] * 2]


async def test_a_stateful_pod_comes_back_under_its_name(
    nodes: list[Node], client: Client, namespace: str
) -> None:
    one, two = nodes
    shop = Shop(client, namespace, replicas=2)
    await shop.deploy_set()
    for name in ("db-0", "db-1"):
        await shop.running("node-1", name)
    old = [await client.get(pod_path(namespace, name)) for name in ("db-0", "db-1")]
    old = [{**each, "path": pod_path(namespace, each["metadata"]["name"])} for each in old]
    names = []
    for each in old:
        await shop.evict(each)
        answer = await one.leave(each)
        names.append(answer.migration)
        await one.offer(each, answer.migration, for_node="node-2")
        await shop.finish(each)  # only then there may be another of that name
    for name, migration in zip(("db-1", "db-0"), reversed(names), strict=True):
        claim = two.claim(await shop.pod("node-2", name))
        assert (await claim.until(ClaimState.READY)).migration == migration
        await claim.close()


async def test_two_containers_of_a_pod_stay_together(
    nodes: list[Node], client: Client, namespace: str
) -> None:
    one, two = nodes
    template = json.loads(json.dumps(migrating.TEMPLATE))
    template["spec"]["containers"] = [{"name": name, "image": "local/web:1"} for name in ("a", "b", "c")]
    template["metadata"]["annotations"] = {MANAGED: '["a", "b"]'}
    shop = Shop(client, namespace, replicas=2, template=template)
    await shop.deploy()
    old = [await shop.running("node-1") for _ in range(2)]
    moves = {}
    for each in old:
        await shop.evict(each)
        answer = await one.leave(each, containers=("a", "b"))
        moves[answer.migration] = each
        for container in ("a", "b"):
            await one.offer(each, answer.migration, for_node="node-2", container=container)
    new = [await shop.pod("node-2") for _ in range(2)]
    found: dict[str, str] = {}
    for each, container in ((new[0], "a"), (new[1], "b"), (new[0], "b"), (new[1], "a")):
        claim = two.claim(each, container)
        migration = (await claim.until(ClaimState.READY)).migration
        assert found.setdefault(each["metadata"]["name"], migration) == migration
        await claim.close()
    assert set(found.values()) == set(moves)
    assert (await two.claim(new[0], "c").next()).state == ClaimState.NOBODY
    # One arrives, the other does not: each has an end of its own.
    migration = found[new[0]["metadata"]["name"]]
    follow = one.follow(moves[migration], migration)
    await two.tell(methods.TAKE, new[0], migration, "a")
    await two.tell(methods.CONFIRM, new[0], migration, "a")
    await two.tell(methods.ABANDON, new[0], migration, "b", reason="another kernel")
    dropped, kept = await follow.until(FollowState.DROP), await follow.until(FollowState.KEEP)
    assert [(event.container, event.reason) for event in (dropped, kept)] == [
        ("a", ""),
        ("b", "another kernel"),
    ]
    await follow.close()
    record = await shop.until_record(moves[migration], lambda found: phase(found) == "Kept")
    assert record["status"]["reason"] == "another kernel"


async def test_who_is_not_leaving_ends_in_the_ordinary_way(nodes: list[Node], shop: Shop) -> None:
    one, _ = nodes
    stays = await shop.running("node-1")
    answer = await one.leave(stays)
    assert (answer.verdict, answer.migration) == (answer.Verdict.ENDS, "")
    assert "restarts" in answer.reason
    await shop.scale(0)
    await shop.evict(stays)
    answer = await one.leave(stays)
    assert (answer.verdict, answer.reason) == (answer.Verdict.ENDS, "its Deployment is scaled to 0")
    await shop.finish(stays)
    assert (await one.leave(stays)).reason == "the pod is gone already"
    assert await shop.records() == {}


async def test_a_pod_that_runs_already_claims_nothing(nodes: list[Node], shop: Shop) -> None:
    one, two = nodes
    await shop.scale(2)
    other = await shop.running("node-2")
    await moved(shop, one)
    assert (await two.claim(other).next()).state == ClaimState.NOBODY


async def test_when_a_replacement_goes_before_it_took_it_the_next_one_gets_it(
    nodes: list[Node], shop: Shop
) -> None:
    one, two = nodes
    old, migration = await moved(shop, one)
    follow = one.follow(old, migration)
    await follow.until(FollowState.WAITING)
    first, claim = await claimed(shop, two)
    await claim.until(ClaimState.READY)
    await follow.until(FollowState.CLAIMED)
    await shop.evict(first)
    lost = await claim.until(ClaimState.LOST)
    assert lost.reason == "it is another pod's by now"
    await follow.until(FollowState.WAITING)
    with pytest.raises(Refused, match="is not"):
        await two.tell(methods.TAKE, first, migration)
    second, claim = await claimed(shop, two)
    assert (await claim.until(ClaimState.READY)).migration == migration
    await two.tell(methods.TAKE, second, migration)
    await follow.close()
    await claim.close()


async def test_a_replacement_that_is_told_to_go_gives_nothing_up_for_the_next_one(
    nodes: list[Node], shop: Shop
) -> None:
    one, two = nodes
    old = await shop.running("node-1")
    await shop.evict(old)
    first, claim = await claimed(shop, two)
    migration = (await claim.next()).migration
    await shop.evict(first)
    # Its container has ended while it waited; whoever hears of that first.
    with contextlib.suppress(Refused):
        await two.tell(methods.ABANDON, first, migration, reason="it has ended before its state had come")
    answer = await one.leave(old)
    assert answer.verdict == answer.Verdict.MOVES, answer.reason
    await one.offer(old, answer.migration, for_node="node-2")
    await claim.until(ClaimState.LOST)
    _, claim = await claimed(shop, two)
    assert (await claim.next()).migration == migration
    await claim.close()


async def test_what_was_taken_is_never_given_to_another(nodes: list[Node], shop: Shop) -> None:
    one, two = nodes
    old, migration = await moved(shop, one)
    first, claim = await claimed(shop, two)
    await claim.until(ClaimState.READY)
    await two.tell(methods.TAKE, first, migration)
    await shop.evict(first, grace=0)
    _, claim = await claimed(shop, two)
    assert (await claim.next()).state == ClaimState.NOBODY
    record = await shop.until_record(old, lambda found: phase(found) == "Taken")
    assert record["status"]["target"]["name"] == first["metadata"]["name"]


async def test_a_source_that_fails_lets_its_replacement_start_fresh(nodes: list[Node], shop: Shop) -> None:
    one, two = nodes
    old = await shop.running("node-1")
    await shop.evict(old)
    answer = await one.leave(old)
    _, claim = await claimed(shop, two)
    assert (await claim.next()).state == ClaimState.EXPECTED
    request = v1.WithdrawRequest(
        namespace=shop.namespace, migration=answer.migration, container="app", reason="no disk left"
    )
    await one.calls.call(methods.WITHDRAW, request)
    assert (await claim.until(ClaimState.LOST)).reason == "no disk left"
    await shop.until_record(
        old, lambda found: phase(found) == "Lost" and "finalizers" not in found["metadata"]
    )
    assert (await one.leave(old)).verdict == v1.LeaveResponse.Verdict.ENDS


async def test_a_source_that_never_announces_is_not_waited_for(nodes: list[Node], shop: Shop) -> None:
    _, two = nodes
    old = await shop.running("node-1")
    await shop.evict(old)
    _, claim = await claimed(shop, two)
    assert (await claim.next()).state == ClaimState.EXPECTED
    await shop.finish(old)
    assert (await claim.until(ClaimState.LOST)).reason == "it ended unannounced"


async def test_a_record_that_somebody_deletes_is_ended_first(
    nodes: list[Node], client: Client, shop: Shop
) -> None:
    one, two = nodes
    old, migration = await moved(shop, one)
    _, claim = await claimed(shop, two)
    await claim.until(ClaimState.READY)
    path = f"/apis/architect.loopholelabs.io/v1alpha1/namespaces/{shop.namespace}/migrations/{migration}"
    await client.delete(path)
    assert (await claim.until(ClaimState.LOST)).reason == "its record was deleted"

    async def gone() -> bool:
        try:
            await one.follow(old, migration).rest()
        except Refused as error:
            return error.code is grpc.StatusCode.NOT_FOUND
        return False

    await until(gone)
    assert await shop.records() == {}


async def test_a_node_speaks_for_its_own_pods_only(nodes: list[Node], shop: Shop) -> None:
    one, two = nodes
    old, migration = await moved(shop, one)
    new, claim = await claimed(shop, two)
    await claim.until(ClaimState.READY)
    withdraw = v1.WithdrawRequest(namespace=shop.namespace, migration=migration, container="app")
    attempts: list[Coroutine[Any, Any, Any]] = [
        two.leave(old),
        two.follow(old, migration).next(),
        two.offer(old, migration, for_node="node-2"),
        two.calls.call(methods.WITHDRAW, withdraw),
        one.claim(new).next(),
        *(
            one.tell(method, new, migration)
            for method in (methods.PROGRESS, methods.TAKE, methods.CONFIRM, methods.ABANDON)
        ),
    ]
    for attempt in attempts:
        with pytest.raises(Refused) as refused:
            await attempt
        assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED
    record = await shop.until_record(old, lambda found: phase(found) == "Offered")
    assert record["status"]["target"]["node"] == "node-2"
    await claim.close()


@pytest.mark.parametrize("changes", [{"migration": "none"}, {"container": "none"}, {"address": "nowhere"}])
async def test_calls_that_make_no_sense_are_refused(
    nodes: list[Node], shop: Shop, changes: dict[str, str]
) -> None:
    one, two = nodes
    old, migration = await moved(shop, one)
    with pytest.raises(Refused):
        await one.offer(old, **{"migration": migration, "for_node": "node-2", **changes})
    with pytest.raises(Refused):
        await two.claim({"metadata": {"namespace": shop.namespace, "name": "", "uid": ""}}).next()
    with pytest.raises(Refused, match="no pod"):
        await two.claim({"metadata": {"namespace": shop.namespace, "name": "x", "uid": "y"}}).next()


async def test_a_copy_that_is_kept_can_be_asked_for_again(
    nodes: list[Node], client: Client, shop: Shop
) -> None:
    one, two = nodes
    old, migration = await moved(shop, one)
    follow = one.follow(old, migration)
    fresh, claim = await claimed(shop, two)
    await claim.until(ClaimState.READY)
    await two.tell(methods.TAKE, fresh, migration)
    await two.tell(methods.ABANDON, fresh, migration, reason="its image is spoilt")
    await follow.until(FollowState.KEEP)
    await shop.begin(fresh)
    path = f"/apis/architect.loopholelabs.io/v1alpha1/namespaces/{shop.namespace}/migrations/{migration}"
    await client.patch(path, {"metadata": {"annotations": {"architect.loopholelabs.io/restore": ""}}})
    await follow.until(FollowState.WAITING)
    await shop.evict(fresh)
    answer = await two.leave(fresh)
    assert answer.verdict == answer.Verdict.ENDS, "the copy takes its place"
    new = await shop.pod("node-2")
    claim = two.claim(new)
    await claim.next()
    await follow.until(FollowState.CLAIMED)
    await one.offer(old, migration, for_node="node-2")
    assert (await claim.until(ClaimState.READY)).migration == migration
    await two.tell(methods.TAKE, new, migration)
    await two.tell(methods.CONFIRM, new, migration)
    assert [event.state for event in await follow.rest()][-1] == FollowState.DROP
    record = await shop.until_record(old, lambda found: phase(found) == "Arrived")
    assert "annotations" not in record["metadata"]
    await claim.close()


async def test_what_may_run_somewhere_is_not_given_again(
    nodes: list[Node], client: Client, shop: Shop
) -> None:
    one, two = nodes
    old, migration = await moved(shop, one)
    new, claim = await claimed(shop, two)
    await claim.until(ClaimState.READY)
    await two.tell(methods.TAKE, new, migration)
    path = f"/apis/architect.loopholelabs.io/v1alpha1/namespaces/{shop.namespace}/migrations/{migration}"
    await client.patch(path, {"metadata": {"annotations": {"architect.loopholelabs.io/restore": ""}}})
    record = await shop.until_record(old, lambda found: "annotations" not in found["metadata"])
    assert phase(record) == "Taken"


async def test_events_tell_of_each_beginning_and_end(nodes: list[Node], client: Client, shop: Shop) -> None:
    one, two = nodes
    await shop.scale(2)
    old, migration = await moved(shop, one)
    new, claim = await claimed(shop, two)
    await claim.until(ClaimState.READY)
    await two.tell(methods.TAKE, new, migration)
    await two.tell(methods.CONFIRM, new, migration)
    lost = await shop.running("node-1")
    await shop.evict(lost)
    await shop.until_record(lost, lambda found: True)
    await shop.finish(lost)
    names = [each["metadata"]["name"] for each in (old, new, lost)]

    async def told() -> bool:
        events = await client.all(f"/api/v1/namespaces/{shop.namespace}/events")
        found = {(each["involvedObject"]["name"], each["reason"], each["type"]) for each in events}
        return found == {
            (names[0], "MigrationStarted", "Normal"),
            (names[1], "MigrationCompleted", "Normal"),
            (names[2], "MigrationFailed", "Warning"),
        }

    await until(told)
    await claim.close()


async def test_when_architect_is_deleted_no_record_holds_up_its_namespace(
    nodes: list[Node], shop: Shop, client: Client
) -> None:
    one, _ = nodes
    old, migration = await moved(shop, one)
    said = await farewell.leave(client)
    assert any(f"{shop.namespace}/{migration} was under way" in each for each in said)
    record = await shop.until_record(old, lambda found: not found["metadata"].get("finalizers"))
    assert phase(record) == "Offered"
    assert not any(shop.namespace in each for each in await farewell.leave(client))
