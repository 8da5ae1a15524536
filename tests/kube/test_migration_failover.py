"""The control plane dies at any moment: what it knew is in the records, and nodes say the rest again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from architect.kube import Client
from architect.migration import methods
from architect.migration.client import ControlPlane, Refused
from architect.program import Unable
from controlplane.election import ADDRESS, Election
from tests.kube import migrating
from tests.kube.apiserver import ApiServer, until
from tests.kube.migrating import LEASE, SERVICE, ClaimState, FollowState, Node, Shop, phase


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("dies", ["before the end is announced", "claimed", "offered", "taken"])
async def test_a_successor_goes_on_where_it_stopped(
    server: ApiServer, client: Client, shop: Shop, dies: str
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        at = await stack.enter_async_context(migrating.replica(server))
        one, two = await stack.enter_async_context(migrating.nodes(client, at, "node-1", "node-2"))

        async def successor(when: str) -> None:
            """Nothing is handed over but what is in the API."""
            if when == dies:
                at.stop.set()
                new = await stack.enter_async_context(migrating.replica(server))
                for node in (one, two):
                    node.calls._service = new.address  # the Service leads there now

        old = await shop.running("node-1")
        await shop.evict(old)
        await shop.until_record(old, lambda found: True)
        await successor("before the end is announced")
        answer = await one.leave(old)
        assert answer.verdict == answer.Verdict.MOVES, answer.reason
        new = await shop.pod("node-2")
        claim = two.claim(new)
        assert (await claim.next()).state == ClaimState.EXPECTED
        follow = one.follow(old, answer.migration)
        await follow.until(FollowState.CLAIMED)
        await successor("claimed")
        await one.offer(old, answer.migration, for_node="node-2")
        if dies == "offered":
            await claim.until(ClaimState.READY)
            await successor("offered")
            await follow.until(FollowState.CLAIMED)  # it is asked anew
            await one.offer(old, answer.migration, for_node="node-2")
        await claim.until(ClaimState.READY)
        await two.tell(methods.TAKE, new, answer.migration)
        await successor("taken")
        await two.tell(methods.TAKE, new, answer.migration)
        other = await shop.pod("node-2")
        assert (await two.claim(other).next()).state == ClaimState.NOBODY
        with pytest.raises(Refused):
            await two.tell(methods.TAKE, other, answer.migration)
        assert (await claim.until(ClaimState.TAKEN)).state
        await two.tell(methods.CONFIRM, new, answer.migration)
        assert [event.state for event in await follow.rest()][-1] == FollowState.DROP
        await shop.until_record(old, lambda found: phase(found) == "Arrived")


@pytest.mark.usefixtures("prepared")
async def test_what_happened_while_nobody_led_is_made_up_for(
    server: ApiServer, client: Client, shop: Shop
) -> None:
    await shop.scale(3)
    gone, leaving, offered = [await shop.running("node-1") for _ in range(3)]
    async with (
        migrating.replica(server) as at,
        migrating.nodes(client, at, "node-1", "node-2") as (one, two),
    ):
        for each in (gone, offered):
            await shop.evict(each)
            await shop.until_record(each, lambda found: True)
        answer = await one.leave(offered)
        await one.offer(offered, answer.migration)
        replacement = await shop.pod("node-2")
        # What is there already comes before what may never be.
        assert (await two.claim(replacement).next()).migration == answer.migration
    await shop.finish(gone)
    await shop.evict(leaving)
    await shop.evict(replacement, grace=0)
    async with (
        migrating.replica(server) as at,
        migrating.nodes(client, at, "node-1", "node-2") as (one, two),
    ):
        await shop.until_record(gone, lambda found: phase(found) == "Lost")
        await shop.until_record(leaving, lambda found: True)
        await shop.until_record(offered, lambda found: "target" not in found["status"])
        assert (await two.claim(await shop.pod("node-2")).next()).migration == answer.migration


@contextlib.asynccontextmanager
async def process(server: ApiServer) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, Any]]]:
    """A replica as a process of its own, and what it said when it began to serve."""
    argv = [f"--kubeconfig={server.kubeconfig()}", "--port=0", "--certify-port=0", "--health-port=0"]
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "controlplane", *argv, stderr=asyncio.subprocess.PIPE
    )
    drained = None
    try:
        assert running.stderr
        async with asyncio.timeout(60):
            while (said := json.loads(await running.stderr.readline()))["message"] != "serving":
                continue
        drained = asyncio.create_task(running.stderr.read())
        yield running, said
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()
        if drained is not None:
            await drained


async def ready(ports: dict[str, Any]) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{ports['health_port']}/readyz") as answer,
    ):
        return answer.status


@pytest.mark.slow
@pytest.mark.usefixtures("prepared")
async def test_a_standby_says_who_leads_and_leads_when_that_one_was_killed(
    server: ApiServer, client: Client, shop: Shop
) -> None:
    async with process(server) as (first, of_first):

        async def leader() -> str:
            found = await client.get(LEASE)
            return str((found["metadata"].get("annotations") or {}).get(ADDRESS))

        async def first_leads() -> bool:
            return await leader() == f"127.0.0.1:{of_first['port']}"

        await until(first_leads)
        async with process(server) as (second, of_second), contextlib.AsyncExitStack() as stack:
            assert await ready(of_first) == await ready(of_second) == 200
            ports = {"nodes": of_second["port"], "newcomers": of_second["certify_port"]}
            at = migrating.Replica(ports=ports)
            found = [
                Node(name, await stack.enter_async_context(
                    ControlPlane(at.address, SERVICE, await migrating.identified(client, at, name))))
                for name in ("node-1", "node-2")
            ]  # fmt: skip
            one, two = found
            old = await shop.running("node-1")
            await shop.evict(old)
            answer = await one.leave(old)  # by way of the standby
            new = await shop.pod("node-2")
            claim, follow = two.claim(new), one.follow(old, answer.migration)
            assert (await claim.next()).state == ClaimState.EXPECTED
            await follow.until(FollowState.CLAIMED)
            first.send_signal(signal.SIGKILL)
            await follow.until(FollowState.CLAIMED)
            await one.offer(old, answer.migration, for_node="node-2")
            await claim.until(ClaimState.READY)
            await two.tell(methods.TAKE, new, answer.migration)
            await two.tell(methods.CONFIRM, new, answer.migration)
            assert [event.state for event in await follow.rest()][-1] == FollowState.DROP
            await claim.close()
            second.send_signal(signal.SIGTERM)
            assert await second.wait() == 0
            assert (await client.get(LEASE))["spec"]["holderIdentity"] == ""


async def test_who_begins_anew_at_the_leader_s_address_leads_at_once(client: Client, namespace: str) -> None:
    def replica(identity: str, port: int) -> Election:
        """One that waits an hour for another's lease to run out."""
        return Election(client, namespace, "lease", identity, f"10.0.0.1:{port}", lease_seconds=3600)

    await replica("killed", 1).acquire()
    other = asyncio.create_task(replica("other", 2).acquire())
    await asyncio.wait_for(replica("anew", 1).acquire(), 60)
    assert not other.done()
    other.cancel()


@pytest.mark.usefixtures("prepared")
async def test_a_port_that_is_taken_is_a_reason_to_end(server: ApiServer) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unable, match="cannot be served"):
            async with migrating.replica(server, f"--health-port={port}"):
                pytest.fail("it serves")
