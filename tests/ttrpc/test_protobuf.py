"""Google's protobuf library, given the same declarations, writes and reads the same messages."""

import dataclasses
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError as GoogleDecodeError
from hypothesis import given
from hypothesis import strategies as st

from architect.ttrpc import codec
from architect.ttrpc.codec import DecodeError, decode, encode
from tests.ttrpc.samples import EVERY_MESSAGE, All, Part, messages

F = descriptor_pb2.FieldDescriptorProto
TYPES = {
    "string": F.TYPE_STRING, "bytes": F.TYPE_BYTES, "bool": F.TYPE_BOOL, "int32": F.TYPE_INT32,
    "int64": F.TYPE_INT64, "uint32": F.TYPE_UINT32, "uint64": F.TYPE_UINT64, "enum": F.TYPE_INT32,
    "sint64": F.TYPE_SINT64, "double": F.TYPE_DOUBLE, "fixed64": F.TYPE_FIXED64,
}  # fmt: skip


def _describe(into: Any, spec: codec.FieldSpec) -> None:
    if isinstance(spec.kind, codec.Kind):
        into.type = TYPES[spec.kind.name]
    else:
        into.type, into.type_name = F.TYPE_MESSAGE, ".test." + _name(spec.kind)


def _name(cls: type[Any]) -> str:
    """One name per message, as two packages may use the same."""
    return codec.full_name(cls).replace(".", "_")


def _google(*classes: type[Any]) -> list[Any]:
    file = descriptor_pb2.FileDescriptorProto(name="test.proto", package="test", syntax="proto3")
    for cls in classes:
        described = file.message_type.add(name=_name(cls))
        for name, spec in codec.declared(cls).items():
            one = described.field.add(name=name, number=spec.number, label=F.LABEL_OPTIONAL)
            if spec.mapped:
                entry = described.nested_type.add(name=f"{name.title()}Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=F.LABEL_OPTIONAL, type=F.TYPE_STRING)
                _describe(entry.field.add(name="value", number=2, label=F.LABEL_OPTIONAL), spec)
                one.type, one.label = F.TYPE_MESSAGE, F.LABEL_REPEATED
                one.type_name = f".test.{_name(cls)}.{entry.name}"
                continue
            _describe(one, spec)
            if spec.repeated:
                one.label = F.LABEL_REPEATED
            if spec.optional:
                one.proto3_optional, one.oneof_index = True, len(described.oneof_decl)
                described.oneof_decl.add(name=f"_{name}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"test.{_name(cls)}")) for cls in classes
    ]


def _spelled(message: Any) -> str:
    """Equal for equal messages, NaN included.

    Without the maps: an entry with an unknown field in it is dropped whole by upb, and kept by Go and by us.
    """
    parts = dataclasses.asdict(message)
    return repr({name: part for name, part in parts.items() if not isinstance(part, dict)})


THEIR_PART, THEIR_ALL = _google(Part, All)


@given(messages(All))
def test_google_reads_what_we_write_and_we_read_what_google_writes(ours: All) -> None:
    theirs = THEIR_ALL.FromString(encode(ours))
    assert decode(All, theirs.SerializeToString()) == ours
    assert decode(All, theirs.SerializeToString(deterministic=True)) == ours


THEIRS = dict(zip(EVERY_MESSAGE, _google(*EVERY_MESSAGE), strict=True))


@given(st.sampled_from(EVERY_MESSAGE).flatmap(messages))
def test_google_reads_every_message_that_travels_as_we_mean_it(ours: Any) -> None:
    theirs = THEIRS[type(ours)].FromString(encode(ours))
    assert decode(type(ours), theirs.SerializeToString()) == ours


@given(st.sampled_from(EVERY_MESSAGE).flatmap(messages), st.binary(max_size=20), st.data())
def test_of_a_damaged_message_google_and_we_understand_the_same_or_nothing(
    message: Any, noise: bytes, draw: st.DataObject
) -> None:
    understood_alike(type(message), THEIRS[type(message)], encode(message) + noise, draw)


@given(messages(All), st.binary(max_size=40), st.data())
def test_we_refuse_what_google_refuses_and_else_understand_the_same(
    message: All, noise: bytes, draw: st.DataObject
) -> None:
    understood_alike(All, THEIR_ALL, encode(message) + noise, draw)


def understood_alike(cls: type[Any], google: Any, sent: bytes, draw: st.DataObject) -> None:
    """Asserts it, after up to two bytes of what was sent have changed."""
    wire = bytearray(sent)
    for _ in range(draw.draw(st.integers(0, 2))):
        if wire:
            wire[draw.draw(st.integers(0, len(wire) - 1))] = draw.draw(st.integers(0, 255))
    try:
        theirs = google.FromString(bytes(wire))
    except GoogleDecodeError:
        with pytest.raises(DecodeError):
            decode(cls, bytes(wire))
        return
    theirs.DiscardUnknownFields()
    assert _spelled(decode(cls, theirs.SerializeToString())) == _spelled(decode(cls, bytes(wire)))
