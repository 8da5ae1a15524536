"""Whatever a source sends, the target lands it in its directory or says what is wrong; bytes and memory are
bounded.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from architect.images.manifest import PIECE, File
from architect.untrusted import Unreadable
from daemon.transfer import Corrupt, NoSpace, Refused, TransferError, compression
from daemon.transfer.contents import decode, encode
from daemon.transfer.errors import Broken
from daemon.transfer.frames import CHUNK, COMPRESSED, HEADER, LENGTH, Channel, Frame, Kind
from daemon.transfer.landing import Landing
from daemon.transfer.receiving import Receiving
from tests.daemon.transfer.conftest import content, proof

LIMIT = 4 << 20


def wire(frame: Frame) -> bytes:
    header = HEADER.pack(frame.kind, frame.flags, len(frame.payload), frame.number, frame.value)
    return header + bytes(frame.payload)


def received(stream: bytes, *, limit: int = LIMIT) -> dict[str, bytes]:
    """What a target has after these bytes, with whatever they raise."""
    with tempfile.TemporaryDirectory() as directory:
        here, there = socket.socketpair()
        sender = threading.Thread(target=_send, args=(there, stream))
        sender.start()
        try:
            with here, Landing(f"{directory}/into", limit) as landing:
                try:
                    channel = Channel(here, patience=20, until=time.monotonic() + 20)
                    contents = Receiving(channel, landing, lambda *_: None).run()
                    wrong = landing.settle(contents)
                    if wrong:
                        raise Corrupt(wrong)
                    landing.complete()
                    return content(Path(directory, "into"))
                finally:
                    assert set(os.listdir(directory)) <= {"into", "into.partial"}
                    assert landing.bytes <= limit
        finally:
            there.close()
            sender.join()


def _send(connection: socket.socket, stream: bytes) -> None:
    try:
        connection.sendall(stream)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return  # they had enough


def frames(*given: Frame, files: dict[str, bytes] | None = None) -> bytes:
    found = {name: proof(data) for name, data in (files or {}).items()}
    return b"".join(map(wire, given)) + wire(Frame(Kind.CONTENTS, payload=encode(found)))


FILE = Frame(Kind.FILE, 0, payload=b"a")
REFUSED = {
    "a name that climbs": (Frame(Kind.FILE, 0, payload=b"../a"),),
    "an absolute name": (Frame(Kind.FILE, 0, payload=b"/etc/passwd"),),
    "a hidden name": (Frame(Kind.FILE, 0, payload=b".a"),),
    "a name of eight folders": (Frame(Kind.FILE, 0, payload=b"a/" * 8 + b"a"),),
    "a name that is no ASCII": (Frame(Kind.FILE, 0, payload=b"\xff"),),
    "a file in a file": (FILE, Frame(Kind.FILE, 1, payload=b"a/b")),
    "a number twice": (FILE, Frame(Kind.FILE, 0, payload=b"b")),
    "a number beyond all": (Frame(Kind.FILE, 1 << 31, payload=b"b"),),
    "bytes of no file": (Frame(Kind.DATA, 3, 0, b"x"),),
    "bytes after a gap": (FILE, Frame(Kind.DATA, 0, 1, b"x")),
    "a hole of an exabyte": (FILE, Frame(Kind.HOLE, 0, 0, LENGTH.pack(1 << 60))),
    "a hole without a length": (FILE, Frame(Kind.HOLE, 0, 0, b"x")),
    "a frame of a target": (Frame(Kind.TAKEN),),
    "what is no compressed chunk": (FILE, Frame(Kind.DATA, 0, 0, b"nonsense", COMPRESSED)),
    "a file that was not announced to be whole": (FILE, Frame(Kind.DATA, 0, 0, b"x")),
}  # fmt: skip


@pytest.mark.parametrize("given_frames", REFUSED.values(), ids=REFUSED.keys())
def test_what_no_honest_source_sends_is_refused(given_frames: tuple[Frame, ...]) -> None:
    with pytest.raises(Corrupt):
        received(frames(*given_frames, files={"a": b"as announced"}))


def test_a_frame_that_is_too_long_is_refused_before_it_is_read() -> None:
    for kind in Kind:
        header = struct.pack(">BBxxIIQ", kind, 0, (1 << 32) - 1, 0, 0)
        with pytest.raises(Corrupt, match=f"a {kind.name} frame of 4294967295 bytes"):
            received(header)


def test_more_than_was_announced_is_refused_before_it_is_on_the_disk() -> None:
    chunk = bytes(CHUNK)
    four = [Frame(Kind.DATA, 0, at * CHUNK, chunk) for at in range(5)]
    with pytest.raises(NoSpace):
        received(frames(FILE, *four, files={"a": chunk * 5}))
    with pytest.raises(NoSpace):
        received(frames(FILE, Frame(Kind.HOLE, 0, 0, LENGTH.pack(LIMIT + 1)), files={"a": b""}))
    with pytest.raises(NoSpace):
        received(wire(Frame(Kind.CONTENTS, payload=encode({"a": File(LIMIT + 1, ("0" * 64,))}))))


def test_what_comes_again_takes_the_place_of_what_came() -> None:
    again = (Frame(Kind.DATA, 0, 0, b"old and long"), Frame(Kind.DATA, 0, 0, b"new"))
    assert received(frames(FILE, *again, files={"a": b"new"})) == {"a": b"new"}


@pytest.mark.skipif(not compression.OFFERED, reason="this Python has no zstd")
def test_a_chunk_that_unpacks_to_more_than_a_chunk_is_refused() -> None:
    whole = compression.smaller(memoryview(bytes(CHUNK)))
    assert received(frames(FILE, Frame(Kind.DATA, 0, 0, whole, COMPRESSED), files={"a": bytes(CHUNK)}))
    bomb = compression.smaller(memoryview(bytes(300 << 20)))
    assert len(bomb) < CHUNK
    for packed in (
        bomb,
        compression.smaller(memoryview(bytes(CHUNK + 1))),
        whole[:-1],
        whole + b"x",
        whole + whole,
    ):
        with pytest.raises(Corrupt):
            received(frames(FILE, Frame(Kind.DATA, 0, 0, packed, COMPRESSED), files={"a": bytes(CHUNK)}))


def test_a_reason_is_told_in_one_line_of_plain_text() -> None:
    hostile = json.dumps({"reason": "no\n\x1b[31mERROR\u202e all is well"}).encode()
    with pytest.raises(Refused) as caught:
        received(wire(Frame(Kind.REFUSED, payload=hostile)))
    assert str(caught.value) == "no??[31mERROR? all is well"
    with pytest.raises(Refused, match="not in words"):
        received(wire(Frame(Kind.REFUSED, payload=b"{")))


@given(data=st.binary(max_size=200))
@example(data=b'{"a":{"size":1,"sha256":[]}}')
@example(data=b'{"a":{"size":1,"sha256":["%s"]}}' % (b"0" * 63))
@example(data=b'{"../a":{"size":0,"sha256":[]}}')
@example(data=b'{"a":{"size":%d,"sha256":[]}}' % (1 << 62))
def test_contents_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(data)


def test_contents_are_read_as_they_were_written() -> None:
    contents = {
        "a": proof(b""),
        "b/c": proof(b"x"),
        "d": proof(bytes(PIECE + 1)),
        "e": proof(bytes(2 * PIECE)),
    }
    assert decode(encode(contents)) == contents
    assert [len(file.sha256) for file in contents.values()] == [0, 1, 2, 2]


NAMES = st.sampled_from([b"a", b"b", b"a/b", b"c/d", b"..", b"", b"\xff"])
OFFSETS = st.integers(0, 6) | st.integers(0, (1 << 64) - 1)
SOME = st.integers(0, 3)
FRAMES = st.one_of(
    st.builds(lambda n, name: Frame(Kind.FILE, n, 0, name), SOME, NAMES),
    st.builds(lambda n, at, data: Frame(Kind.DATA, n, at, data), SOME, OFFSETS, st.binary(max_size=4)),
    st.builds(lambda n, at, size: Frame(Kind.HOLE, n, at, LENGTH.pack(size)), SOME, OFFSETS, OFFSETS),
    st.builds(Frame, st.sampled_from(Kind), SOME, OFFSETS, st.binary(max_size=9), SOME),
)
CONTENTS = st.dictionaries(st.sampled_from(["a", "b", "c/d"]), st.binary(max_size=6), max_size=3)


@given(given_frames=st.lists(FRAMES, max_size=10), files=CONTENTS, tail=st.binary(max_size=30))
def test_any_frames_bring_what_is_announced_or_an_error(
    given_frames: list[Frame], files: dict[str, bytes], tail: bytes
) -> None:
    try:
        assert received(frames(*given_frames, files=files) + tail) == files
    except (TransferError, Broken):
        pass


@given(stream=st.binary(max_size=100))
def test_any_bytes_are_an_error(stream: bytes) -> None:
    with pytest.raises((TransferError, Broken)):
        received(stream)
