"""Protobuf wire format, driven by declarations on dataclasses.

A message is a dataclass whose fields name their number and kind; `encode` and `decode` work from a table made
once per class. Values of enums stay plain integers, so that a value unknown to us survives. What this leaves
to others: what the messages are, and which of them travels inside an `Any`.

The traps: proto3 omits a field that holds its default, so absence and zero look the same; packed and unpacked
repeated numbers must both be read; an embedded message sent twice is merged, not replaced; `int32` -1 takes
ten bytes.
Source: https://protobuf.dev/programming-guides/encoding/
"""

import dataclasses
import struct
from collections.abc import Callable
from typing import Any

MAX_NESTING = 64
"""Messages within messages, and groups within groups, deeper than this are refused."""

MAX_PARTS = 1 << 16
"""Of one repeated field, messages beyond this are refused: two bytes of a frame would take 150 of memory."""

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)  # wire types
_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF
_FIELD_KEY = "architect.field"


class DecodeError(ValueError):
    """The bytes are not the message they should be."""


class EncodeError(ValueError):
    """A field holds a value that its kind cannot carry."""


@dataclasses.dataclass(slots=True, frozen=True, eq=False)
class Kind:
    """A scalar type: `to_wire` makes the int or bytes its wire type carries, `from_wire` takes it back."""

    name: str
    wire: int
    default: Any
    to_wire: Callable[[Any], Any]
    from_wire: Callable[[Any], Any]


def _ranged(low: int, high: int) -> Callable[[int], int]:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError("out of range")
        return value & _MASK64

    return check


def _signed32(raw: int) -> int:
    raw &= _MASK32
    return raw - (1 << 32) if raw >> 31 else raw


def _signed64(raw: int) -> int:
    return raw - (1 << 64) if raw >> 63 else raw


def _zigzag(value: int) -> int:
    _INT64_RANGE(value)
    return ((value << 1) ^ (value >> 63)) & _MASK64


def _octets(value: bytes) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):  # bytes(7) would be seven zeros
        raise TypeError("not bytes")
    return bytes(value)


_INT32_RANGE = _ranged(-(1 << 31), (1 << 31) - 1)
_INT64_RANGE = _ranged(-(1 << 63), (1 << 63) - 1)
_DOUBLE = struct.Struct("<d")
_UINT64 = struct.Struct("<Q")

STRING = Kind("string", _BYTES, "", str.encode, lambda raw: raw.decode())
BYTES = Kind("bytes", _BYTES, b"", _octets, bytes)
BOOL = Kind("bool", _VARINT, False, bool, bool)
INT32 = Kind("int32", _VARINT, 0, _INT32_RANGE, _signed32)
INT64 = Kind("int64", _VARINT, 0, _INT64_RANGE, _signed64)
UINT32 = Kind("uint32", _VARINT, 0, _ranged(0, _MASK32), lambda raw: raw & _MASK32)
UINT64 = Kind("uint64", _VARINT, 0, _ranged(0, _MASK64), int)
ENUM = Kind("enum", _VARINT, 0, _INT32_RANGE, _signed32)
SINT64 = Kind("sint64", _VARINT, 0, _zigzag, lambda raw: (raw >> 1) ^ -(raw & 1))
DOUBLE = Kind("double", _FIXED64, 0.0, _DOUBLE.pack, lambda raw: _DOUBLE.unpack(raw)[0])
FIXED64 = Kind("fixed64", _FIXED64, 0, _UINT64.pack, lambda raw: _UINT64.unpack(raw)[0])


@dataclasses.dataclass(slots=True, frozen=True)
class FieldSpec:
    """What a declaration said of one field; `kind` is a scalar kind or a message class."""

    number: int
    kind: Kind | type[Any]
    repeated: bool
    mapped: bool
    optional: bool = False


