"""A container goes on in one that was made from the same image: by its digest, where both nodes know it."""

from __future__ import annotations

import os

import pytest

from architect.ttrpc.node_v1 import State
from tests.daemon.conftest import until
from tests.daemon.moving.conftest import Node
from tests.daemon.moving.containerd import made, telling
from tests.daemon.moving.plane import Plane
from tests.daemon.moving.test_moving import check_arrived, over

Pair = tuple[Node, Node]
ONE, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64


REASON = "its image is another one here by the same name (sha256:111111111111 then, sha256:222222222222 now)"


@pytest.mark.parametrize("asleep", [False, True])
@pytest.mark.parametrize("restarted", [False, True])
async def test_another_image_by_the_same_name_is_refused_and_the_copy_kept(
    pair: Pair, plane: Plane, asleep: bool, restarted: bool
) -> None:
    one, two = pair
    old, new = one.leaves(), two.pod()
    async with telling(one, [made(old, ONE)]), telling(two, [made(new, OTHER)]):
        assert await one.leave(old, asleep=asleep) == ""
        await one.hand_over(old, asleep=asleep)
        if restarted:
            await one.again()
        assert (await two.created(new)).expected
        answer = await two.arrived(new)
    assert (answer.state, answer.reason) == (State.LOST, REASON)
    assert os.listdir(two.volume(new)) == ["of-an-init-container"], "nothing was used of it"
    await over(plane, one, two, "kept")


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_came_before_its_container_was_made_is_compared_when_it_is(
    pair: Pair, plane: Plane, restarted: bool
) -> None:
    one, two = pair
    old, new = one.leaves(), two.pod()
    known: list[object] = []
    async with telling(one, [made(old, ONE)]), telling(two, known):
        assert await one.leave(old) == ""
        await one.hand_over(old)
        two.appears(new)
        await until(lambda: any("/parcel/" in each for each in two.below("arriving")))
        if restarted:
            await two.again()
        known.append(made(new, OTHER))
        assert (await two.created(new)).expected
        answer = await two.arrived(new)
    assert (answer.state, answer.reason) == (State.LOST, REASON)
    await over(plane, one, two, "kept")


async def test_the_same_image_by_its_digest_is_what_counts(pair: Pair, plane: Plane) -> None:
    one, two = pair
    old, new = one.leaves(), two.pod()
    before = [made(old, OTHER, created=1), made(old, ONE, created=2), made(old, OTHER, name="beside")]
    async with telling(one, before), telling(two, [made(new, ONE), made(old, OTHER)]):
        assert await one.leave(old) == ""
        await one.hand_over(old)
        assert (await two.created(new)).expected
        check_arrived(await two.arrived(new), old, new, two)


@pytest.mark.parametrize("known", ["to nobody", "to the source", "to the target", "as no digest"])
async def test_names_decide_where_a_digest_is_not_known(pair: Pair, plane: Plane, known: str) -> None:
    one, two = pair
    old, new = one.leaves(), two.pod()
    at_one = [made(old, {"to the source": ONE, "as no digest": "local/web:1"}.get(known, ""))]
    at_two = [made(new, OTHER)] if known in ("to the target", "as no digest") else []
    async with telling(one, at_one), telling(two, at_two):
        assert await one.leave(old) == ""
        await one.hand_over(old)
        assert (await two.created(new)).expected
        check_arrived(await two.arrived(new), old, new, two)
