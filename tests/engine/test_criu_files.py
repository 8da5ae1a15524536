"""CRIU's list of open files: addresses are exchanged, all else stays byte by byte."""

from __future__ import annotations

import socket
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.engine import criu_files
from architect.engine.errors import Refused

HEADER = b"\x19\x43\x56\x54\x34\x12\x30\x56"
NEW = ("10.1.0.9", "fd00::9", "fe80::9")
LISTEN, ESTABLISHED, CLOSE = 10, 1, 7


def varint(value: int) -> bytes:
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def image(*entries: bytes) -> bytes:
    return HEADER + b"".join(struct.pack("<I", len(entry)) + entry for entry in entries)


def inet(address: str, *, proto: int = socket.IPPROTO_TCP, state: int = LISTEN, port: int = 80) -> bytes:
    """A file_entry with a socket bound to `address`."""
    raw = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    words = [int.from_bytes(raw[start : start + 4], sys.byteorder) for start in range(0, len(raw), 4)]
    inner = number(1, 7) + number(5, proto) + number(6, state) + number(7, port) + number(8, 0)
    inner += b"".join(number(11, word) for word in words) + message(13, b"fown") + number(15, 1)
    return number(1, 4) + number(2, 7) + message(4, inner)


def regular(name: str, size: int) -> bytes:
    inner = number(1, 3) + number(2, 0) + number(3, 0) + message(5, b"") + message(6, name.encode())
    return number(1, 1) + number(2, 3) + message(3, inner + number(8, size))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("10.1.0.4", "10.1.0.9"),
        ("fd00::4", "fd00::9"),
        ("::ffff:10.1.0.4", "::ffff:10.1.0.9"),
        ("fe80::4", "fe80::9"),
    ],
)
def test_listeners_and_bound_sockets_get_the_new_address(old: str, new: str) -> None:
    for proto, state in (
        (socket.IPPROTO_TCP, LISTEN),
        (socket.IPPROTO_TCP, CLOSE),
        (socket.IPPROTO_UDP, CLOSE),
    ):
        before = image(regular("/a", 1), inet(old, proto=proto, state=state), regular("/b", 2))
        after = image(regular("/a", 1), inet(new, proto=proto, state=state), regular("/b", 2))
        assert criu_files.readdressed(before, NEW) == after


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "::", "127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "224.0.0.1", "ff02::1", *NEW],
)
def test_what_every_pod_has_stays(address: str) -> None:
    data = image(inet(address), inet(address, proto=socket.IPPROTO_UDP, state=CLOSE))
    assert criu_files.readdressed(data, NEW) == data


def test_connections_and_sockets_without_a_port_stay() -> None:
    data = image(inet("10.1.0.4", state=ESTABLISHED), inet("10.1.0.4", state=CLOSE, port=0))
    assert criu_files.readdressed(data, NEW) == data


@pytest.mark.parametrize("now", [(), ("fd00::9",), ("10.1.0.9", "10.2.0.9")])
def test_an_address_without_a_clear_counterpart_is_refused(now: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match=r"bound to 10\.1\.0\.4, which its pod does not have any more"):
        criu_files.readdressed(image(inet("10.1.0.4")), now)


def test_open_files_are_told() -> None:
    found = criu_files.open_files(image(regular("/data/log", 300), inet("0.0.0.0")))
    assert found == [criu_files.OpenFile(3, "/data/log", 300)]
    assert criu_files.remapped(image(number(1, 3) + number(2, 9))) == {3}


@given(st.binary(max_size=200))
def test_nonsense_is_refused_or_read(data: bytes) -> None:
    for text in (data, image(data), image(message(4, data)), image(message(3, data))):
        for ask in (
            criu_files.open_files,
            criu_files.remapped,
            lambda text: criu_files.readdressed(text, NEW),
        ):
            try:
                ask(text)
            except Refused:
                continue


def timer(
    *, clock: int = 1, ticks: int = 0, flags: int = 0, left: int = 0, left_ns: int = 0, every_ns: int = 0
) -> bytes:
    """A file_entry with a timerfd."""
    inner = number(1, 5) + number(2, 2) + message(3, b"fown") + number(4, clock) + number(5, ticks)
    inner += number(6, flags) + number(7, left) + number(8, left_ns) + number(9, 0) + number(10, every_ns)
    return number(1, 17) + number(2, 5) + message(12, inner)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (timer(ticks=1, every_ns=100), timer(left_ns=1, every_ns=100)),
        (timer(ticks=3, every_ns=100, flags=1), timer(ticks=2, left_ns=1, every_ns=100)),
        (timer(clock=0, ticks=1, every_ns=100, flags=1), timer(clock=0, left_ns=1, every_ns=100, flags=1)),
        (timer(clock=7, left=3, left_ns=9, flags=1), timer(clock=7, left=3, left_ns=9)),
    ],
    ids=["rang unread", "rang unread again", "by wall time", "for an absolute time"],
)
def test_a_timer_goes_on(before: bytes, after: bytes) -> None:
    assert criu_files.rearmed(image(regular("/a", 1), before)) == image(regular("/a", 1), after)


@pytest.mark.parametrize(
    "entry",
    [
        timer(every_ns=100),  # somebody has stopped it
        timer(ticks=1),  # once, and it has rung
        timer(left=1, every_ns=100),
        timer(clock=0, left=5, flags=1),
        timer(clock=0, left=5, flags=3),
        inet("10.0.0.1"),
    ],
)
def test_all_other_timers_stay(entry: bytes) -> None:
    assert criu_files.rearmed(image(entry, regular("/b", 2))) == image(entry, regular("/b", 2))


@given(st.binary(max_size=200))
def test_what_is_no_list_of_timers_is_refused_or_left_alone(data: bytes) -> None:
    try:
        criu_files.rearmed(HEADER + data)
    except Refused:
        pass