def field(
    number: int,
    kind: Kind | type[Any],
    *,
    repeated: bool = False,
    mapped: bool = False,
    optional: bool = False,
) -> Any:
    """Declare a message field: its number, its kind (or message class), and how often it occurs.

    `repeated` holds a list; `mapped` a dict from str to the kind (`map<string, kind>`). A single message is
    None when absent, and an `optional` scalar as well: its zero travels, as proto2 peers tell the two apart.
    Everything else defaults to its kind's zero.
    """
    metadata = {_FIELD_KEY: FieldSpec(number, kind, repeated, mapped, optional)}
    if mapped:
        return dataclasses.field(default_factory=dict, metadata=metadata)
    if repeated:
        return dataclasses.field(default_factory=list, metadata=metadata)
    zero = kind.default if isinstance(kind, Kind) and not optional else None
    return dataclasses.field(default=zero, metadata=metadata)


# How a field is stored; the decoder's dispatch.
_SINGLE, _LIST, _PACKED, _ONE_MESSAGE, _MESSAGES, _MAP = range(6)


@dataclasses.dataclass(slots=True, frozen=True, eq=False)
class _Slot:
    name: str
    tag: bytes
    wire: int
    mode: int
    kind: Any  # Kind for scalars, the message class otherwise; the value's for a map
    optional: bool


@dataclasses.dataclass(slots=True, frozen=True, eq=False)
class _Table:
    full_name: str
    slots: tuple[_Slot, ...]
    reads: dict[int, _Slot]  # by tag: field number and wire type together
    specs: dict[str, FieldSpec]


_TABLES: dict[type[Any], _Table] = {}


def message[T](full_name: str) -> Callable[[type[T]], type[T]]:
    """Register a dataclass as the protobuf message `full_name`, its package included."""

    def register(cls: type[T]) -> type[T]:
        parts = dataclasses.fields(cls)  # type: ignore[arg-type]
        specs: dict[str, FieldSpec] = {part.name: part.metadata[_FIELD_KEY] for part in parts}
        if len({spec.number for spec in specs.values()}) != len(specs):
            raise TypeError(f"{full_name} declares a field number twice")
        slots = tuple(_slot(name, spec) for name, spec in specs.items())
        reads = {}
        for slot, spec in zip(slots, specs.values(), strict=True):
            reads[spec.number << 3 | slot.wire] = slot
            if slot.mode == _PACKED:  # the same field, one number at a time
                reads[spec.number << 3 | slot.kind.wire] = dataclasses.replace(slot, mode=_LIST)
        _TABLES[cls] = _Table(full_name, slots, reads, specs)
        return cls

    return register


def _slot(name: str, spec: FieldSpec) -> _Slot:
    if not isinstance(spec.kind, Kind) and spec.kind not in _TABLES:
        raise TypeError(f"field {name}: {spec.kind!r} is neither a kind nor a registered message")
    if spec.mapped:
        mode = _MAP
    elif not isinstance(spec.kind, Kind):
        mode = _MESSAGES if spec.repeated else _ONE_MESSAGE
    elif not spec.repeated:
        mode = _SINGLE
    else:
        mode = _LIST if spec.kind.wire == _BYTES else _PACKED
    wire = spec.kind.wire if isinstance(spec.kind, Kind) and mode in (_SINGLE, _LIST) else _BYTES
    tag = bytearray()
    _put_varint(tag, spec.number << 3 | wire)
    return _Slot(name, bytes(tag), wire, mode, spec.kind, spec.optional)


def full_name(cls: type[Any]) -> str:
    """The protobuf name a message class was registered under."""
    return _TABLES[cls].full_name


def declared(cls: type[Any]) -> dict[str, FieldSpec]:
    """The fields of a message class by name, as declared."""
    return _TABLES[cls].specs


def encode(msg: Any) -> bytes:
    """Protobuf bytes of a registered message. Raises EncodeError naming a field that does not fit."""
    out = bytearray()
    _write(out, msg, 0)
    return bytes(out)


