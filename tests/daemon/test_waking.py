from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack

import pytest

from architect.ttrpc.server import Code, RpcError
from daemon.waking import FIRST_RETRY_SECONDS
from tests.daemon.conftest import Box, until
from tests.daemon.fake_shim import FakeShim, container

ID = "c" * 64


def asleep(box: Box, key: str = "pod1", container_id: str = ID) -> FakeShim:
    """A shim with a sleeping container and a closed gate."""
    shim = box.shim(key, container(container_id, phase="SCALED_DOWN", sleeps=1, saved_bytes=1, image_bytes=1))
    shim.close_gate(container_id)
    return shim


async def test_a_held_packet_wakes_its_container(box: Box, stack: AsyncExitStack) -> None:
    shim = await stack.enter_async_context(asleep(box))
    await stack.enter_async_context(box.daemon())
    await until(lambda: shim.readers)
    shim.packet(ID)
    await box.until_state(ID, "RUNNING")
    assert shim.calls == [("wake", ID, "packet")]
    assert await box.metric("architect_packets_held_total") == 1
    assert await box.metric('architect_wakes_total{cause="packet"}') == 1
    assert await box.metric('architect_wake_seconds_bucket{le="0.05"}') == 1
    assert await box.metric('architect_wake_seconds_bucket{le="0.04"}') == 0
    assert await box.metric("architect_gates_closed") == 0


async def test_a_packet_held_before_the_daemon_came_wakes_too(box: Box, stack: AsyncExitStack) -> None:
    shim = asleep(box)
    shim.packet(ID)
    await stack.enter_async_context(shim)
    await stack.enter_async_context(box.daemon())
    await box.until_state(ID, "RUNNING")


async def test_many_packets_and_a_person_share_one_wake(box: Box, stack: AsyncExitStack) -> None:
    shim = asleep(box)
    may_wake = asyncio.Event()

    async def wait(_: str) -> None:
        await may_wake.wait()

    shim.on_wake = wait
    await stack.enter_async_context(shim)
    await stack.enter_async_context(box.daemon())
    await until(lambda: shim.readers)
    shim.packet(ID)
    await until(lambda: shim.calls)
    people = [asyncio.create_task(box.ask("POST", f"/v1/containers/{ID}/wake")) for _ in range(3)]
    for _ in range(20):
        shim.packet(ID)
    await box.until_metric("architect_packets_held_total", 21)
    may_wake.set()
    assert [status for status, _ in await asyncio.gather(*people)] == [200, 200, 200]
    assert shim.calls == [("wake", ID, "packet")]


async def test_a_wake_that_fails_is_tried_again_while_packets_are_held(
    box: Box, stack: AsyncExitStack
) -> None:
    shim = asleep(box)

    async def fail_twice(_: str) -> None:
        if len(shim.calls) < 3:
            raise RpcError(Code.INTERNAL, "criu failed")

    shim.on_wake = fail_twice
    await stack.enter_async_context(shim)
    await stack.enter_async_context(box.daemon())
    await until(lambda: shim.readers)
    shim.packet(ID)
    await box.until_state(ID, "RUNNING")
    assert len(shim.calls) == 3


async def test_it_is_not_tried_again_once_the_gate_is_open(box: Box, stack: AsyncExitStack) -> None:
    shim = asleep(box)

    async def fail(_: str) -> None:
        raise RpcError(Code.INTERNAL, "criu failed")

    shim.on_wake = fail
    await stack.enter_async_context(shim)
    other = await stack.enter_async_context(asleep(box, "pod2", "d" * 64))
    await stack.enter_async_context(box.daemon())
    await until(lambda: shim.readers and other.readers)
    shim.packet(ID)
    await until(lambda: shim.calls)
    shim.open_gate(ID)
    calls = len(shim.calls)
    await asyncio.sleep(3 * FIRST_RETRY_SECONDS)  # longer than the pause that is under way
    assert len(shim.calls) == calls
    other.packet("d" * 64)
    await box.until_state("d" * 64, "RUNNING")


async def test_restores_are_limited_and_queue_in_order(box: Box, stack: AsyncExitStack) -> None:
    box.restore_limit = 2
    ids = [character * 64 for character in "abcdef"]
    gates = {container_id: asyncio.Event() for container_id in ids}
    order: list[str] = []
    shims = []

    async def wait(container_id: str) -> None:
        order.append(container_id)
        await gates[container_id].wait()

    for container_id in ids:
        shim = asleep(box, f"pod-{container_id[0]}", container_id)
        shim.on_wake = wait
        shims.append(await stack.enter_async_context(shim))
    await stack.enter_async_context(box.daemon())
    await until(lambda: all(shim.readers for shim in shims))
    for number, (shim, container_id) in enumerate(zip(shims, ids, strict=True), 1):
        shim.packet(container_id)
        await box.until_metric("architect_packets_held_total", number)
    await until(lambda: len(order) == 2)
    assert await box.metric("architect_wakes_waiting") == 4
    for done, container_id in enumerate(ids, 1):
        assert order == ids[: min(done + 1, 6)]
        gates[container_id].set()
        started = min(done + 2, 6)
        await until(lambda: len(order) == started)  # noqa: B023  awaited before the loop goes on
    for container_id in ids:
        await box.until_state(container_id, "RUNNING")


