"""Certificates of the webhook's own: made once, shared, renewed without a connection that fails."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from architect.generations import alive, due, in_use
from architect.kube import Conflict, Unreachable
from architect.program import Unable
from architect.untrusted import Unreadable
from tests.webhook.asking import SERVICE, Asking
from tests.webhook.fake_cluster import FakeCluster
from tests.webhook.pods import pod
from webhook import tls
from webhook.certificates import (
    LIFE_SECONDS,
    SETTLE_SECONDS,
    Generation,
    bundle,
    dumped,
    loaded,
    make,
)
from webhook.cluster import Missing
from webhook.keeping import Keeper
from webhook.metrics import Metrics
from webhook.server import Listening, app, listen

NOW = int(time.time())
TWO_THIRDS = LIFE_SECONDS * 2 // 3
START = NOW - TWO_THIRDS  # so that at the true time, which TLS looks at, the first is due and still valid


def generation(made: int, begins: int | None = None, life: int = 900) -> Generation:
    return Generation(f"authority {made};", "", "", made, made if begins is None else begins, made + life)


# ---- the rules


def test_one_is_due_when_there_is_none_and_after_two_thirds_of_the_youngest_ones_life() -> None:
    assert due([], 0)
    assert not due([generation(0), generation(500)], 1099)
    assert due([generation(0), generation(500)], 1100)


def test_the_youngest_is_served_whose_time_has_come() -> None:
    old, new = generation(0), generation(600, begins=700)
    assert in_use([old, new], 699) == old
    assert in_use([old, new], 700) == new
    assert in_use([new], 600) == new


def test_all_that_are_alive_are_trusted() -> None:
    old, new = generation(0), generation(600)
    assert alive([old, new], 899) == [old, new]
    assert alive([old, new], 900) == [new]
    assert bundle([new, old]) == "authority 0;authority 600;"


def test_what_is_written_is_read() -> None:
    found = [make([SERVICE], NOW, begins=NOW)]
    assert loaded(dumped(found)) == found


@pytest.mark.parametrize("text", ["", "{}", "[{}]", "[1]", '[{"authority": "x"}]'])
def test_a_damaged_secret_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        loaded(text)


# ---- one replica


class Replica:
    """A webhook with a server of its own and a clock of the test's."""

    def __init__(self, cluster: FakeCluster, now: int = START) -> None:
        self.now = now
        self.context = tls.context()
        self.keeper = Keeper(cluster, [SERVICE], self._show, clock=lambda: self.now, retry=[0.001])
        self.shown: list[Generation] = []
        self._listening: Listening | None = None

    async def listen(self) -> None:
        self._listening = await listen(app(Metrics(), self.keeper.trusted.is_set), self.context, 0)

    async def close(self) -> None:
        if self._listening:
            await self._listening.close()

    def asking(self, trusted: str) -> Asking:
        assert self._listening
        return Asking(self._listening.port, trusted)

    def _show(self, generation: Generation) -> None:
        tls.show(self.context, generation.certificate, generation.key)
        self.shown.append(generation)


async def settle(*replicas: Replica) -> None:
    """Looks until nothing is left to do, all of them at once."""
    while True:
        done = await asyncio.gather(*(r.keeper.look() for r in replicas), return_exceptions=True)
        assert all(isinstance(each, bool | Conflict) for each in done), done
        if all(each is True for each in done):
            return


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
async def replica(cluster: FakeCluster) -> AsyncIterator[Replica]:
    found = Replica(cluster)
    await found.listen()
    yield found
    await found.close()


async def test_the_first_certificate_is_made_kept_and_trusted(cluster: FakeCluster, replica: Replica) -> None:
    await settle(replica)
    assert cluster.bundles is not None
    assert replica.keeper.trusted.is_set()
    assert cluster.bundles[0] == cluster.bundles[1]
    assert (await replica.asking(cluster.bundles[0]).about(pod()))["allowed"]


async def test_nothing_is_written_when_nothing_is_due(cluster: FakeCluster, replica: Replica) -> None:
    await settle(replica)
    writes = cluster.writes
    replica.now += TWO_THIRDS - 1
    await settle(replica)
    assert cluster.writes == writes


async def test_two_replicas_that_start_together_show_one_certificate(cluster: FakeCluster) -> None:
    one, other = Replica(cluster), Replica(cluster)
    await settle(one, other)
    assert one.shown[-1] == other.shown[-1] == loaded(cluster.text)[0]
    assert len(loaded(cluster.text)) == 1


async def test_a_renewal_never_shows_what_is_not_trusted(cluster: FakeCluster, replica: Replica) -> None:
    await settle(replica)
    assert cluster.bundles is not None
    old = cluster.bundles[0]
    replica.now += TWO_THIRDS
    await settle(replica)
    both = cluster.bundles[0]
    assert both.startswith(old)
    assert both != old
    assert (await replica.asking(old).about(pod()))["allowed"], "the old one is shown until all trust the new"
    replica.now += SETTLE_SECONDS
    await settle(replica)
    assert (await replica.asking(both).about(pod()))["allowed"]
    with pytest.raises(OSError, match="certificate verify failed"):
        await replica.asking(old).get("/healthz")
    replica.now += LIFE_SECONDS - TWO_THIRDS
    await settle(replica)
    new = cluster.bundles[0]
    assert len(loaded(cluster.text)) == 1
    assert both == old + new


