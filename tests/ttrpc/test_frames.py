"""Frames survive any way of cutting the stream, and a stream that holds none is noticed at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.ttrpc.frames import DATA, MAX_PAYLOAD, REQUEST, Frame, FrameError, FrameParser, pack

FRAMES = st.builds(
    Frame, st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=50)
)


def test_the_header_is_the_one_of_the_protocol() -> None:
    assert pack(3, REQUEST, 0, b"hi") == bytes.fromhex("00000002 00000003 01 00") + b"hi"
    assert pack(2**32 - 1, DATA, 5, b"") == bytes.fromhex("00000000 ffffffff 03 05")


@given(st.lists(FRAMES, max_size=6), st.data())
def test_frames_come_back_however_the_stream_is_cut(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(pack(frame.stream, frame.kind, frame.flags, frame.payload) for frame in sent)
    parser, got = FrameParser(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        got += parser.feed(stream[:cut])
        stream = stream[cut:]
    assert got == sent


def test_the_longest_frame_passes_and_one_byte_more_is_refused_on_both_ways() -> None:
    longest = bytes(MAX_PAYLOAD)
    assert FrameParser().feed(pack(1, DATA, 0, longest)) == [Frame(1, DATA, 0, longest)]
    with pytest.raises(FrameError, match=str(MAX_PAYLOAD + 1)):
        pack(1, DATA, 0, longest + b"x")
    with pytest.raises(FrameError, match=str(MAX_PAYLOAD + 1)):
        FrameParser().feed((MAX_PAYLOAD + 1).to_bytes(4, "big") + bytes(6))


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_random_bytes_are_frames_or_refused(pieces: list[bytes]) -> None:
    parser = FrameParser()
    try:
        for piece in pieces:
            parser.feed(piece)
    except FrameError:
        return
