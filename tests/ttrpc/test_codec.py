"""The bytes are protobuf's: examples by hand, any message there and back, nonsense refused."""

import dataclasses
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.ttrpc import codec, containerd, rpc, shim_v1
from architect.ttrpc.codec import DecodeError, EncodeError, decode, encode, field, message
from tests.ttrpc.samples import EVERY_MESSAGE, All, Nested, Part, messages


@given(messages(All))
def test_any_message_comes_back_as_it_went(original: All) -> None:
    assert decode(All, encode(original)) == original


@pytest.mark.parametrize("cls", EVERY_MESSAGE, ids=codec.full_name)
def test_every_declared_message_carries_a_value_in_every_field(cls: type[Any]) -> None:
    full = _full(cls)
    assert decode(cls, encode(full)) == full
    for name in codec.declared(cls):
        if getattr(full, name) not in (0, "", b"", False):
            alone = cls(**{name: getattr(full, name)})
            assert decode(cls, encode(alone)) == alone


def _full(cls: type[Any]) -> Any:
    values = {}
    for name, spec in codec.declared(cls).items():
        if isinstance(spec.kind, codec.Kind):
            value = {"string": f"{name}!", "bytes": name.encode(), "bool": True, "double": 1.5}.get(
                spec.kind.name, spec.number
            )
        else:
            value = _full(spec.kind)
        values[name] = {"key": value} if spec.mapped else [value, value] if spec.repeated else value
    return cls(**values)


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (All(), ""),
        (All(string="testing"), "0a 07 74657374696e67"),
        (All(octets=b"\x00\xff"), "12 02 00ff"),
        (All(flag=True), "18 01"),
        (All(i32=150), "20 9601"),
        (All(i32=-1), "20 ffffffffffffffffff01"),
        (All(i64=-2), "28 feffffffffffffffff01"),
        (All(u32=2**32 - 1), "30 ffffffff0f"),
        (All(u64=2**64 - 1), "38 ffffffffffffffffff01"),
        (All(double=1.0), "49 000000000000f03f"),
        (All(s64=-1), "50 01"),
        (All(s64=1), "50 02"),
        (All(f64=1), "59 0100000000000000"),
        (All(part=Part()), "62 00"),
        (All(part=Part(numbers=[3, 270, 86942])), "62 08 1206 03 8e02 9ea705"),
        (All(parts=[Part("a"), Part("b")]), "6a 03 0a0161 6a 03 0a0162"),
        (All(strings=["", "x"]), "72 00 72 01 78"),
        (All(labels={"k": "v"}), "8201 06 0a016b 120176"),
        (All(counts={"k": 1}), "9201 05 0a016b 1001"),
        (All(maybe=0), "f87f 00"),
    ],
    ids=repr,
)
def test_the_bytes_are_those_worked_out_by_hand(value: All, wire: str) -> None:
    data = bytes.fromhex(wire)
    assert encode(value) == data
    assert decode(All, data) == value


@pytest.mark.parametrize(
    ("wire", "value"),
    [
        ("12 02 0102", Part(numbers=[1, 2])),
        ("10 01 10 02", Part(numbers=[1, 2])),
        ("10 01 12 02 0203 10 04", Part(numbers=[1, 2, 3, 4])),
        ("0a 01 61 0a 01 62", Part("b")),
        ("8a00 01 61", Part("a")),
        ("18 05 0a 01 61 25 00000000 29 0000000000000000 32 01 00", Part("a")),
        ("1b 23 08 01 24 1c 0a 01 61", Part("a")),
        ("08 05 0a 01 61", Part("a")),
    ],
    ids=[
        "packed",
        "unpacked",
        "mixed",
        "last wins",
        "long tag",
        "unknown fields",
        "groups",
        "other wire type",
    ],
)
def test_what_other_encoders_may_send_is_understood(wire: str, value: Part) -> None:
    assert decode(Part, bytes.fromhex(wire)) == value


def test_an_embedded_message_sent_in_pieces_is_merged() -> None:
    assert decode(Nested, bytes.fromhex("0a 03 0a0161 0a 02 1005")) == Nested(Part("a", [5]))


def test_a_map_entry_without_key_or_value_has_their_zeros() -> None:
    assert decode(All, bytes.fromhex("8201 00 9a01 00")) == All(labels={"": ""}, tree={"": Part()})