async def test_a_replica_that_has_not_looked_for_long_is_still_trusted(cluster: FakeCluster) -> None:
    quick, slow = Replica(cluster), Replica(cluster)
    await slow.listen()
    try:
        await settle(quick, slow)
        quick.now += TWO_THIRDS + SETTLE_SECONDS
        await settle(quick)
        quick.now += SETTLE_SECONDS
        await settle(quick)
        assert quick.shown[-1] != slow.shown[-1]
        assert cluster.bundles is not None
        assert (await slow.asking(cluster.bundles[0]).about(pod()))["allowed"]
    finally:
        await slow.close()


async def test_a_certificate_is_not_shown_before_the_api_server_was_found_to_trust_it(
    cluster: FakeCluster, replica: Replica
) -> None:
    await settle(replica)
    first = replica.shown[-1]
    replica.now += TWO_THIRDS
    await settle(replica)
    await cluster.replace_bundles([first.authority])  # as by somebody who applies an old manifest
    replica.now += SETTLE_SECONDS
    assert await replica.keeper.look() is False
    assert replica.shown[-1] == first
    await settle(replica)
    assert replica.shown[-1] != first


async def test_a_deleted_secret_is_written_again_as_it_was(cluster: FakeCluster, replica: Replica) -> None:
    await settle(replica)
    text = cluster.text
    cluster.delete_secret()
    await settle(replica)
    assert cluster.text == text


async def test_a_damaged_secret_is_replaced_by_what_is_in_use(cluster: FakeCluster, replica: Replica) -> None:
    await settle(replica)
    text, cluster.text = cluster.text, "[1]"
    await settle(replica)
    assert cluster.text == text


async def test_after_a_year_of_absence_a_new_one_is_shown_at_once(cluster: FakeCluster) -> None:
    await settle(Replica(cluster, NOW - 4 * LIFE_SECONDS))
    late = Replica(cluster, NOW)
    await settle(late)
    assert late.shown[-1].made == NOW
    assert [each.made for each in loaded(cluster.text)] == [NOW]


async def test_a_replica_goes_on_while_the_api_server_is_away(cluster: FakeCluster, replica: Replica) -> None:
    cluster.down = True
    with pytest.raises(Unreachable):
        await replica.keeper.look()
    task = asyncio.create_task(replica.keeper.run())
    try:
        assert not replica.keeper.trusted.is_set()
        cluster.down = False
        await asyncio.wait_for(replica.keeper.trusted.wait(), 60)
        assert cluster.bundles is not None
        await cluster.replace_bundles(["", ""])
        async with asyncio.timeout(60), cluster.changes:
            await cluster.changes.wait_for(lambda: cluster.bundles and all(cluster.bundles))
        assert (await replica.asking(cluster.bundles[0]).about(pod()))["allowed"]
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_without_a_configuration_it_says_so_and_waits(cluster: FakeCluster, replica: Replica) -> None:
    cluster.bundles = None
    with pytest.raises(Missing):
        await replica.keeper.look()
    await cluster.replace_bundles([""])
    await settle(replica)


# ---- certificates that others make


def write(directory: str, found: Generation) -> None:
    """As kubelet does it: files in a new directory, then one symbolic link renamed over the old one."""
    import os

    fresh = os.path.join(directory, f"..{found.made}")
    os.mkdir(fresh)
    for name, content in ((tls.CERTIFICATE, found.certificate), (tls.KEY, found.key)):
        with open(os.path.join(fresh, name), "w", encoding="ascii") as file:
            file.write(content)
        link = os.path.join(directory, name)
        if not os.path.lexists(link):
            os.symlink(os.path.join("..data", name), link)
    os.symlink(fresh, os.path.join(directory, "..data_tmp"))
    os.rename(os.path.join(directory, "..data_tmp"), os.path.join(directory, "..data"))


async def answers(asking: Asking) -> bool:
    try:
        return (await asking.get("/healthz"))[0] == 200
    except OSError:
        return False


async def test_files_are_followed_and_a_bad_pair_changes_nothing(tmp_path: object) -> None:
    directory = str(tmp_path)
    old, new = (make([SERVICE], NOW + n, begins=NOW) for n in range(2))
    write(directory, old)
    context = tls.context()
    tls.show_files(context, directory)
    task = asyncio.create_task(tls.follow_files(context, directory))
    listening = await listen(app(Metrics(), lambda: True), context, 0)
    try:
        assert await answers(Asking(listening.port, old.authority))
        write(directory, replace(new, made=NOW + 7, key=old.key))
        await asyncio.sleep(0)
        assert await answers(Asking(listening.port, old.authority))
        write(directory, new)
        while not await answers(Asking(listening.port, new.authority)):
            assert not task.done()
        assert not await answers(Asking(listening.port, old.authority))
    finally:
        task.cancel()
        await asyncio.wait([task])
        await listening.close()


async def test_a_directory_without_a_certificate_is_an_error(tmp_path: object) -> None:
    with pytest.raises(Unable, match=r"tls\.crt"):
        tls.show_files(tls.context(), str(tmp_path))
    with pytest.raises(Unable, match="cannot be watched"):
        await tls.follow_files(tls.context(), f"{tmp_path}/none")


def test_the_key_of_a_made_certificate_is_its_own() -> None:
    found = make([SERVICE], NOW, begins=NOW)
    tls.show(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), found.certificate, found.key)
    with pytest.raises(Unable):
        tls.show(tls.context(), found.authority, found.key)
