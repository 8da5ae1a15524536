"""A container's state leaves one node and arrives at another, once, whatever ends in between."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from architect import images
from architect.images import ImageDir, verify
from architect.images.manifest import encode
from architect.ttrpc import node_v1
from architect.ttrpc.node_v1 import State
from architect.ttrpc.rpc import RpcError
from daemon.moving import arriving, coming, leaving
from tests.daemon.conftest import until
from tests.daemon.moving.conftest import Node
from tests.daemon.moving.plane import Plane, Record
from tests.daemon.moving.shims import Object, container

Pair = tuple[Node, Node]


def record(plane: Plane) -> Record:
    [found] = plane.records.values()
    return found


def check_arrived(answer: Any, old: Object, new: Object, node: Node) -> None:
    """All that `old` had is there for `new`."""
    assert answer.state == State.HERE, answer.reason
    uid = old["metadata"]["uid"]
    verify(ImageDir.at(answer.image))
    assert Path(answer.image, "criu", "core-1.img").read_text() == f"core of app of {uid}"
    assert Path(answer.layer, "written").read_text() == f"by app of {uid}"
    assert sorted(os.listdir(node.volume(new))) == ["cached", "of-an-init-container"]
    for name in ("cached", "of-an-init-container"):
        assert uid in (node.volume(new) / name).read_text()


async def over(plane: Plane, one: Node, two: Node, state: str = "arrived") -> None:
    await until(lambda: record(plane).state == state)
    # Who may ask for what is kept is still listened to.
    await until(lambda: not [each for each in one.below("leaving") if "pod.json" not in each])
    await until(lambda: [each for each in two.below("arriving") if "/.filled." not in each] == [])


async def test_image_layer_and_volume_arrive(pair: Pair, plane: Plane) -> None:
    one, two = pair
    old, new = one.leaves(), two.pod()
    assert await one.leave(old) == ""
    assert (await two.created(new)).expected
    await one.hand_over(old)
    check_arrived(await two.arrived(new), old, new, two)
    await two.settle(new)
    await over(plane, one, two)
    assert one.events == [("app", "MigrationSaved")]
    assert two.events == [("app", "MigrationExpected")]
    assert not (await two.created(new, identity="restarted")).expected


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_comes_to_a_pod_is_fetched_before_its_container_begins_and_taken_when_it_does(
    pair: Pair, plane: Plane, *, restarted: bool
) -> None:
    one, two = pair
    old, new = one.leaves(), two.pod()
    assert await one.leave(old) == ""
    two.appears(new)
    await plane.until(lambda: record(plane).target is not None)
    await one.hand_over(old)
    await until(lambda: any("/parcel/" in each for each in two.below("arriving")))
    await until(lambda: record(plane).state == "offered")
    assert sorted(os.listdir(two.volume(new))) == ["of-an-init-container"]
    if restarted:
        await two.again()
    assert (await two.created(new)).expected
    check_arrived(await two.arrived(new), old, new, two)
    await two.settle(new)
    await over(plane, one, two)
    assert two.events == [("app", "MigrationExpected")]


def arriving_bytes(node: Node) -> int:
    """Of what is not whole yet."""
    top = node.root / "state" / "arriving"
    return sum(path.stat().st_size for path in top.rglob("*.partial/**/pages-1.img"))


async def test_an_image_is_fetched_while_it_is_written(pair: Pair, plane: Plane) -> None:
    one, two = pair
    old, new = one.leaves(), two.pod()
    assert await one.leave(old) == ""
    assert (await two.created(new)).expected
    one.dumping(old, 4 << 20)
    await until(lambda: arriving_bytes(two) == 4 << 20)
    assert (record(plane).state, record(plane).offers) == ("leaving", 1)
    await one.hand_over(old)
    check_arrived(await two.arrived(new), old, new, two)
    await two.settle(new)
    await over(plane, one, two)
    assert record(plane).offers == 2, "once while it was written, and once whole"


async def test_what_is_not_saved_after_all_is_nobodys_though_most_of_it_came(
    pair: Pair, plane: Plane, tmp_path: Path
) -> None:
    one, two = pair
    old, new = one.leaves(), two.pod()
    assert await one.leave(old) == ""
    assert (await two.created(new)).expected
    one.dumping(old, 4 << 20)
    await until(lambda: arriving_bytes(two) == 4 << 20)
    with pytest.raises(RpcError, match="could not be saved"):
        await one.hand_over(old, layer=f"{tmp_path}/there-is-none")
    answer = await two.arrived(new)
    assert answer.state == State.LOST
    assert record(plane).state == "lost"
    await until(lambda: two.below("arriving") == [])


@pytest.mark.parametrize("which", ["source", "target"])
async def test_a_daemon_ends_while_an_image_is_fetched_that_is_still_written(
    pair: Pair, plane: Plane, which: str
) -> None:
    one, two = pair
    old, new = one.leaves(), two.pod()
    assert await one.leave(old) == ""
    assert (await two.created(new)).expected
    one.dumping(old, 4 << 20)
    await until(lambda: arriving_bytes(two) == 4 << 20)
    await (one if which == "source" else two).again()
    await one.hand_over(old)
    check_arrived(await two.arrived(new), old, new, two)
    await two.settle(new)
    await over(plane, one, two)


async def test_an_image_may_be_another_than_was_announced(
    pair: Pair, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coming, "_NEW_TICKET_SECONDS", 0.001)
    one, two = pair
    old, new = one.leaves(), two.pod()
    assert await one.leave(old, generation=7) == ""
    assert (await two.created(new)).expected
    await until(lambda: record(plane).offers == 1)
    await one.hand_over(old)
    check_arrived(await two.arrived(new), old, new, two)


async def test_what_came_for_a_container_that_never_begins_is_somebody_elses(
    pair: Pair, plane: Plane
) -> None:
    one, two = pair
    old, never = one.leaves(), two.pod()
    assert await one.leave(old) == ""
    await one.hand_over(old)
    two.appears(never)
    await until(lambda: any("/parcel/" in each for each in two.below("arriving")))
    await plane.change(record(plane), target=None, target_node="")
    await until(lambda: two.below("arriving") == [])
    new = two.pod()
    assert (await two.created(new)).expected
    check_arrived(await two.arrived(new), old, new, two)


async def test_a_pod_that_replaces_nobody_may_appear(pair: Pair) -> None:
    _, two = pair
    new = two.pod()
    two.appears(new)
    assert not (await two.created(new)).expected
    assert not two.events


async def test_a_sleeper_arrives_asleep_and_the_target_may_come_last(pair: Pair, plane: Plane) -> None:
    one, two = pair
    old = one.leaves()
    assert await one.leave(old, asleep=True) == ""
    await one.hand_over(old, asleep=True)
    new = two.pod()
    assert (await two.created(new)).expected
    answer = await two.arrived(new)
    assert answer.asleep
    check_arrived(answer, old, new, two)


@pytest.mark.parametrize(
    ("seen", "stays"),
    [
        ({}, True),
        ({"metadata": {"deletionTimestamp": "2026-11-21T17:00:00Z"}}, False),
        ({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True"}]}}, False),
        ({"metadata": {"uid": "of-the-next"}}, False),
    ],
    ids=["restarted", "deleted", "disrupted", "gone"],
)
async def test_it_is_told_whether_the_pod_of_who_does_not_move_stays(
    pair: Pair, seen: Object, stays: bool
) -> None:
    one, _ = pair
    old = one.pod()
    asked = node_v1.LeavesRequest(container=container(old, "app"))
    old["metadata"] |= seen.get("metadata", {})
    old["status"] = seen.get("status", {})
    answer = await one.ask("Leaves", asked)
    assert (answer.moves, answer.stays) == (False, stays)


async def test_who_does_not_leave_ends_and_who_follows_nobody_starts_as_always(pair: Pair) -> None:
    one, two = pair
    old = one.pod()
    assert await one.leave(old) == "it is only restarted"
    with pytest.raises(RpcError, match="nobody said that app moves"):
        await one.hand_over(old)
    assert not (await two.created(two.pod())).expected
    assert (await two.arrived(two.pod())).state == State.LOST
    assert one.below("leaving") == two.below("arriving") == []
    assert not one.events


@pytest.mark.parametrize("moment", ["before it was saved", "when it was offered", "when it was claimed"])
async def test_the_sources_daemon_ends(pair: Pair, plane: Plane, moment: str) -> None:
    one, two = pair
    old, new = one.leaves(), two.pod()
    assert await one.leave(old) == ""
    if moment == "before it was saved":
        await one.again()
    await one.hand_over(old)
    await until(lambda: record(plane).state == "offered")
    if moment == "when it was offered":
        await one.end()
    assert (await two.created(new)).expected
    if moment == "when it was claimed":
        await one.again()
    elif moment == "when it was offered":
        await one.start()
    check_arrived(await two.arrived(new), old, new, two)
    await two.settle(new)
    await over(plane, one, two)


@pytest.mark.parametrize(
    "moment",
    ["while it waits", "while it fetches", "when it is here", "when it was given", "when it settled"],
)
async def test_the_targets_daemon_ends(pair: Pair, plane: Plane, moment: str) -> None:
    one, two = pair
    old, new = one.leaves(), two.pod()
    assert await one.leave(old) == ""
    assert (await two.created(new)).expected
    if moment == "while it waits":
        await two.again()
    await one.hand_over(old, size=(64 << 20) if moment == "while it fetches" else 5000)
    if moment == "while it fetches":
        await until(lambda: any("partial" in each for each in two.below("arriving")))
    if moment == "when it is here":
        await until(lambda: record(plane).state == "taken")
    if moment in ("when it was given", "when it settled"):
        assert (await two.arrived(new)).state == State.HERE
    if moment == "when it settled":
        plane.away = True
        await two.settle(new)
    if moment != "while it waits":
        await two.again()
    plane.away = False
    if moment != "when it settled":
        assert (await two.created(new)).expected
        check_arrived(await two.arrived(new), old, new, two)
        await two.settle(new)
    await over(plane, one, two)


async def test_what_cannot_be_restored_is_kept_and_can_be_asked_for(pair: Pair, plane: Plane) -> None:
    one, two = pair
    old, new = one.leaves(), two.pod()
    assert await one.leave(old) == ""
    await one.hand_over(old)
    await two.created(new)
    assert (await two.arrived(new)).state == State.HERE
    await two.settle(new, here=False, reason="its mounts are others")
    await until(lambda: record(plane).state == "kept")
    assert one.leaving is not None
    await until(lambda: one.below("kept"))
    [kept] = await one.leaving.kept()
    assert (kept["name"].rpartition("/")[2], kept["reason"]) == ("app", "its mounts are others")
    verify(ImageDir.at(str(next(Path(kept["path"], "parcel/image").glob("*/*/*")))))
    await one.again()
    assert await one.leaving.kept() == [kept]
    await plane.change(record(plane), state="offered", target=None, target_node="", offer=None, reason="")
    again = two.pod()
    assert (await two.created(again)).expected
    check_arrived(await two.arrived(again), old, again, two)
    await two.settle(again)
    await over(plane, one, two)
    assert await one.leaving.kept() == []


async def test_a_state_is_given_to_one_container_once(pair: Pair, plane: Plane) -> None:
    one, two = pair
    old, new = one.leaves(), two.pod()
    assert await one.leave(old) == ""
    await one.hand_over(old)
    await two.created(new)
    for _ in range(2):  # asked again: the answer may have got lost
        assert (await two.arrived(new)).state == State.HERE
    assert (await two.arrived(new, identity="another")).state == State.LOST
    assert not (await two.created(new, identity="another")).expected
    assert (await two.arrived(new, identity="another")).state == State.LOST
    await until(lambda: record(plane).state == "kept")
    await until(lambda: one.below("kept"))


async def test_what_cannot_be_saved_stays_the_shims(pair: Pair, plane: Plane) -> None:
    one, two = pair
    old, new = one.leaves(), two.pod()
    assert await one.leave(old) == ""
    assert (await two.created(new)).expected
    image = one.dumped(old).path
    for layer in ("/nowhere", ""):  # it has ended in its way by the second
        request = node_v1.LeftRequest(container=container(old, "app"), image=image, layer=layer)
        with pytest.raises(RpcError):
            await one.ask("Left", request)
    assert (await two.arrived(new)).state == State.LOST
    await over(plane, one, two, "lost")


async def test_who_is_not_saved_in_time_is_not_waited_for(pair: Pair, plane: Plane) -> None:
    one, two = pair
    plane.seconds_left = 5
    old, new = one.leaves(), two.pod()
    assert await one.leave(old) == ""
    assert (await two.created(new)).expected
    assert (await two.arrived(new)).state == State.LOST
    assert record(plane).reason == "it was not saved before its grace period ended"
    with pytest.raises(RpcError):
        await one.hand_over(old)


@pytest.mark.parametrize("ahead", [False, True], ids=["when it is created", "before it is created"])
async def test_an_image_of_another_machine_is_not_fetched(pair: Pair, plane: Plane, ahead: bool) -> None:
    one, two = pair
    old, new = one.leaves(), two.pod()
    assert await one.leave(old) == ""
    image = one.dumped(old)
    manifest = images.read_manifest(image)
    Path(image.manifest_path).write_bytes(encode(replace(manifest, kernel="5.4.0-foreign")))
    await one.ask("Left", node_v1.LeftRequest(container=container(old, "app"), image=image.path))
    if ahead:
        two.appears(new)
        await over(plane, one, two, "kept")
    assert (await two.created(new)).expected, "it is to say why it starts fresh"
    answer = await two.arrived(new)
    assert (answer.state, "5.4.0-foreign" in answer.reason) == (State.LOST, True)
    assert os.listdir(two.volume(new)) == ["of-an-init-container"]
    await over(plane, one, two, "kept")
    again = await two.created(new, identity="restarted")
    assert (again.expected, "5.4.0-foreign" in again.reason) == (False, True)


async def test_without_a_control_plane_everything_goes_the_ordinary_way(pair: Pair, plane: Plane) -> None:
    one, two = pair
    plane.away = True
    assert await one.leave(one.leaves()) == "the control plane is away"
    assert not (await two.created(two.pod())).expected
    assert one.below("leaving") == two.below("arriving") == []
    assert one.events == [("app", "MigrationUnavailable")]


async def test_who_has_little_time_to_end_does_not_spend_it_on_asking(pair: Pair, plane: Plane) -> None:
    one, _ = pair
    plane.delay = 30.0
    old = one.leaves()
    old["metadata"]["deletionGracePeriodSeconds"] = 5
    assert await one.leave(old) == "there was no answer within 2 s"
    assert one.events == [("app", "MigrationUnavailable")]


def test_most_of_a_grace_period_is_left_after_asking() -> None:
    def within(grace: int | None, usual: int | None = None) -> float:
        metadata = {} if grace is None else {"deletionGracePeriodSeconds": grace}
        spec = {} if usual is None else {"terminationGracePeriodSeconds": usual}
        return leaving.patience({"metadata": metadata, "spec": spec})

    assert [within(0), within(5), within(10), within(30)] == [0, 2, 4, 12]
    assert within(600) == leaving.LEAVE_SECONDS
    assert (within(5, 60), within(None, 10), within(None)) == (2, 4, 12)


async def test_who_is_told_too_late_starts_as_always_and_declines(
    pair: Pair, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arriving, "CLAIM_SECONDS", 0.5)
    one, two = pair
    old, new = one.leaves(), two.pod()
    assert await one.leave(old) == ""
    await one.hand_over(old)
    plane.delay = 2.0
    assert not (await two.created(new)).expected
    await until(lambda: record(plane).state == "kept")
    assert not two.below("arriving")


async def test_links_that_a_pod_made_are_not_followed(pair: Pair, plane: Plane, tmp_path: Path) -> None:
    one, two = pair
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("of the node")
    old, new = one.leaves(), two.pod()
    assert await one.leave(old) == ""
    image = one.dumped(old)
    volume = one.volume(old)
    volume.rename(volume.with_name("elsewhere"))
    volume.symlink_to(secret)
    with pytest.raises(RpcError, match="could not be saved"):
        await one.ask("Left", node_v1.LeftRequest(container=container(old, "app"), image=image.path))
    assert not (await two.created(new)).expected
    assert (secret / "key").read_text() == "of the node"


@pytest.mark.parametrize(
    "wrong",
    [{"name": "../app"}, {"pod_uid": ""}, {"pod_namespace": "a/b"}, {"id": ""}, {"pod_name": "x\0"}],
    ids=str,
)
async def test_names_that_are_none_are_refused(pair: Pair, wrong: dict[str, str]) -> None:
    one, _ = pair
    named = replace(container(one.pod(), "app"), **wrong)
    for method, (request, _) in node_v1.METHODS.items():
        with pytest.raises(RpcError):
            await one.ask(method, request(container=named))
    with pytest.raises(RpcError):
        await one.ask("Leaves", node_v1.LeavesRequest())


@pytest.mark.parametrize(
    "path", ["/etc", "{root}/state/pods/{uid}/other/1", "{root}/state/pods/../pods/{uid}/app/1"]
)
async def test_an_image_that_is_not_the_containers_is_refused(pair: Pair, plane: Plane, path: str) -> None:
    one, _ = pair
    old = one.leaves()
    assert await one.leave(old) == ""
    one.dumped(old)
    image = path.format(root=one.root, uid=old["metadata"]["uid"])
    with pytest.raises(RpcError):
        await one.ask("Left", node_v1.LeftRequest(container=container(old, "app"), image=image))
