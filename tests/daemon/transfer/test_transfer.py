"""A parcel comes over as it was: at once or while it grows, in one connection or in many."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from daemon.transfer import Parcel, Refused, Server, TooLate, discard
from daemon.transfer.contents import digest
from daemon.transfer.frames import CHUNK
from tests.daemon.transfer.conftest import (
    SOURCE,
    Nodes,
    content,
    credentials,
    left,
    line,
    parcel_of,
    proof,
    serving,
)

FILES = {
    "app/manifest.json": b"{}",
    "app/criu/empty.img": b"",
    "app/criu/pages-1.img": os.urandom(3 * CHUNK + 17),
    "app/criu/pages-2.img": b"memory that repeats itself" * 100_000,
    "app/layer.pack": os.urandom(5),
    "volumes/cache.pack": bytes(2 * CHUNK) + b"x" + bytes(9 * CHUNK),
}


async def test_a_parcel_comes_over_as_it_was(nodes: Nodes, tmp_path: Path) -> None:
    parcel = parcel_of(tmp_path / "source", FILES)
    offer = nodes.offer(parcel)
    received = await nodes.fetch(offer)
    assert content(nodes.into) == FILES
    assert received.digest == parcel.digest == digest(received.contents)
    assert received.bytes == sum(map(len, FILES.values()))
    assert await asyncio.wrap_future(offer.taken) == parcel.digest
    assert left(tmp_path) == ["arrived"]


async def test_only_root_can_look_into_what_arrives(nodes: Nodes, tmp_path: Path) -> None:
    await nodes.fetch(nodes.offer(parcel_of(tmp_path / "source", FILES)))
    modes = {stat.S_IMODE(path.lstat().st_mode) for path in nodes.into.rglob("*") if path.is_file()}
    assert modes == {0o600}
    folders = [nodes.into, *(path for path in nodes.into.rglob("*") if path.is_dir())]
    assert {stat.S_IMODE(path.lstat().st_mode) for path in folders} == {0o700}


async def test_what_is_still_being_written_is_sent_meanwhile(nodes: Nodes, tmp_path: Path) -> None:
    parcel = Parcel()
    come = asyncio.Event()

    def progress(done: int, total: int) -> None:
        assert done <= total
        if done >= 4 * CHUNK:
            come.set()

    pages = tmp_path / "pages"
    pages.write_bytes(os.urandom(4 * CHUNK + 3))
    parcel.add("app/criu/pages-1.img", str(pages))
    fetching = asyncio.ensure_future(nodes.fetch(nodes.offer(parcel), progress=progress))
    with pages.open("ab") as file:
        # Nothing tells that it is all: what has come before the end came because it was there.
        async with asyncio.timeout(30):
            await come.wait()
        file.write(b"the end")
    with parcel.writing("app/layer.pack", str(tmp_path / "layer")) as output:
        output.write(b"a layer")
    parcel.add("app/criu/pages-1.img", str(pages), proof(pages.read_bytes()))
    parcel.finish()
    await fetching
    assert content(nodes.into) == {"app/criu/pages-1.img": pages.read_bytes(), "app/layer.pack": b"a layer"}


async def test_what_is_rewritten_after_it_was_sent_is_sent_again(nodes: Nodes, tmp_path: Path) -> None:
    parcel = Parcel()
    come = asyncio.Event()
    pages = tmp_path / "pages"
    pages.write_bytes(bytes(CHUNK) + b"old" + bytes(3 * CHUNK))
    parcel.add("pages", str(pages))
    going = tmp_path / "passing"
    going.write_bytes(bytes(CHUNK))
    parcel.add("app/criu/passing.img", str(going))
    fetching = asyncio.ensure_future(
        nodes.fetch(nodes.offer(parcel), progress=lambda done, _: come.set() if done >= 5 * CHUNK else None)
    )
    async with asyncio.timeout(30):
        await come.wait()
    with pages.open("r+b") as file:
        file.seek(CHUNK)
        file.write(b"new")
    parcel.add("pages", str(pages), proof(pages.read_bytes()))
    going.unlink()
    parcel.add("app/criu/passing.img", str(pages), proof(pages.read_bytes()))
    parcel.finish()
    received = await fetching
    assert content(nodes.into) == dict.fromkeys(["pages", "app/criu/passing.img"], pages.read_bytes())
    assert received.connections == 2


@pytest.mark.parametrize("at", [0, 100, 2000, 5000, CHUNK + 20_000, 5 * CHUNK])
async def test_a_connection_that_breaks_is_followed_by_one_that_goes_on(
    nodes: Nodes, tmp_path: Path, at: int
) -> None:
    """At the handshake, at the first frames, within chunks: everything is sent once, but for what was on its
    way.
    """
    parcel = parcel_of(tmp_path / "source", {"pages": os.urandom(7 * CHUNK + 1)})
    broken = 0

    def change(data: bytes, position: int) -> bytes | None:
        nonlocal broken
        if not broken and position + len(data) > at:
            broken += 1
            return None
        return data

    async with line(nodes.port, change) as (port, passed):
        received = await nodes.fetch(nodes.offer(parcel), port=port)
    assert content(nodes.into) == {"pages": (tmp_path / "source" / "0").read_bytes()}
    assert broken == 1
    assert len(passed) == 2
    assert received.digest == parcel.digest
    chunks = max(0, at // CHUNK - 1)
    assert passed[1] < (7 - chunks) * CHUNK + CHUNK // 2


async def test_a_line_that_breaks_every_second_chunk_brings_all_of_it(nodes: Nodes, tmp_path: Path) -> None:
    files = {f"pages-{number}": os.urandom(3 * CHUNK + number) for number in range(4)}
    async with line(nodes.port, lambda data, at: data if at < 2 * CHUNK else None) as (port, passed):
        received = await nodes.fetch(nodes.offer(parcel_of(tmp_path / "source", files)), port=port)
    assert content(nodes.into) == files
    assert received.connections == len(passed) > 5


async def test_a_byte_that_was_changed_on_the_way_costs_a_connection(nodes: Nodes, tmp_path: Path) -> None:
    files = {"pages": os.urandom(5 * CHUNK)}
    flipped = 0

    def change(data: bytes, position: int) -> bytes:
        nonlocal flipped
        if flipped == 0 and position > 2 * CHUNK:
            flipped += 1
            return bytes([data[0] ^ 1]) + data[1:]
        return data

    async with line(nodes.port, change) as (port, passed):
        await nodes.fetch(nodes.offer(parcel_of(tmp_path / "source", files)), port=port)
    assert content(nodes.into) == files
    assert flipped == 1
    assert len(passed) == 2


async def test_what_has_come_counts_even_if_the_source_never_hears_of_it(tmp_path: Path) -> None:
    """The ticket stays good then, until it expires, or who brought the two together withdraws the offer."""
    files = {"pages": os.urandom(2 * CHUNK)}
    async with serving(tmp_path) as nodes:
        offer = nodes.offer(parcel_of(tmp_path / "source", files))
        async with line(nodes.port, lambda data, _: data, deaf_after=2 * CHUNK) as (port, _):
            await nodes.fetch(offer, port=port)
        assert content(nodes.into) == files
        assert not offer.taken.done()
        await nodes.fetch(offer, into=str(tmp_path / "again"))
        assert offer.taken.done()


async def test_a_fetch_that_was_called_off_is_gone_on_with(nodes: Nodes, tmp_path: Path) -> None:
    parcel = parcel_of(tmp_path / "source", {"pages": os.urandom(8 * CHUNK)})
    offer = nodes.offer(parcel)
    half = asyncio.Event()

    async with serving(tmp_path, bytes_per_second=4 * CHUNK) as slow:
        slow_offer = slow.offer(parcel)
        fetching = asyncio.ensure_future(
            slow.fetch(slow_offer, progress=lambda done, _: half.set() if done >= 2 * CHUNK else None)
        )
        async with asyncio.timeout(30):
            await half.wait()
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
    assert left(tmp_path) == ["arrived.partial"]
    before = (tmp_path / "arrived.partial" / "pages").stat().st_size
    assert before >= 2 * CHUNK
    received = await nodes.fetch(offer)
    assert content(nodes.into) == {"pages": (tmp_path / "source" / "0").read_bytes()}
    assert received.wire_bytes < 8 * CHUNK - before + CHUNK


async def test_a_damaged_half_is_found_and_fetched_again(nodes: Nodes, tmp_path: Path) -> None:
    data = os.urandom(9 * CHUNK)
    partial = tmp_path / "arrived.partial"
    partial.mkdir()
    (partial / "pages").write_bytes(b"x" + data[1 : 8 * CHUNK])
    (partial / "of another parcel").write_bytes(b"x")
    await nodes.fetch(nodes.offer(parcel_of(tmp_path / "source", {"pages": data, "more": b"y"})))
    assert content(nodes.into) == {"pages": data, "more": b"y"}


async def test_what_a_discarded_fetch_left_is_gone(tmp_path: Path) -> None:
    (tmp_path / "arrived.partial" / "app").mkdir(parents=True)
    discard(str(tmp_path / "arrived"))
    discard(str(tmp_path / "arrived"))
    assert left(tmp_path) == []


async def test_a_source_that_is_started_again_goes_on(tmp_path: Path) -> None:
    parcel = parcel_of(tmp_path / "source", {"pages": os.urandom(6 * CHUNK)})
    half = asyncio.Event()
    async with serving(tmp_path, bytes_per_second=4 * CHUNK) as nodes:
        offer = nodes.offer(parcel)
        fetching = asyncio.ensure_future(
            nodes.fetch(offer, progress=lambda done, _: half.set() if done >= 2 * CHUNK else None)
        )
        async with asyncio.timeout(30):
            await half.wait()
        await nodes.server.close()
        again = Server(nodes.shelf, credentials(SOURCE))
        try:
            again.start("127.0.0.1", nodes.port)
            received = await fetching
        finally:
            await again.close()
    assert received.connections == 2
    assert content(tmp_path / "arrived") == {"pages": (tmp_path / "source" / "0").read_bytes()}


async def test_after_the_deadline_nothing_is_left(nodes: Nodes, tmp_path: Path) -> None:
    parcel = Parcel()
    path = tmp_path / "pages"
    path.write_bytes(os.urandom(2 * CHUNK))
    parcel.add("pages", str(path))
    with pytest.raises(TooLate, match="2097152 bytes did"):
        await nodes.fetch(nodes.offer(parcel), seconds=1)
    assert left(tmp_path) == []
    assert path.exists()


async def test_a_source_that_is_silent_is_given_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as nodes:
        async with line(nodes.port, lambda data, at: data if at < 3000 else b"") as (port, passed):
            offer = nodes.offer(parcel_of(tmp_path / "source", FILES))
            with pytest.raises(TooLate):
                await nodes.fetch(offer, port=port, seconds=2, patience=0.3)
        assert len(passed) > 1
        assert left(tmp_path) == []


async def test_who_waits_for_a_slow_dump_is_not_taken_for_dead(tmp_path: Path) -> None:
    async with serving(tmp_path, patience=1) as nodes:
        parcel = Parcel()
        path = tmp_path / "pages"
        path.write_bytes(b"x")
        fetching = asyncio.ensure_future(nodes.fetch(nodes.offer(parcel), patience=1))
        await asyncio.sleep(2.5)  # nothing can be waited for: that nothing happens is the point
        parcel.add("pages", str(path), proof(b"x"))
        parcel.finish()
        assert (await fetching).connections == 1


async def test_a_dump_that_failed_is_told_in_its_words(nodes: Nodes, tmp_path: Path) -> None:
    parcel = Parcel()
    fetching = asyncio.ensure_future(nodes.fetch(nodes.offer(parcel)))
    await asyncio.sleep(0)
    parcel.abandon("CRIU can not dump an io_uring")
    with pytest.raises(Refused, match="the source: CRIU can not dump an io_uring"):
        await fetching
    assert left(tmp_path) == []


async def test_the_limit_is_kept_by_all_together(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with serving(tmp_path, bytes_per_second=2 * CHUNK) as nodes:
        files = {"pages": os.urandom(2 * CHUNK)}
        offers = [nodes.offer(parcel_of(tmp_path / f"source-{number}", files)) for number in range(2)]
        began = loop.time()
        await asyncio.gather(
            *(nodes.fetch(offer, into=str(tmp_path / offer.ticket)) for offer in offers),
        )
        assert loop.time() - began > 1.5  # four chunks, two a second, half a second's worth for nothing


async def test_of_two_fetches_to_one_place_the_second_is_refused(nodes: Nodes, tmp_path: Path) -> None:
    parcel = Parcel()
    begun = asyncio.Event()
    path = tmp_path / "pages"
    path.write_bytes(bytes(CHUNK))
    parcel.add("pages", str(path))
    offer = nodes.offer(parcel)
    first = asyncio.ensure_future(nodes.fetch(offer, progress=lambda *_: begun.set()))
    async with asyncio.timeout(30):
        await begun.wait()
    with pytest.raises(Refused, match="is being fetched already"):
        await nodes.fetch(offer)
    parcel.add("pages", str(path), proof(bytes(CHUNK)))
    parcel.finish()
    await first
    with pytest.raises(Refused, match="exists already"):
        await nodes.fetch(nodes.offer(parcel))
    assert content(nodes.into) == {"pages": bytes(CHUNK)}