def test_an_absent_optional_field_is_none_and_a_zero_is_zero() -> None:
    assert decode(All, b"").maybe is None
    assert decode(All, encode(All(maybe=0))).maybe == 0


@pytest.mark.parametrize(
    "wire",
    [
        "0a", "0a 05 61", "0a ff", "10", "10 ff", "10 ffffffffffffffffffff01", "00 00", "0f 00", "1b", "1c",
        "1b 24", "25 000000", "29 00", "0a 01 ff", "12 02 01ff", "0a ffffffffffffffff7f", "f8ffffffff7f 00",
        "1b" * 100, "0b" * 100 + "0c" * 100,
    ],
)  # fmt: skip
def test_damaged_bytes_are_refused(wire: str) -> None:
    with pytest.raises(DecodeError):
        decode(Part, bytes.fromhex(wire))


@pytest.mark.parametrize("cls", [All, containerd.CreateTaskRequest, shim_v1.DescribeResponse, rpc.Request])
def test_random_bytes_are_decoded_or_refused_but_never_break(cls: type[Any]) -> None:
    @given(st.binary(max_size=200))
    def check(data: bytes) -> None:
        try:
            decoded = decode(cls, data)
        except DecodeError:
            return
        assert repr(decode(cls, encode(decoded))) == repr(decoded)

    check()


@given(messages(All), st.data())
def test_a_message_with_flipped_bits_is_decoded_or_refused(original: All, data: st.DataObject) -> None:
    wire = bytearray(encode(original))
    for _ in range(min(len(wire), 3)):
        wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decode(All, bytes(wire))
    except DecodeError:
        return


def test_nesting_beyond_reason_is_refused_on_both_ways() -> None:
    @message("test.Deep")
    @dataclasses.dataclass(slots=True)
    class Deep:
        name: str = field(1, codec.STRING)

    deep: Any = Deep("x")
    wire = encode(deep)
    for level in range(codec.MAX_NESTING + 1):
        cls = dataclasses.make_dataclass(f"Deep{level}", [("inner", Any, field(1, type(deep)))], slots=True)
        register: Any = message(f"test.Deep{level}")
        deep = register(cls)(deep)
        wire = b"\x0a" + _varint(len(wire)) + wire
    with pytest.raises(EncodeError, match="nested"):
        encode(deep)
    with pytest.raises(DecodeError, match="nested"):
        decode(type(deep), wire)


def test_more_parts_than_anybody_sends_are_refused_before_they_fill_the_memory() -> None:
    assert len(decode(All, b"\x6a\x00" * codec.MAX_PARTS).parts) == codec.MAX_PARTS
    with pytest.raises(DecodeError, match="parts"):
        decode(All, b"\x6a\x00" * (codec.MAX_PARTS + 1))


def _varint(value: int) -> bytes:
    out = bytearray()
    codec._put_varint(out, value)
    return bytes(out)


@pytest.mark.parametrize(
    "values",
    [
        {"i32": 2**31}, {"i64": 2**63}, {"u32": -1}, {"u64": 2**64}, {"f64": 2**64}, {"f64": -1},
        {"s64": 2**63}, {"string": b"x"}, {"string": "\udcff"}, {"string": None}, {"octets": "x"},
        {"octets": 7}, {"u32": "x"}, {"u32": 1.5}, {"double": "x"},
        {"part": Nested()}, {"parts": [None]}, {"strings": [1]},
        {"labels": {1: "x"}}, {"labels": {"x": 1}},
    ],
    ids=repr,
)  # fmt: skip
def test_a_value_that_its_field_cannot_carry_is_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(EncodeError, match=r"test\.All\.\w+"):
        encode(All(**values))


def test_a_field_number_declared_twice_is_refused() -> None:
    with pytest.raises(TypeError, match="twice"):

        @message("test.Twice")
        @dataclasses.dataclass(slots=True)
        class Twice:
            a: int = field(1, codec.INT32)
            b: int = field(1, codec.INT32)


def test_doubles_keep_their_bits() -> None:
    for bits in (b"\x00\x00\x00\x00\x00\x00\xf8\x7f", b"\x01\x00\x00\x00\x00\x00\x00\x00"):
        decoded = decode(All, b"\x49" + bits)
        assert struct.pack("<d", decoded.double) == bits
