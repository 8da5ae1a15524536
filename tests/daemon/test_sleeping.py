from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

import pytest

from architect.ttrpc.server import Code, RpcError
from architect.ttrpc.shim_v1 import Failure, Port
from tests.daemon.conftest import Box, until
from tests.daemon.fake_shim import container

ID = "c" * 64
SHORT = 30_000_000  # ns of idling before sleep, where a test waits for it


def idle_now(**fields: Any) -> Any:
    """A container whose idle time passes at once."""
    return container(ID, idle_ns=SHORT, **fields)


async def test_a_container_that_is_idle_is_put_to_sleep(box: Box, stack: AsyncExitStack) -> None:
    shim = await stack.enter_async_context(box.shim("pod1", idle_now()))
    await stack.enter_async_context(box.daemon())
    await box.until_state(ID, "SCALED_DOWN")
    assert shim.calls == [("hibernate", ID)]
    assert await box.metric("architect_sleeps_total") == 1
    assert await box.metric('architect_containers{state="SCALED_DOWN"}') == 1
    assert await box.metric("architect_saved_bytes") == 50 << 20
    assert await box.metric("architect_hibernate_seconds_count") == 1


async def test_one_that_is_not_idle_yet_is_left_alone(box: Box, stack: AsyncExitStack) -> None:
    shim = await stack.enter_async_context(box.shim("pod1", container(ID)))
    other = await stack.enter_async_context(box.shim("pod2", container("d" * 64, idle_ns=SHORT)))
    await stack.enter_async_context(box.daemon())
    await box.until_state("d" * 64, "SCALED_DOWN")
    assert other.asked("hibernate", "d" * 64) == 1
    assert shim.calls == []
    _, body = await box.ask("GET", f"/v1/containers/{ID}/explain")
    assert "not long enough ago" in body["waiting_for"]
    assert 0 < body["next_look_seconds"] <= 60


async def test_the_kernel_is_asked_about_packets_only_when_a_timer_falls_due(
    box: Box, stack: AsyncExitStack
) -> None:
    status = idle_now(monitor="packets", ports=[Port(80, "TCP")])
    shim = await stack.enter_async_context(box.shim("pod1", status))
    box.kernel.idle_seconds[ID] = 0.0  # as if a packet came just now, whenever it is asked
    await stack.enter_async_context(box.daemon())
    await until(lambda: box.kernel.reads >= 3)
    assert box.kernel.watched == {ID: ("/run/netns/pod1", [(80, "TCP")])}
    assert shim.calls == []
    box.kernel.idle_seconds[ID] = 3600.0
    await box.until_state(ID, "SCALED_DOWN")
    reads = box.kernel.reads
    shim.set(ID)  # news of a sleeper
    await box.until_state(ID, "SCALED_DOWN")
    assert box.kernel.reads == reads


async def test_an_open_connection_keeps_it_awake_until_it_closes(box: Box, stack: AsyncExitStack) -> None:
    status = idle_now(monitor="connections", ports=[Port(5432, "TCP"), Port(53, "UDP")])
    shim = await stack.enter_async_context(box.shim("pod1", status))
    box.kernel.connections[ID] = 2
    await stack.enter_async_context(box.daemon())
    await until(lambda: box.kernel.reads >= 3)
    assert shim.calls == []
    assert box.kernel.watched[ID][1] == [(5432, "TCP")]
    _, body = await box.ask("GET", f"/v1/containers/{ID}/explain")
    assert body["waiting_for"] == "2 TCP connections are open"
    box.kernel.connections[ID] = 0
    await box.until_state(ID, "SCALED_DOWN")


async def test_an_exec_keeps_it_awake_and_its_end_starts_the_idle_time(
    box: Box, stack: AsyncExitStack
) -> None:
    shim = await stack.enter_async_context(box.shim("pod1", idle_now(execs=1)))
    await stack.enter_async_context(box.daemon())
    await box.until_state(ID, "RUNNING")
    _, body = await box.ask("GET", f"/v1/containers/{ID}/explain")
    assert body["waiting_for"] == "an exec is running in it"
    assert body["next_look_seconds"] is None
    shim.set(ID, execs=0, active_ns=time.time_ns())
    await box.until_state(ID, "SCALED_DOWN")