def _write(out: bytearray, msg: Any, depth: int) -> None:
    table = _TABLES[type(msg)]
    if depth > MAX_NESTING:
        raise EncodeError(f"{table.full_name} is nested deeper than {MAX_NESTING}")
    for slot in table.slots:
        value = getattr(msg, slot.name)
        if not value and (value is None or not slot.optional):  # zero, empty or None: absent on the wire
            if value is None and slot.mode != _ONE_MESSAGE and not slot.optional:
                raise EncodeError(f"{table.full_name}.{slot.name} is None")
            continue
        try:
            _write_field(out, slot, value, depth)
        except EncodeError:
            raise
        except (TypeError, ValueError, KeyError, AttributeError, struct.error) as error:
            kind = slot.kind.name if isinstance(slot.kind, Kind) else slot.kind.__name__
            what = f"{table.full_name}.{slot.name} ({kind}) cannot hold {repr(value)[:80]}"
            raise EncodeError(f"{what}: {error}") from error


def _write_field(out: bytearray, slot: _Slot, value: Any, depth: int) -> None:
    mode = slot.mode
    if mode == _SINGLE:
        out += slot.tag
        _put_scalar(out, slot.kind, value)
    elif mode == _ONE_MESSAGE:
        out += slot.tag
        _put_message(out, slot.kind, value, depth)
    elif mode == _LIST:
        for item in value:
            out += slot.tag
            _put_scalar(out, slot.kind, item)
    elif mode == _MESSAGES:
        for item in value:
            out += slot.tag
            _put_message(out, slot.kind, item, depth)
    elif mode == _PACKED:
        packed = bytearray()
        for item in value:
            _put_scalar(packed, slot.kind, item)
        out += slot.tag
        _put_varint(out, len(packed))
        out += packed
    else:
        for key, item in value.items():
            out += slot.tag
            _put_entry(out, slot.kind, key, item, depth)


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _put_scalar(out: bytearray, kind: Kind, value: Any) -> None:
    raw = kind.to_wire(value)
    if kind.wire == _VARINT:
        _put_varint(out, raw)
        return
    if kind.wire == _BYTES:
        _put_varint(out, len(raw))
    out += raw


def _put_message(out: bytearray, cls: type[Any], msg: Any, depth: int) -> None:
    if type(msg) is not cls:
        raise TypeError(f"expected {cls.__name__}, got {type(msg).__name__}")
    body = bytearray()
    _write(body, msg, depth + 1)
    _put_varint(out, len(body))
    out += body


def _put_entry(out: bytearray, kind: Kind | type[Any], key: str, value: Any, depth: int) -> None:
    entry = bytearray(b"\x0a")  # field 1, bytes: the key
    _put_scalar(entry, STRING, key)
    entry += bytes((2 << 3 | (kind.wire if isinstance(kind, Kind) else _BYTES),))
    if isinstance(kind, Kind):
        _put_scalar(entry, kind, value)
    else:
        _put_message(entry, kind, value, depth)
    _put_varint(out, len(entry))
    out += entry


def decode[T](cls: type[T], data: bytes) -> T:
    """The message in `data`, unknown fields skipped. Raises DecodeError, and nothing else, on other bytes."""
    msg = cls()
    _read(msg, _TABLES[cls], bytes(data), 0, len(data), 0)
    return msg


def _read(msg: Any, table: _Table, data: bytes, pos: int, end: int, depth: int) -> None:
    if depth > MAX_NESTING:
        raise DecodeError(f"{table.full_name} is nested deeper than {MAX_NESTING}")
    reads = table.reads
    while pos < end:
        tag = data[pos]
        if tag < 0x80:
            pos += 1
        else:
            tag, pos = _varint(data, pos, end)
        slot = reads.get(tag)
        if slot is None:
            pos = _skip(data, pos, end, tag)
            continue
        raw, start, pos = _value(data, pos, end, tag & 7)
        mode = slot.mode
        try:
            if mode == _SINGLE:
                setattr(msg, slot.name, slot.kind.from_wire(raw if raw is not None else data[start:pos]))
            elif mode == _LIST:
                item = slot.kind.from_wire(raw if raw is not None else data[start:pos])
                getattr(msg, slot.name).append(item)
            elif mode == _PACKED:
                _unpack(getattr(msg, slot.name), slot.kind, data, start, pos)
            else:
                _read_embedded(msg, slot, data, start, pos, depth)
        except UnicodeDecodeError as error:
            raise DecodeError(f"{table.full_name}.{slot.name} is not UTF-8: {error.reason}") from error


