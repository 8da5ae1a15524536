"""Standard streams: every byte, in order, whatever the reader does."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from architect.ttrpc.server import RpcError
from shim.streams import Streams, Uris


def _fifo(directory: Path, name: str) -> str:
    path = str(directory / name)
    os.mkfifo(path)
    return path


async def _read_all(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        try:
            data += os.read(fd, 65536)
        except BlockingIOError:
            ready = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().add_reader(fd, ready.set_result, None)
            await asyncio.wait_for(ready, 10)
            asyncio.get_running_loop().remove_reader(fd)
    return data


async def test_a_reader_that_comes_late_gets_every_byte_in_order(tmp_path: Path) -> None:
    fifo = _fifo(tmp_path, "out")
    streams = await Streams.open(Uris("", fifo, "", terminal=False))
    streams.start()
    sent = os.urandom(300_000)

    def write() -> None:
        view = memoryview(sent)
        while view:
            view = view[os.write(streams.ends[1], view) :]

    writing = asyncio.create_task(asyncio.to_thread(write))
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert await _read_all(reader, len(sent)) == sent
        await writing
        await streams.finish()
        assert os.read(reader, 10) == b""
    finally:
        os.close(reader)
        await asyncio.get_running_loop().shutdown_default_executor()


async def test_what_was_written_last_arrives_after_the_process_has_ended(tmp_path: Path) -> None:
    fifo = _fifo(tmp_path, "out")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    streams = await Streams.open(Uris("", fifo, "", terminal=False))
    os.write(streams.ends[1], b"last words")
    await streams.finish()
    try:
        assert os.read(reader, 100) == b"last words"
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)


async def test_closing_the_input_lets_the_process_read_its_rest_and_then_the_end(tmp_path: Path) -> None:
    fifo = _fifo(tmp_path, "in")
    streams = await Streams.open(Uris(fifo, "", "", terminal=False))
    writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    os.write(writer, b"hello")
    os.close(writer)
    streams.start()
    await streams.close_stdin()
    assert os.read(streams.ends[0], 100) == b"hello"
    assert os.read(streams.ends[0], 100) == b""
    streams.close()


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("http:///bin/true", id="a scheme that is not known"),
        pytest.param("binary://bin/true", id="a log binary without an absolute path"),
        pytest.param("relative", id="a path that is not absolute"),
        pytest.param("/etc", id="a directory"),
        pytest.param("/no/such/fifo", id="nothing there"),
    ],
)
async def test_a_stream_that_cannot_be_written_is_refused(uri: str) -> None:
    with pytest.raises(RpcError):
        await Streams.open(Uris("", uri, "", terminal=False))


async def test_a_file_gets_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "log"
    streams = await Streams.open(Uris("", f"file://{path}", "", terminal=False))
    os.write(streams.ends[1], b"line\n")
    await streams.finish()
    assert path.read_bytes() == b"line\n"
