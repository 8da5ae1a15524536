"""Two nodes' daemons, a control plane and a real API server move containers' state; shims are played."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from architect import images
from architect.images import ImageDir, verify
from architect.images.manifest import encode
from architect.kube import Client
from architect.ttrpc import node_v1
from architect.ttrpc.node_v1 import State
from architect.ttrpc.rpc import RpcError
from controlplane import resource
from tests.daemon.moving.shims import container
from tests.kube.apiserver import ApiServer, until
from tests.kube.migrating import TEMPLATE, Object, Replica, Shop, phase
from tests.kube.moving_node import MovingNode, moving_node


@pytest.fixture
async def pair(
    server: ApiServer, client: Client, control: Replica, tmp_path: Path
) -> AsyncIterator[tuple[MovingNode, MovingNode]]:
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(moving_node(name, tmp_path / name, server, client, control))
            for name in ("node-1", "node-2")
        ]
        yield one, two
        for node in (one, two):
            print(f"---- {node.name}\n{node.said()[-8000:]}")  # noqa: T201 shown when a test fails


@pytest.fixture
async def shop(client: Client, namespace: str) -> Shop:
    """Its pods have an emptyDir."""
    template = json.loads(json.dumps(TEMPLATE))
    template["spec"]["volumes"] = [{"name": "cache", "emptyDir": {}}, {"name": "own", "emptyDir": {}}]
    template["spec"]["containers"][0]["volumeMounts"] = [{"name": "cache", "mountPath": "/cache"}]
    found = Shop(client, namespace, template=template)
    await found.deploy()
    return found


async def leaving(shop: Shop, node: MovingNode) -> Object:
    """A pod that runs on the node and is told to go."""
    old = await shop.running(node.name)
    node.make_volume(old)
    await shop.evict(old, grace=600)
    return old


async def coming(shop: Shop, node: MovingNode) -> Object:
    new = await shop.pod(node.name)
    node.make_volume(new)
    return new


async def brought(shop: Shop, one: MovingNode, two: MovingNode) -> tuple[Object, Object]:
    """Two pods: what one has left is given to the other, and nobody knows yet what became of it."""
    old = await leaving(shop, one)
    assert await one.leave(old) == ""
    await one.hand_over(old)
    new = await coming(shop, two)
    await two.created(new)
    assert (await two.arrived(new)).state == State.HERE
    return old, new


def check_arrived(answer: Any, old: Object, new: Object, node: MovingNode) -> None:
    """All that `old` had is there for `new`."""
    assert answer.state == State.HERE, answer.reason
    uid = old["metadata"]["uid"]
    verify(ImageDir.at(answer.image))
    assert Path(answer.image, "criu", "core-1.img").read_text() == f"core of app of {uid}"
    assert Path(answer.layer, "written").read_text() == f"by app of {uid}"
    volume = node.volume(new)
    assert (volume / "cached").read_text() == f"by {uid}"
    assert (volume / "of-an-init-container").read_text() == uid


async def test_image_layer_and_volume_arrive(pair: tuple[MovingNode, MovingNode], shop: Shop) -> None:
    one, two = pair
    old = await leaving(shop, one)
    assert await one.leave(old) == ""
    new = await coming(shop, two)
    assert (await two.created(new)).expected
    await one.hand_over(old)
    check_arrived(await two.arrived(new), old, new, two)
    await two.settle(new)
    record = await shop.until_record(old, lambda found: phase(found) == "Arrived")
    part = record["status"]["containers"][0]
    assert (part["freezeMicroseconds"], part["restoreMicroseconds"]) == (70, 90)
    await until(lambda: not one.below("leaving"))
    await until(lambda: not any("parcel" in each or "arrival" in each for each in two.below("arriving")))
    await shop.finish(old)
    assert not (await two.created(new, identity="restarted")).expected


async def test_a_sleeper_arrives_asleep_and_the_target_may_come_last(
    pair: tuple[MovingNode, MovingNode], shop: Shop
) -> None:
    one, two = pair
    old = await leaving(shop, one)
    assert await one.leave(old, asleep=True) == ""
    await one.hand_over(old, asleep=True)
    new = await coming(shop, two)
    assert (await two.created(new)).expected
    answer = await two.arrived(new)
    assert answer.asleep
    check_arrived(answer, old, new, two)


async def test_what_comes_to_a_pod_is_fetched_before_its_container_begins(
    pair: tuple[MovingNode, MovingNode], shop: Shop, client: Client
) -> None:
    one, two = pair
    old = await leaving(shop, one)
    assert await one.leave(old) == ""
    await one.hand_over(old)
    gone = await coming(shop, two)
    await until(lambda: any("/parcel/" in each for each in two.below("arriving")))
    await shop.until_record(old, lambda found: phase(found) == "Offered")
    await client.delete(gone["path"], gracePeriodSeconds="0")
    await until(lambda: not two.below("arriving"))
    new = await coming(shop, two)
    await until(lambda: any("/parcel/" in each for each in two.below("arriving")))
    assert (await two.created(new)).expected
    check_arrived(await two.arrived(new), old, new, two)


async def test_who_is_not_leaving_ends_and_who_follows_nobody_starts_as_always(
    pair: tuple[MovingNode, MovingNode], shop: Shop
) -> None:
    one, two = pair
    old = await shop.running("node-1")
    assert "not being deleted" in await one.leave(old) or await one.leave(old)
    with pytest.raises(RpcError, match="nobody said that app moves"):
        await one.hand_over(old)
    assert not (await two.created(await shop.pod("node-2"))).expected
    assert one.below("leaving") == two.below("arriving") == []


@pytest.mark.parametrize("moment", ["before it was saved", "when it was saved", "when it was offered"])
async def test_the_sources_daemon_is_killed(
    pair: tuple[MovingNode, MovingNode], shop: Shop, moment: str
) -> None:
    one, two = pair
    old = await leaving(shop, one)
    assert await one.leave(old) == ""
    if moment == "before it was saved":
        await one.kill()
        await one.start()
    await one.hand_over(old)
    if moment == "when it was offered":
        await shop.until_record(old, lambda found: phase(found) == "Offered")
    if moment != "before it was saved":
        await one.kill()
    new = await coming(shop, two)
    assert (await two.created(new)).expected
    if moment != "before it was saved":
        await one.start()
    check_arrived(await two.arrived(new), old, new, two)
    await two.settle(new)
    await shop.until_record(old, lambda found: phase(found) == "Arrived")
    await until(lambda: not one.below("leaving"))


@pytest.mark.parametrize(
    "moment", ["while it waits", "while it fetches", "when it is here", "when it was given"]
)
async def test_the_targets_daemon_is_killed(
    pair: tuple[MovingNode, MovingNode], shop: Shop, moment: str
) -> None:
    one, two = pair
    old = await leaving(shop, one)
    assert await one.leave(old) == ""
    new = await coming(shop, two)
    assert (await two.created(new)).expected
    if moment == "while it waits":
        await two.kill()
        await two.start()
    await one.hand_over(old, size=(100 << 20) if moment == "while it fetches" else 5000)
    if moment == "while it fetches":
        await until(lambda: any("partial" in each for each in two.below("arriving")))
    if moment == "when it is here":
        await shop.until_record(old, lambda found: phase(found) == "Taken")
    if moment == "when it was given":
        assert (await two.arrived(new)).state == State.HERE
    if moment != "while it waits":
        await two.kill()
        await two.start()
    assert (await two.created(new)).expected
    check_arrived(await two.arrived(new), old, new, two)
    await two.settle(new)
    await shop.until_record(old, lambda found: phase(found) == "Arrived")
    await until(lambda: not one.below("leaving"))


async def test_what_became_of_it_is_told_when_the_control_plane_is_back(
    pair: tuple[MovingNode, MovingNode], shop: Shop, server: ApiServer
) -> None:
    one, two = pair
    old, new = await brought(shop, one, two)
    server.kill()  # and with it, what the control plane can decide
    await two.settle(new)
    await two.kill()
    server.start()
    await server.ready()
    await two.start()
    await shop.until_record(old, lambda found: phase(found) == "Arrived")
    await until(lambda: not one.below("leaving"))


async def test_what_cannot_be_restored_is_kept_where_it_was(
    pair: tuple[MovingNode, MovingNode], shop: Shop, client: Client
) -> None:
    one, two = pair
    old, new = await brought(shop, one, two)
    await two.settle(new, here=False, reason="its mounts are others")
    await shop.until_record(old, lambda found: phase(found) == "Kept")
    await until(lambda: one.below("kept"))
    [kept] = (await one.people("/v1/kept"))["kept"]
    assert (kept["name"].rpartition("/")[2], kept["reason"]) == ("app", "its mounts are others")
    image = next(Path(kept["path"], "parcel/image").glob("*/*/*"))
    verify(ImageDir.at(str(image)))
    await one.kill()
    await one.start()
    assert (await one.people("/v1/kept"))["kept"] == [kept]
    event = await until(lambda: warned(client, new))
    assert "its mounts are others" in event["message"]


async def warned(client: Client, pod: Object) -> Object | None:
    """The Warning that the pod's container starts without the state it was to have."""
    path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/events"
    for event in await client.all(path):
        uid = event["involvedObject"].get("uid")
        if (event["reason"], uid) == ("MigrationFailed", pod["metadata"]["uid"]):
            assert event["type"] == "Warning"
            return event
    return None


