"""A wake that the node's memory has no room for waits, and is refused when it has waited long enough."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from architect.room import RESERVE_BYTES, NoRoom, Room, available_bytes
from tests.daemon.conftest import Box, until
from tests.daemon.fake_shim import FakeShim, container

ID = "c" * 64
MIB = 1 << 20


class Node:
    """What the node has left."""

    def __init__(self, mib: int) -> None:
        self.mib = mib

    def available(self) -> int:
        return self.mib * MIB + RESERVE_BYTES


async def test_what_fits_does_not_wait() -> None:
    room = Room(Node(100).available, wait_seconds=0)
    await room.wait(100 * MIB)
    with pytest.raises(NoRoom, match="needs 101 MiB of memory and the node has 100 MiB to spare"):
        await room.wait(101 * MIB)


async def test_what_wakes_under_way_will_need_is_taken() -> None:
    room = Room(Node(100).available, wait_seconds=0)
    with room.promised(60 * MIB), pytest.raises(NoRoom, match="40 MiB to spare"):
        await room.wait(60 * MIB)
    await room.wait(60 * MIB)


async def test_a_wake_goes_on_when_memory_comes_free() -> None:
    node = Node(10)
    room = Room(node.available)
    waiting = asyncio.create_task(room.wait(50 * MIB))
    await asyncio.sleep(0)
    assert not waiting.done()
    node.mib = 50
    async with asyncio.timeout(20):
        await waiting


def test_the_real_node_has_memory() -> None:
    assert available_bytes() > MIB


def asleep(box: Box, key: str, container_id: str, mib: int) -> FakeShim:
    status = container(container_id, phase="SCALED_DOWN", sleeps=1, saved_bytes=mib * MIB)
    shim = box.shim(key, status)
    shim.close_gate(container_id)
    return shim


async def test_a_full_node_refuses_a_wake_with_a_sentence_and_wakes_when_it_has_room(
    box: Box, stack: AsyncExitStack
) -> None:
    node = Node(10)
    box.room = Room(node.available, wait_seconds=0)
    shim = await stack.enter_async_context(asleep(box, "pod1", ID, 500))
    small = await stack.enter_async_context(asleep(box, "pod2", "d" * 64, 5))
    await stack.enter_async_context(box.daemon())
    await box.until_state(ID, "SCALED_DOWN")
    await box.until_state("d" * 64, "SCALED_DOWN")
    status, answer = await box.ask("POST", f"/v1/containers/{ID}/wake")
    assert status == 503
    assert "it needs 500 MiB of memory and the node has 10 MiB to spare" in answer["error"]
    assert await box.metric('architect_failures_total{operation="wake",reason="memory"}') == 1
    await until(lambda: small.readers and shim.readers)
    small.packet("d" * 64)  # what fits is not held up
    await box.until_state("d" * 64, "RUNNING")
    shim.packet(ID)
    await box.until_metric('architect_failures_total{operation="wake",reason="memory"}', 2)
    assert shim.calls == []
    node.mib = 500  # the packet is held, so it is tried again
    await box.until_state(ID, "RUNNING")
