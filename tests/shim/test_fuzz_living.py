"""A living shim is told everything but what it should hear: it goes on answering, and grows by nothing.

What a client may send is drawn by hypothesis; then the whole of it is said again and again, and the kernel is
asked what the shim holds. `pytest --hypothesis-profile=hunt` looks longer, and elsewhere every time.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.ttrpc import containerd, frames, shim_v1
from architect.ttrpc.codec import encode
from architect.ttrpc.rpc import Request
from tests.shim.living import ARENAS, LIVE, NEEDS_RUNC, Living, living
from tests.ttrpc.samples import messages

pytestmark = [pytest.mark.root, NEEDS_RUNC]

SAID = 6000
"""Conversations in all: a leak of as little as 350 bytes in each exceeds ARENAS."""

METHODS: dict[tuple[str, str], type[Any]] = {
    **{(containerd.TASK_V2, name): request for name, (request, _) in containerd.TASK_METHODS.items()},
    **{(containerd.TASK_V3, name): request for name, (request, _) in containerd.TASK_METHODS.items()},
    (shim_v1.SERVICE, "Describe"): shim_v1.DescribeRequest,
    (shim_v1.SERVICE, "Hibernate"): shim_v1.HibernateRequest,
    (shim_v1.SERVICE, "Wake"): shim_v1.WakeRequest,
    (shim_v1.SERVICE, "Watch"): shim_v1.WatchRequest,
}
HARMLESS = {
    "State",
    "Pids",
    "Stats",
    "Connect",
    "Wait",
    "CloseIO",
    "ResizePty",
    "Delete",
    "Shutdown",
    "Watch",
}
"""What may be asked of the living container itself, ten thousand times."""
NAMES = st.sampled_from(["ghost", "", ".", "..", "../../etc", "a/b", "a\0b", "-x", "x" * 200]) | st.text(
    max_size=5
)
NUMBERS = st.sampled_from([0, 1, 3, 5, 2**31 - 1, 2**31, 2**32 - 1]) | st.integers(0, 40)
LENGTHS = [frames.MAX_PAYLOAD, frames.MAX_PAYLOAD + 1, 2**31, 2**32 - 1]


@st.composite
def payloads(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """A method and a payload for it: its own message with strange names in it, or anything."""
    service, method = draw(st.sampled_from(sorted(METHODS)))
    if draw(st.integers(0, 9)) == 0:
        return (
            draw(st.sampled_from([service, "", "x"])),
            draw(st.text(max_size=9)),
            draw(st.binary(max_size=40)),
        )
    message = draw(messages(METHODS[service, method]))
    for name in ("id", "exec_id", "container_id", "bundle"):
        if hasattr(message, name):
            setattr(message, name, draw(NAMES))
    if method in HARMLESS and draw(st.booleans()) and hasattr(message, "id"):
        message.id = LIVE
    payload = bytearray(encode(message))
    for _ in range(draw(st.integers(0, 2)) if payload and LIVE not in str(message) else 0):
        payload[draw(st.integers(0, len(payload) - 1))] = draw(st.integers(0, 255))
    return service, method, bytes(payload)


@st.composite
def said(draw: st.DrawFn, number: int) -> bytes:
    """One thing that a client may say on stream `number`, or on another: sense or nonsense."""
    what = draw(st.sampled_from(["request"] * 8 + ["frame", "data", "noise", "length"]))
    stream = draw(NUMBERS) if draw(st.integers(0, 7)) == 0 else number
    if what == "noise":
        return draw(st.binary(max_size=30))
    if what == "length":
        return struct.pack(">IIBB", draw(st.sampled_from(LENGTHS)), stream, 1, 0)
    if what == "request":
        service, method, payload = draw(payloads())
        body = encode(Request(service, method, payload, draw(st.sampled_from([0, 0, -1, 1, 2**63 - 1]))))
        return frames.pack(stream, frames.REQUEST, draw(st.integers(0, 7)), body)
    kind = frames.DATA if what == "data" else draw(st.integers(0, 255))
    return frames.pack(stream, kind, draw(st.integers(0, 255)), draw(st.binary(max_size=30)))


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """The pieces of what is said on one connection: cut anywhere, and ended anywhere."""
    whole = b"".join(draw(said(2 * place + 1)) for place in range(draw(st.integers(1, 8))))
    whole = whole[: draw(st.integers(0, len(whole)))] if draw(st.integers(0, 3)) == 0 else whole
    cuts = sorted(draw(st.sets(st.integers(0, len(whole)), max_size=4)))
    return [whole[start:end] for start, end in itertools.pairwise([0, *cuts, len(whole)])]


@pytest.fixture(scope="module")
def shim() -> Iterator[Living]:
    with living() as serving:
        yield serving


def say_again(shim: Living, heard: list[Sequence[bytes]], times: int) -> None:
    """Says all of it again, `times` in all, and asserts that it leaves nothing."""
    for number in range(times // 10):
        shim.hear(heard[number % len(heard)])
    before = shim.usage()
    for number in range(times):
        shim.hear(heard[number % len(heard)])
    shim.answers()
    shim.holds_no_more_than(before, ARENAS)


def test_nothing_that_is_said_on_a_connection_disturbs_the_others_or_stays(shim: Living) -> None:
    heard: list[Sequence[bytes]] = []

    @given(conversations())
    def talk(pieces: list[bytes]) -> None:
        shim.hear(pieces)
        shim.answers()
        heard.append(pieces)

    talk()
    say_again(shim, heard, SAID)


def test_a_caller_who_does_not_wait_for_an_end_leaves_nothing(shim: Living) -> None:
    body = encode(Request(containerd.TASK_V2, "Wait", encode(containerd.WaitRequest(LIVE))))
    say_again(shim, [[frames.pack(1, frames.REQUEST, 0, body)]], 2000)


def test_frames_that_never_end_leave_nothing(shim: Living) -> None:
    half = frames.pack(1, frames.REQUEST, 0, bytes(frames.MAX_PAYLOAD))[:-1]
    unknown = frames.pack(1, frames.REQUEST, 0, bytes.fromhex("2800") * (frames.MAX_PAYLOAD >> 5))
    say_again(shim, [[half], [unknown]], 40)