async def test_a_state_is_given_to_one_container_once(
    pair: tuple[MovingNode, MovingNode], shop: Shop
) -> None:
    one, two = pair
    old, new = await brought(shop, one, two)
    assert (await two.arrived(new)).state == State.HERE  # asked again: its answer may have got lost
    assert (await two.arrived(new, identity="another")).state == State.LOST
    assert not (await two.created(new, identity="another")).expected
    assert (await two.arrived(new, identity="another")).state == State.LOST
    await shop.until_record(old, lambda found: phase(found) == "Kept")
    await until(lambda: one.below("kept"))


async def test_what_cannot_be_saved_stays_the_shims(pair: tuple[MovingNode, MovingNode], shop: Shop) -> None:
    one, two = pair
    old = await leaving(shop, one)
    assert await one.leave(old) == ""
    new = await coming(shop, two)
    assert (await two.created(new)).expected
    image = one.dumped(old).path
    for layer in ("/nowhere", ""):  # it has ended in its way by the second
        request = node_v1.LeftRequest(container=container(old, "app"), image=image, layer=layer)
        with pytest.raises(RpcError, match="could not be saved"):
            await one.ask("Left", request)
    answer = await two.arrived(new)
    assert answer.state == State.LOST
    await shop.until_record(old, lambda found: phase(found) == "Lost")
    await until(lambda: not one.below("leaving"))


