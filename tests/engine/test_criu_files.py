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