def _read_embedded(msg: Any, slot: _Slot, data: bytes, start: int, end: int, depth: int) -> None:
    if slot.mode == _MAP:
        _read_entry(getattr(msg, slot.name), slot.kind, data, start, end, depth)
        return
    part = getattr(msg, slot.name) if slot.mode == _ONE_MESSAGE else None
    if part is None:
        part = slot.kind()
    _read(part, _TABLES[slot.kind], data, start, end, depth + 1)
    if slot.mode == _ONE_MESSAGE:
        setattr(msg, slot.name, part)
    else:
        parts = getattr(msg, slot.name)
        if len(parts) >= MAX_PARTS:
            raise DecodeError(f"{slot.name} holds more than {MAX_PARTS} messages")
        parts.append(part)


def _read_entry(into: dict[str, Any], kind: Any, data: bytes, pos: int, end: int, depth: int) -> None:
    key = ""
    value = kind.default if isinstance(kind, Kind) else kind()
    value_tag = 2 << 3 | (kind.wire if isinstance(kind, Kind) else _BYTES)
    while pos < end:
        tag, pos = _varint(data, pos, end)
        if tag not in (1 << 3 | _BYTES, value_tag):
            pos = _skip(data, pos, end, tag)
            continue
        raw, start, pos = _value(data, pos, end, tag & 7)
        if tag != value_tag:
            key = data[start:pos].decode()
        elif isinstance(kind, Kind):
            value = kind.from_wire(raw if raw is not None else data[start:pos])
        else:
            _read(value, _TABLES[kind], data, start, pos, depth + 1)
    into[key] = value


def _unpack(into: list[Any], kind: Kind, data: bytes, pos: int, end: int) -> None:
    while pos < end:
        raw, start, pos = _value(data, pos, end, kind.wire)
        into.append(kind.from_wire(raw if raw is not None else data[start:pos]))


def _value(data: bytes, pos: int, end: int, wire: int) -> tuple[int | None, int, int]:
    """A varint's value, or None; where the bytes of the value start; where they end."""
    if wire == _VARINT:
        raw, after = _varint(data, pos, end)
        return raw, pos, after
    length = 8 if wire == _FIXED64 else 4
    if wire == _BYTES:
        length, pos = _varint(data, pos, end)
    if length > end - pos:
        raise DecodeError(f"a value of {length} bytes at {pos} ends after its message")
    return None, pos, pos + length


def _varint(data: bytes, pos: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if pos >= end:
            raise DecodeError(f"a varint at {pos} ends after its message")
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK64, pos
        shift += 7
        if shift >= 70:
            raise DecodeError(f"a varint before {pos} is longer than ten bytes")


def _skip(data: bytes, pos: int, end: int, tag: int) -> int:
    """Step over an unknown field, groups included; `pos` is behind the tag."""
    open_groups: list[int] = []
    while True:
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise DecodeError(f"field number {number} before {pos} does not exist")
        if wire == _GROUP:
            open_groups.append(number)
            if len(open_groups) > MAX_NESTING:
                raise DecodeError(f"groups are nested deeper than {MAX_NESTING}")
        elif wire == _GROUP_END:
            if not open_groups or open_groups.pop() != number:
                raise DecodeError(f"group {number} ends before {pos} without having begun")
        elif wire in (_VARINT, _FIXED64, _BYTES, _FIXED32):
            pos = _value(data, pos, end, wire)[2]
        else:
            raise DecodeError(f"wire type {wire} before {pos} does not exist")
        if not open_groups:
            return pos
        tag, pos = _varint(data, pos, end)
