"""Nothing is waited for without end: the leader's own work, by a clock of the test's."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from architect.kube import Client
from architect.migration.v1 import migration_pb2 as v1
from controlplane import deadlines, source, target
from controlplane.broker import Broker
from controlplane.metrics import Metrics
from tests.kube.apiserver import until
from tests.kube.migrating import ClaimState, Object, Shop, about, phase


class Led:
    """A broker that leads, whose clock can be put forward."""

    def __init__(self, client: Client) -> None:
        self.ahead = 0.0
        self.broker = Broker(client, Metrics(), clock=lambda: time.time() + self.ahead)

    def pass_seconds(self, seconds: float) -> None:
        self.ahead += seconds
        self.broker.book.changes.ring_all()

    async def leave(self, pod: Object) -> v1.LeaveResponse:
        request = v1.LeaveRequest(pod=about(pod), containers=[v1.LeavingContainer(name="app")])
        return await source.leave(self.broker, "node-1", request)

    async def offer(self, pod: Object, migration: str) -> None:
        request = v1.OfferRequest(
            namespace=pod["metadata"]["namespace"], migration=migration, container="app",
            address="h:1", ticket="t", for_node="node-2", complete=True,
        )  # fmt: skip
        await source.offer(self.broker, "node-1", request)

    def claim(self, pod: Object) -> AsyncIterator[v1.ClaimEvent]:
        return target.claim(self.broker, "node-2", v1.ClaimRequest(pod=about(pod), container="app"))


@pytest.fixture
async def led(client: Client, prepared: None) -> AsyncIterator[Led]:
    found = Led(client)
    running = asyncio.create_task(found.broker.run())
    await until(lambda: found.broker.complete)
    try:
        yield found
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def ended(shop: Shop, pod: Object, as_what: str) -> str:
    record = await shop.until_record(pod, lambda found: phase(found) == as_what)
    return str(record["status"]["reason"])


async def test_an_end_that_is_never_announced(led: Led, shop: Shop) -> None:
    old = await shop.running("node-1")
    await shop.evict(old)
    claim = led.claim(await shop.pod("node-2"))
    expected = await anext(claim)
    assert expected.state == ClaimState.EXPECTED
    assert expected.wait_seconds <= 30 + deadlines.ANNOUNCE
    led.pass_seconds(30 + deadlines.ANNOUNCE)
    assert (await anext(claim)).state == ClaimState.LOST
    assert await ended(shop, old, "Lost") == "its node did not announce it"


async def test_an_image_that_is_never_finished(led: Led, shop: Shop) -> None:
    old = await shop.running("node-1")
    await shop.evict(old)
    await led.leave(old)
    led.pass_seconds(30 + deadlines.DUMP)
    assert await ended(shop, old, "Kept") == "its node has not finished its image"


async def test_a_replacement_that_never_comes(led: Led, shop: Shop) -> None:
    old = await shop.running("node-1")
    await shop.evict(old)
    await led.offer(old, (await led.leave(old)).migration)
    await shop.finish(old)
    led.pass_seconds(deadlines.CLAIM)
    assert await ended(shop, old, "Kept") == "no pod came to replace it"
    nobody = await anext(led.claim(await shop.pod("node-2")))
    assert nobody.state == ClaimState.NOBODY


async def test_a_target_that_is_silent_and_one_that_is_not(led: Led, shop: Shop) -> None:
    old = await shop.running("node-1")
    await shop.evict(old)
    migration = (await led.leave(old)).migration
    await led.offer(old, migration)
    new = await shop.pod("node-2")
    claim = led.claim(new)
    assert (await anext(claim)).state == ClaimState.READY
    for _ in range(5):
        led.pass_seconds(deadlines.SILENCE - 1)
        request = v1.ProgressRequest(pod=about(new), migration=migration, container="app", received_bytes=1)
        await target.progress(led.broker, "node-2", request)
    led.pass_seconds(deadlines.SILENCE)
    lost = await anext(claim)
    assert (lost.state, lost.reason) == (ClaimState.LOST, "nothing is heard of its transfer")
    assert await ended(shop, old, "Kept") == lost.reason


async def test_a_restore_that_is_confirmed_late_and_the_record_that_goes_after_a_day(
    led: Led, shop: Shop
) -> None:
    old = await shop.running("node-1")
    await shop.evict(old)
    migration = (await led.leave(old)).migration
    await led.offer(old, migration)
    new = await shop.pod("node-2")
    claim = led.claim(new)
    await anext(claim)
    request = v1.TakeRequest(pod=about(new), migration=migration, container="app")
    await target.take(led.broker, "node-2", request)
    led.pass_seconds(deadlines.RESTORE)
    assert await ended(shop, old, "Kept") == "who took it has not confirmed that it runs"
    again = await anext(led.claim(new))
    assert again.state == ClaimState.TAKEN  # it is that pod's for ever
    confirmed = v1.ConfirmRequest(pod=about(new), migration=migration, container="app")
    await target.confirm(led.broker, "node-2", confirmed)
    await shop.until_record(old, lambda found: phase(found) == "Arrived")
    led.pass_seconds(deadlines.KEEP)

    async def gone() -> bool:
        return await shop.records() == {}

    await until(gone)
    await claim.aclose()  # type: ignore[attr-defined]
