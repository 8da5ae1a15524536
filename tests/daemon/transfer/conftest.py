"""Two nodes with certificates on loopback, and a line between them that breaks when it is told to."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from architect.images.manifest import File
from daemon.transfer import Credentials, Offer, Parcel, Received, Server, Shelf, Source, fetch
from daemon.transfer.contents import Hashing
from hack.certificates import Authority

SOURCE, TARGET = "node-1", "node-2"
SECONDS = 60.0
LIMIT = 1 << 31


@functools.cache
def credentials(
    node: str, authority: str = "the cluster's", *, alternatives: tuple[str, ...] = ()
) -> Credentials:
    """A node's, by one of the authorities that these tests know."""
    names = alternatives or (f"DNS:{node}", f"URI:architect://node/{node}")
    directory = _authority(authority)
    Authority.issue(_held[directory.name], node, f"/CN={node}", names)
    files = (Path(directory.name, name) for name in (f"{node}.crt", f"{node}.key", "ca.crt"))
    return Credentials(*(file.read_text(encoding="ascii") for file in files))


_held: dict[str, Authority] = {}


@functools.cache
def _authority(name: str) -> tempfile.TemporaryDirectory[str]:
    directory = tempfile.TemporaryDirectory(prefix="transfer-ca-")
    _held[directory.name] = Authority(directory.name)
    return directory


def proof(data: bytes) -> File:
    """A file's size and digests."""
    hashing = Hashing()
    hashing.update(data)
    return hashing.file()


def parcel_of(directory: Path, files: dict[str, bytes]) -> Parcel:
    """A finished parcel of files with this content, which it writes to a new directory."""
    directory.mkdir()
    parcel = Parcel()
    for number, (name, data) in enumerate(files.items()):
        path = directory / str(number)
        path.write_bytes(data)
        parcel.add(name, str(path), proof(data))
    parcel.finish()
    return parcel


def content(path: Path) -> dict[str, bytes]:
    """All files below a directory."""
    found = (each for each in path.rglob("*") if each.is_file())
    return {str(each.relative_to(path)): each.read_bytes() for each in found}


@dataclass
class Nodes:
    """A source that serves, and what a target does."""

    shelf: Shelf
    server: Server
    port: int
    root: Path

    @property
    def into(self) -> Path:
        return self.root / "arrived"

    def offer(self, parcel: Parcel, seconds: float = SECONDS) -> Offer:
        return self.shelf.offer(parcel, for_node=TARGET, seconds=seconds)

    async def fetch(self, offer: Offer | str, *, port: int = 0, node: str = SOURCE, **more: Any) -> Received:
        ticket = offer if isinstance(offer, str) else offer.ticket
        source = Source("127.0.0.1", port or self.port, node, ticket)
        wanted: dict[str, Any] = {"into": str(self.into), "limit": LIMIT, "seconds": SECONDS} | more
        return await fetch(source, wanted.pop("credentials", credentials(TARGET)), **wanted)


@asynccontextmanager
async def serving(root: Path, **settings: Any) -> AsyncIterator[Nodes]:
    shelf = Shelf()
    server = Server(shelf, credentials(SOURCE), **settings)
    try:
        yield Nodes(shelf, server, server.start("127.0.0.1"), root)
    finally:
        await server.close()


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    async with serving(tmp_path) as made:
        yield made


Change = Callable[[bytes, int], bytes | None]
"""What becomes of bytes that come from the source, the first of which is the so-manieth; None: the line
breaks.
"""


@asynccontextmanager
async def line(
    port: int, change: Change, *, deaf_after: int = 1 << 60
) -> AsyncIterator[tuple[int, list[int]]]:
    """A line to the source: (its port, how many bytes went through each connection so far).

    What the target says when so many bytes have come gets lost, and the line breaks.
    """
    passed: list[int] = []

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(passed)
        passed.append(0)
        there, back = await asyncio.open_connection("127.0.0.1", port)
        up = asyncio.ensure_future(_copy(reader, back, lambda: passed[number] < deaf_after))
        with closing(writer), closing(back):
            try:
                while data := await there.read(1 << 16):
                    changed = change(data, passed[number])
                    passed[number] += len(data)
                    if changed is None:
                        break
                    writer.write(changed)
                    await writer.drain()
            except OSError:
                pass
            finally:
                up.cancel()
                writer.transport.abort()

    server = await asyncio.start_server(joined, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], passed
    finally:
        server.close()
        await server.wait_closed()


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Callable[[], bool]
) -> None:
    try:
        while data := await reader.read(1 << 16):
            if not heard():
                writer.transport.abort()
                return
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        return


@contextmanager
def mounted(kind: str, where: Path, options: str = "") -> Iterator[None]:
    """A file system of this kind, for as long as it lasts."""
    argv = ["mount", "-t", kind, kind, str(where), *(["-o", options] if options else [])]
    subprocess.run(argv, check=True, timeout=20)
    try:
        yield
    finally:
        subprocess.run(["umount", str(where)], check=True, timeout=20)


def left(root: Path) -> list[str]:
    """What a fetch has left beside what the tests put there."""
    return sorted(name for name in os.listdir(root) if name.startswith("arrived"))
