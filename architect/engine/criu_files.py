"""CRIU's list of open files (`files.img`), fitted to another place or time: addresses, timers, what is open.

An image file is two magic numbers, then entries: the length in four bytes, and a protobuf message. Of the
messages only what is asked for is looked at; all else goes through byte by byte. Source: CRIU's own
`images/fdinfo.proto`, `sk-inet.proto`, `regfile.proto`, `timerfd.proto`, `remap-file-path.proto` (4.2).

The trap: addresses are stored as numbers in the byte order of the machine, one per four bytes.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final

from architect.engine.errors import Refused

FILES: Final = "files.img"
REMAPS: Final = "remap-fpath.img"
MAX_BYTES: Final = 256 << 20

_HEADER: Final = 8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# file_entry; inet_sk_entry; reg_file_entry; timerfd_entry; remap_file_path_entry
_REG, _ISK, _TFD = 3, 4, 12
_FAMILY, _PROTO, _STATE, _PORT, _ADDRESS = 3, 5, 6, 7, 11
_REG_ID, _REG_NAME, _REG_SIZE = 1, 6, 8
_CLOCK, _TICKS, _FLAGS, _SECONDS, _NANOSECONDS, _EVERY, _EVERY_NANOSECONDS = 4, 5, 6, 7, 8, 9, 10
_REMAP_ORIGINAL: Final = 1

_IS_TIMER: Final = b"\x08\x11"
"""How the entry of a timer begins: its kind is 17."""
_ABSOLUTE: Final = 1
_SINCE_BOOT: Final = (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)

_LISTEN, _CLOSE = 10, 7
_MAPPED: Final = bytes(10) + b"\xff\xff"
_WILD: Final = (bytes(4), bytes(16), _MAPPED + bytes(4))
_LOOPBACK: Final = bytes(15) + b"\x01"


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A regular file or folder that the image names: its number, path in the container, and size in bytes."""

    number: int
    path: str
    size: int | None


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a message: its number, its value, and its bytes as they stand there."""

    number: int
    value: int | bytes
    raw: bytes


def open_files(data: bytes) -> list[OpenFile]:
    """The named files in a `files.img`. Raises Refused for what is none."""
    found = []
    for entry in _entries(data):
        for field in _fields(entry):
            if field.number == _REG and isinstance(field.value, bytes):
                inner = {each.number: each.value for each in _fields(field.value)}
                number, name, size = inner.get(_REG_ID), inner.get(_REG_NAME), inner.get(_REG_SIZE)
                if isinstance(number, int) and isinstance(name, bytes):
                    path = name.decode("utf-8", "surrogateescape")
                    found.append(OpenFile(number, path, size if isinstance(size, int) else None))
    return found


def remapped(data: bytes) -> set[int]:
    """The numbers of files that have no name any more, or another one (`remap-fpath.img`): CRIU makes them
    itself. Raises Refused.
    """
    return {
        field.value
        for entry in _entries(data)
        for field in _fields(entry)
        if field.number == _REMAP_ORIGINAL and isinstance(field.value, int)
    }


def readdressed(data: bytes, addresses: Collection[str]) -> bytes:
    """A `files.img` whose sockets are bound to `addresses`, those that the pod has now, instead of those that
    it had.

    Connections are not looked at: a restore elsewhere closes them. Raises Refused when an address has no
    counterpart, or more than one.
    """
    mine = [_packed(address) for address in addresses]
    made = [data[:_HEADER]]
    for entry in _entries(data):
        changed = _changed(entry, _ISK, lambda inner: _socket(inner, mine))
        made += [struct.pack("<I", len(changed)), changed]
    return b"".join(made)


def rearmed(data: bytes) -> bytes:
    """A `files.img` whose timers go on as CRIU 4.2 does not make them go on; the same where there are none.

    A periodic timer that rang while the container was frozen stands still until that is read: CRIU gives back
    what it rang, and never starts it again (its issue 3162). One for an absolute time would ring up to a
    second too early. Raises Refused for what is no `files.img`.
    """
    made = [data[:_HEADER]]
    for entry in _entries(data):
        changed = _changed(entry, _TFD, _timer) if entry.startswith(_IS_TIMER) else entry
        made += [struct.pack("<I", len(changed)), changed]
    return b"".join(made)


def _timer(message: bytes) -> bytes:
    fields = _fields(message)
    known = {field.number: field.value for field in fields}
    new = {}
    if known.get(_CLOCK) in _SINCE_BOOT and known.get(_FLAGS) == _ABSOLUTE:
        new[_FLAGS] = 0  # what is noted is the time that is left, of either kind
    left, every = (_SECONDS, _NANOSECONDS), (_EVERY, _EVERY_NANOSECONDS)
    ticks = known.get(_TICKS)
    if isinstance(ticks, int) and ticks and any(map(known.get, every)) and not any(map(known.get, left)):
        new |= {_TICKS: ticks - 1, _NANOSECONDS: 1}  # it rings once more, at once, and so is read and goes on
    return b"".join(
        _key(field.number, _VARINT) + _varint(new[field.number]) if field.number in new else field.raw
        for field in fields
    )


def _socket(message: bytes, mine: list[bytes]) -> bytes:
    fields = _fields(message)
    known = {field.number: field.value for field in fields}
    bound = known.get(_PROTO) != socket.IPPROTO_TCP or known.get(_STATE) in (_LISTEN, _CLOSE)
    words = [field.value for field in fields if field.number == _ADDRESS and isinstance(field.value, int)]
    old = b"".join((word & 0xFFFFFFFF).to_bytes(4, sys.byteorder) for word in words)
    if not bound or (not known.get(_PORT) and known.get(_PROTO) == socket.IPPROTO_TCP):
        return message
    if len(old) not in (4, 16) or old in mine or _is_anywhere(old):
        return message
    new = iter(_replacement(old, mine))
    return b"".join(
        _key(_ADDRESS, _VARINT) + _varint(next(new)) if field.number == _ADDRESS else field.raw
        for field in fields
    )


def _is_anywhere(address: bytes) -> bool:
    """Whether an address means the same in every pod: none, a loopback's, a group's."""
    plain = address.removeprefix(_MAPPED) if len(address) == 16 else address
    if len(plain) == 4:
        return address in _WILD or plain[0] == 127 or plain[0] >= 224
    return address in _WILD or address == _LOOPBACK or address[0] == 0xFF


def _replacement(old: bytes, mine: list[bytes]) -> list[int]:
    """The words of the one address of the same kind. Raises Refused."""
    mapped = len(old) == 16 and old.startswith(_MAPPED)
    plain = old[12:] if mapped else old
    alike = [each for each in mine if _kind(each) == _kind(plain)]
    if len(alike) != 1:
        shown = socket.inet_ntop(socket.AF_INET if len(plain) == 4 else socket.AF_INET6, plain)
        raise Refused(
            f"a socket of it is bound to {shown}, which its pod does not have any more; "
            f"of {len(alike)} new addresses none is known to stand for it"
        )
    new = _MAPPED + alike[0] if mapped else alike[0]
    return [int.from_bytes(new[start : start + 4], sys.byteorder) for start in range(0, len(new), 4)]


def _kind(address: bytes) -> tuple[int, bool]:
    """Family and reach: addresses of one kind can stand for each other."""
    link_local = len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80
    return len(address), link_local


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


# ---- the wire


def _entries(data: bytes) -> Iterator[bytes]:
    position = _HEADER
    while position < len(data):
        if position + 4 > len(data):
            raise Refused("its list of open files ends in the middle")
        (length,) = struct.unpack_from("<I", data, position)
        position += 4
        if position + length > len(data):
            raise Refused("its list of open files ends in the middle")
        yield data[position : position + length]
        position += length


def _changed(message: bytes, number: int, change: Callable[[bytes], bytes]) -> bytes:
    """The message with every inner message in field `number` changed."""
    made = []
    for field in _fields(message):
        if field.number == number and isinstance(field.value, bytes):
            inner = change(field.value)
            made.append(_key(number, _BYTES) + _varint(len(inner)) + inner)
        else:
            made.append(field.raw)
    return b"".join(made)


def _fields(message: bytes) -> list[_Field]:
    found = []
    position = 0
    try:
        while position < len(message):
            start = position
            key, position = _read_varint(message, position)
            kind, value = key & 7, 0
            if kind == _VARINT:
                value, position = _read_varint(message, position)
                found.append(_Field(key >> 3, value, message[start:position]))
                continue
            size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
            if kind == _BYTES:
                size, position = _read_varint(message, position)
            if size is None or position + size > len(message):
                raise Refused("its list of open files is not in CRIU's format")
            position += size
            found.append(_Field(key >> 3, message[position - size : position], message[start:position]))
    except IndexError:
        raise Refused("its list of open files is not in CRIU's format") from None
    return found


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise Refused("its list of open files is not in CRIU's format")


def _varint(value: int) -> bytes:
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)
