"""Large parcels: what holes cost, what memory both ends need, and a disk that is full."""

from __future__ import annotations

import asyncio
import filecmp
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.transfer import NoSpace, Parcel
from daemon.transfer.contents import Hashing
from daemon.transfer.frames import CHUNK
from tests.daemon.transfer.conftest import Nodes, left, mounted, parcel_of, proof, serving

GIB = 1 << 30


def resident() -> int:
    """What this process has in memory of its own, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon"))


def hashed(path: Path) -> Hashing:
    found = Hashing()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            found.update(data)
    return found


async def transferred(nodes: Nodes, path: Path) -> tuple[int, int]:
    """(bytes on the wire, the most memory that the transfer took) of a file, sent and received by this
    process.
    """
    parcel = Parcel()
    parcel.add("pages", str(path), hashed(path).file())
    parcel.finish()
    before, most = resident(), 0

    def progress(done: int, total: int) -> None:
        nonlocal most
        most = max(most, resident() - before)

    received = await nodes.fetch(nodes.offer(parcel), progress=progress)
    assert filecmp.cmp(path, nodes.into / "pages", shallow=False)
    return received.wire_bytes, most


async def test_a_gigabyte_with_holes_comes_as_what_is_in_it(tmp_path: Path, nodes: Nodes) -> None:
    path = tmp_path / "pages"
    page = os.urandom(4096)
    with path.open("wb") as file:
        for number in range(0, GIB, 8 << 20):
            file.seek(number + 4096 * (number % 13))
            file.write(page)
        file.truncate(GIB)
    wire, most = await transferred(nodes, path)
    assert wire < 2 << 20
    assert most < 48 << 20
    blocks = (nodes.into / "pages").stat().st_blocks * 512
    assert blocks <= path.stat().st_blocks * 512 + (1 << 20)


async def test_zeros_that_are_written_are_not_sent_either(tmp_path: Path, nodes: Nodes) -> None:
    path = tmp_path / "pages"
    path.write_bytes(bytes(64 << 20) + b"end")
    wire, _ = await transferred(nodes, path)
    assert wire < 100_000
    assert (nodes.into / "pages").stat().st_blocks < 1000


async def test_memory_does_not_grow_with_the_parcel(tmp_path: Path, nodes: Nodes) -> None:
    """Both ends of it are in this process; the files are in the page cache, which is not ours."""
    path = tmp_path / "pages"
    block = os.urandom(CHUNK) + bytes(range(256)) * 4096
    with path.open("wb") as file:
        for _ in range(150):
            file.write(block)
    _, most = await transferred(nodes, path)
    assert most < 48 << 20


async def test_a_slow_target_holds_the_source_up(tmp_path: Path) -> None:
    """A source that reads ahead of a target that takes nothing would fill the node's memory."""
    async with serving(tmp_path) as nodes:
        parcel = parcel_of(tmp_path / "source", {"pages": os.urandom(64 << 20)})
        offer = nodes.offer(parcel)
        stopped = asyncio.Event()

        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", nodes.port)
            up = asyncio.ensure_future(_pump(reader, back, lambda _: True))
            await _pump(there, writer, lambda passed: passed < 4 * CHUNK)
            await stopped.wait()
            up.cancel()
            for each in (back, writer):
                each.transport.abort()

        line = await asyncio.start_server(swallow, "127.0.0.1", 0, limit=CHUNK)
        port = line.sockets[0].getsockname()[1]
        fetching = asyncio.ensure_future(nodes.fetch(offer, port=port, patience=2))
        before = -1
        async with asyncio.timeout(30):
            while offer.sent != before or not offer.sent:  # until it no longer grows
                before = offer.sent
                await asyncio.sleep(0.3)
        assert offer.sent < 32 << 20
        fetching.cancel()
        stopped.set()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        line.close()
        await line.wait_closed()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, more: Callable[[int], bool]
) -> None:
    passed = 0
    while more(passed) and (data := await reader.read(1 << 16)):
        passed += len(data)
        writer.write(data)
        await writer.drain()


@pytest.mark.root
async def test_a_full_disk_leaves_nothing_and_harms_nothing(tmp_path: Path, nodes: Nodes) -> None:
    small = tmp_path / "small"
    small.mkdir()
    parcel = parcel_of(tmp_path / "source", {"pages": os.urandom(3 * CHUNK), "more": b"x"})
    offer = nodes.offer(parcel)
    with mounted("tmpfs", small, "size=2m"):
        with pytest.raises(NoSpace, match=r"does not fit where .*/small/arrived.partial is: No space left"):
            await nodes.fetch(offer, into=str(small / "arrived"))
        assert left(small) == []
    assert proof((tmp_path / "source" / "0").read_bytes()) == parcel.look().contents["pages"]  # type: ignore[index]
    await nodes.fetch(offer)
    assert left(tmp_path) == ["arrived"]