async def test_traffic_that_cannot_be_read_means_awake(box: Box, stack: AsyncExitStack) -> None:
    shim = await stack.enter_async_context(
        box.shim("pod1", idle_now(monitor="packets", ports=[Port(80, "TCP")]))
    )
    box.kernel.broken = "the netns is gone"
    await stack.enter_async_context(box.daemon())
    await box.until_state(ID, "RUNNING")

    async def explained() -> bool:
        _, body = await box.ask("GET", f"/v1/containers/{ID}/explain")
        return "the netns is gone" in body["waiting_for"]

    await until(explained)
    assert shim.calls == []
    box.kernel.broken = ""
    await box.until_state(ID, "SCALED_DOWN")


@pytest.mark.parametrize("code", [Code.INTERNAL, Code.FAILED_PRECONDITION])
async def test_after_a_failure_it_waits_longer_each_time(box: Box, stack: AsyncExitStack, code: Code) -> None:
    shim = box.shim("pod1", idle_now())
    moments: list[float] = []

    async def fail(_: str) -> None:
        moments.append(time.monotonic())
        if len(moments) < 4:
            raise RpcError(code, "criu said no")

    shim.on_hibernate = fail
    await stack.enter_async_context(shim)
    await stack.enter_async_context(box.daemon())
    await box.until_state(ID, "SCALED_DOWN")
    pauses = [(after - before) * 1e9 for before, after in pairwise(moments)]
    assert all(pause >= SHORT * 2**n for n, pause in enumerate(pauses, 1))


async def test_a_sleep_that_was_called_off_is_no_failure(box: Box, stack: AsyncExitStack) -> None:
    shim = box.shim("pod1", idle_now())

    async def needed(container_id: str) -> None:
        if shim.asked("hibernate", ID) < 3:
            raise RpcError(Code.ABORTED, "a packet came")

    shim.on_hibernate = needed
    await stack.enter_async_context(shim)
    await stack.enter_async_context(box.daemon())
    await until(lambda: shim.asked("hibernate", ID) == 2)
    _, body = await box.ask("GET", f"/v1/containers/{ID}/explain")
    assert body["attempts_failed"] == 0
    await box.until_state(ID, "SCALED_DOWN")
    assert await box.metric("architect_sleeps_aborted_total") == 2
    assert await box.metric("architect_sleeps_total") == 1


async def test_failures_that_a_shim_reports_are_counted_by_class(box: Box, stack: AsyncExitStack) -> None:
    old = Failure(1, "hibernate", "criu: before the daemon came")
    shim = await stack.enter_async_context(box.shim("pod1", container(ID, failures=[old])))
    await stack.enter_async_context(box.daemon())
    await box.until_state(ID, "RUNNING")
    full = Failure(2, "hibernate", "OSError: No space left on device")
    shim.set(ID, failures=[old, full, Failure(3, "made-up", "who knows")])
    shim.set(ID, execs=1, failures=[old, full, Failure(3, "made-up", "who knows")])
    await box.until_metric('architect_failures_total{operation="other",reason="other"}', 1)
    assert await box.metric('architect_failures_total{operation="hibernate",reason="disk_full"}') == 1
    assert await box.metric('architect_failures_total{operation="other",reason="other"}') == 1
    assert await box.metric('architect_failures_total{operation="hibernate",reason="engine"}') == 0


async def test_packets_of_containers_that_stop_or_go_are_noted_no_more(
    box: Box, stack: AsyncExitStack
) -> None:
    watched: dict[str, Any] = {"monitor": "packets", "ports": [Port(80, "TCP")]}
    shim = await stack.enter_async_context(
        box.shim("pod1", container(ID, **watched), container("d" * 64, **watched))
    )
    await stack.enter_async_context(box.daemon())
    await until(lambda: box.kernel.watched.keys() == {ID, "d" * 64})
    shim.set(ID, phase="STOPPED")
    await until(lambda: box.kernel.watched.keys() == {"d" * 64})
    shim.remove("d" * 64)
    await until(lambda: not box.kernel.watched)


async def test_old_news_do_not_overwrite_newer(box: Box, stack: AsyncExitStack) -> None:
    shim = await stack.enter_async_context(box.shim("pod1", container(ID, sleeps=5, wakes=5)))
    await stack.enter_async_context(box.daemon())
    await box.until_state(ID, "RUNNING")
    shim.set(ID, phase="SCALED_DOWN", sleeps=5, wakes=4)
    shim.set(ID, phase="RUNNING", sleeps=5, wakes=5, execs=7)
    async with asyncio.timeout(20):
        while (await box.ask("GET", "/v1/containers"))[1]["containers"][0]["execs"] != 7:
            assert await box.state(ID) == "RUNNING"