async def test_a_shim_that_goes_away_takes_its_descriptors_and_containers_along(
    box: Box, stack: AsyncExitStack
) -> None:
    other = await stack.enter_async_context(asleep(box, "pod2", "d" * 64))
    await stack.enter_async_context(box.daemon())
    ours, lent = socket.socketpair()
    with ours:
        ours.setblocking(False)
        async with asleep(box) as shim:
            await until(lambda: shim.readers and other.readers)
            await box.until_state(ID, "SCALED_DOWN")
            with lent:
                shim.say(b'{"gate": "closed", "container": "one more"}', (lent.fileno(),))
            await box.until_metric("architect_gates_closed", 3)
            with pytest.raises(BlockingIOError):  # the daemon holds the other end
                ours.recv(1)
        await box.until_state(ID, None)
        async with asyncio.timeout(20):
            assert await asyncio.get_running_loop().sock_recv(ours, 1) == b""
    other.packet("d" * 64)
    await box.until_state("d" * 64, "RUNNING")


async def test_a_new_daemon_takes_over_from_one_that_ended(box: Box, stack: AsyncExitStack) -> None:
    shim = await stack.enter_async_context(asleep(box))
    async with box.daemon():
        await until(lambda: shim.readers)
        await box.until_state(ID, "SCALED_DOWN")
    await until(lambda: not shim.readers)  # the shim reads its queue itself meanwhile
    assert shim.calls == []
    await stack.enter_async_context(box.daemon())
    await until(lambda: shim.readers)
    shim.packet(ID)
    await box.until_state(ID, "RUNNING")


async def test_a_descriptor_that_is_no_socket_is_refused_and_closed(box: Box, stack: AsyncExitStack) -> None:
    shim = await stack.enter_async_context(asleep(box))
    await stack.enter_async_context(box.daemon())
    await until(lambda: shim.readers)
    first = shim.readers[0]
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    shim.say(b'{"gate": "closed", "container": "%s"}' % ID.encode(), (write_end,))
    os.close(write_end)
    await until(lambda: shim.readers and shim.readers[0] is not first)
    assert os.read(read_end, 1) == b""  # nobody holds the other end
    os.close(read_end)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\xff\x00 nothing", id="no JSON"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b'{"gate": "closed", "container": "c"}', id="closed, without a descriptor"),
        pytest.param(b'{"gate": "ajar", "container": "c"}', id="neither closed nor open"),
        pytest.param(b'{"gate": "closed", "container": 7}', id="no id"),
        pytest.param(b'{"gate": "open", "container": "' + b"c" * 8000 + b'"}', id="longer than 4 KiB"),
    ],
)
async def test_nonsense_on_the_gate_connection_ends_only_that_connection(
    box: Box, stack: AsyncExitStack, message: bytes
) -> None:
    shim = await stack.enter_async_context(asleep(box))
    await stack.enter_async_context(box.daemon())
    await until(lambda: shim.readers)
    first = shim.readers[0]
    shim.say(message)
    await until(lambda: shim.readers and shim.readers[0] is not first)  # it comes again
    shim.packet(ID)
    await box.until_state(ID, "RUNNING")


async def test_descriptors_that_come_with_nonsense_are_closed(box: Box, stack: AsyncExitStack) -> None:
    shim = await stack.enter_async_context(asleep(box))
    await stack.enter_async_context(box.daemon())
    await until(lambda: shim.readers)
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        with theirs:
            shim.say(b"nonsense", (theirs.fileno(), theirs.fileno(), theirs.fileno()))
        async with asyncio.timeout(20):
            assert await asyncio.get_running_loop().sock_recv(ours, 1) == b""  # nobody holds the other end


async def test_a_queue_that_cannot_be_read_is_left_to_the_shim(box: Box, stack: AsyncExitStack) -> None:
    shim = await stack.enter_async_context(asleep(box))
    await stack.enter_async_context(box.daemon())
    await until(lambda: shim.readers)
    first = shim.readers[0]
    with socket.socket() as unconnected:  # readable, and reading it fails
        shim.say(b'{"gate": "closed", "container": "%s"}' % ID.encode(), (unconnected.fileno(),))
    await until(lambda: shim.readers and shim.readers[0] is not first)
    shim.packet(ID)
    await box.until_state(ID, "RUNNING")