async def test_an_image_of_another_machine_is_refused_before_it_is_fetched(
    pair: tuple[MovingNode, MovingNode], shop: Shop
) -> None:
    one, two = pair
    old = await leaving(shop, one)
    assert await one.leave(old) == ""
    image = one.dumped(old)
    manifest = images.read_manifest(image)
    Path(image.manifest_path).write_bytes(encode(replace(manifest, kernel="5.4.0-foreign")))
    request = node_v1.LeftRequest(container=container(old, "app"), image=image.path)
    await one.ask("Left", request)
    new = await coming(shop, two)
    await two.created(new)
    answer = await two.arrived(new)
    assert (answer.state, "5.4.0-foreign" in answer.reason) == (State.LOST, True)
    assert two.volume(new).joinpath("of-an-init-container").read_text() == new["metadata"]["uid"]
    await until(lambda: one.below("kept") and not two.below("arriving"))


@contextmanager
def small_disk(path: Path, kilobytes: int) -> Iterator[None]:
    """Meanwhile so much fits below `path`."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


async def test_what_does_not_fit_on_the_source_s_disk_is_not_saved_and_nothing_stays_there(
    pair: tuple[MovingNode, MovingNode], shop: Shop, client: Client
) -> None:
    one, two = pair
    old = await leaving(shop, one)
    one.layer(old, "app").mkdir(parents=True)
    (one.layer(old, "app") / "large").write_bytes(os.urandom(3 << 20))
    with small_disk(one.root / "state", 2048):
        assert await one.leave(old) == ""
        new = await coming(shop, two)
        assert (await two.created(new)).expected
        with pytest.raises(RpcError, match=r"could not be saved: .*No space left"):
            await one.hand_over(old)
        answer = await two.arrived(new)
        assert (answer.state, "No space left" in answer.reason) == (State.LOST, True)
        await shop.until_record(old, lambda found: phase(found) == "Lost")
        await until(lambda: not one.below("leaving"))
    assert "there is no copy" in (await until(lambda: warned(client, new)))["message"]


@pytest.mark.parametrize("full", ["before it comes", "for its layer", "for its volume"])
async def test_what_does_not_fit_on_the_target_s_disk_is_kept_and_goes_where_it_fits(
    pair: tuple[MovingNode, MovingNode], shop: Shop, client: Client, full: str
) -> None:
    one, two = pair
    old = await leaving(shop, one)
    one.layer(old, "app").mkdir(parents=True)
    (one.layer(old, "app") / "large").write_bytes(os.urandom(3 << 20))
    (one.volume(old) / "large").write_bytes(os.urandom(3 << 20))
    assert await one.leave(old) == ""
    new = await coming(shop, two)
    # Its parcel has 6 MB.
    place, kilobytes = two.root / "state", {"before it comes": 4096, "for its layer": 8192}.get(full, 1024)
    if full == "for its volume":
        place = two.volume(new)
    with small_disk(place, kilobytes):
        assert (await two.created(new)).expected
        await one.hand_over(old)
        answer = await two.arrived(new)
        assert answer.state == State.LOST
        assert "fit on this node" in answer.reason or "No space left" in answer.reason
        await shop.until_record(old, lambda found: phase(found) == "Kept")
        await until(lambda: not any("parcel" in each for each in two.below("arriving")))
        assert full != "for its volume" or not list(place.iterdir()), "nobody begins with half a volume"
    assert "its copy is kept on node-1" in (await until(lambda: warned(client, new)))["message"]
    await restored(shop, client, pair, old, new)


async def test_a_source_that_does_not_come_back_is_not_waited_for_and_gives_its_copy_when_it_does(
    pair: tuple[MovingNode, MovingNode], shop: Shop, client: Client
) -> None:
    one, two = pair
    await two.kill()
    two.arguments["waits"] = 2.0
    await two.start()
    old = await leaving(shop, one)
    assert await one.leave(old) == ""
    await one.hand_over(old)
    await shop.until_record(old, lambda found: phase(found) == "Offered")
    await one.kill()
    new = await coming(shop, two)
    assert (await two.created(new)).expected
    answer = await two.arrived(new)
    assert (answer.state, "did not come" in answer.reason) == (State.LOST, True)
    await shop.until_record(old, lambda found: phase(found) == "Kept")
    assert "its copy is kept on node-1" in (await until(lambda: warned(client, new)))["message"]
    await one.start()
    await until(lambda: one.below("kept"))
    await two.kill()
    del two.arguments["waits"]
    await two.start()
    await restored(shop, client, pair, old, new)


async def restored(
    shop: Shop, client: Client, pair: tuple[MovingNode, MovingNode], old: Object, fresh: Object
) -> None:
    """The copy of `old` is asked for, and the pod that replaces `fresh` gets it."""
    one, two = pair
    await until(lambda: one.below("kept"))
    await shop.begin(fresh)
    record = await shop.until_record(old, lambda found: phase(found) == "Kept")
    path = f"{resource.collection(shop.namespace)}/{record['metadata']['name']}"
    await client.patch(path, {"metadata": {"annotations": {"architect.loopholelabs.io/restore": ""}}})
    await shop.until_record(old, lambda found: phase(found) == "Offered")
    await shop.evict(fresh)
    new = await coming(shop, two)
    assert (await two.created(new)).expected
    check_arrived(await two.arrived(new), old, new, two)
    await two.settle(new)
    await shop.until_record(old, lambda found: phase(found) == "Arrived")
    await until(lambda: not one.below("kept"))


async def test_without_a_control_plane_everything_goes_the_ordinary_way(
    pair: tuple[MovingNode, MovingNode], shop: Shop, control: Replica
) -> None:
    one, two = pair
    one.arguments["patience"] = two.arguments["patience"] = 1.0
    for node in (one, two):
        await node.kill()
        await node.start()
    old = await leaving(shop, one)
    control.stop.set()
    assert await one.leave(old)
    assert not (await two.created(await shop.pod("node-2"))).expected
    assert one.below("leaving") == two.below("arriving") == []


@pytest.mark.parametrize(
    "wrong",
    [{"name": "../app"}, {"pod_uid": ""}, {"pod_namespace": "a/b"}, {"id": ""}, {"pod_name": "x\0"}],
    ids=str,
)
async def test_names_that_are_none_are_refused(
    pair: tuple[MovingNode, MovingNode], shop: Shop, wrong: dict[str, str]
) -> None:
    one, _ = pair
    named = replace(container(await shop.running("node-1"), "app"), **wrong)
    for method, (request, _) in node_v1.METHODS.items():
        with pytest.raises(RpcError):
            await one.ask(method, request(container=named))
    with pytest.raises(RpcError):
        await one.ask("Leaves", node_v1.LeavesRequest())
