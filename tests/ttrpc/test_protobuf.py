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
from tests.ttrpc.samples import All, Part, messages

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
        into.type, into.type_name = F.TYPE_MESSAGE, "." + codec.full_name(spec.kind)


def _google(*classes: type[Any]) -> list[Any]:
    file = descriptor_pb2.FileDescriptorProto(name="test.proto", package="test", syntax="proto3")
    for cls in classes:
        described = file.message_type.add(name=codec.full_name(cls).rpartition(".")[2])
        for name, spec in codec.declared(cls).items():
            one = described.field.add(name=name, number=spec.number, label=F.LABEL_OPTIONAL)
            if spec.mapped:
                entry = described.nested_type.add(name=f"{name.title()}Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=F.LABEL_OPTIONAL, type=F.TYPE_STRING)
                _describe(entry.field.add(name="value", number=2, label=F.LABEL_OPTIONAL), spec)
                one.type, one.label = F.TYPE_MESSAGE, F.LABEL_REPEATED
                one.type_name = f".{codec.full_name(cls)}.{entry.name}"
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
        message_factory.GetMessageClass(pool.FindMessageTypeByName(codec.full_name(cls))) for cls in classes
    ]


def _spelled(message: All) -> str:
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


@given(messages(All), st.binary(max_size=40), st.data())
def test_we_refuse_what_google_refuses_and_else_understand_the_same(
    message: All, noise: bytes, draw: st.DataObject
) -> None:
    wire = bytearray(encode(message) + noise)
    for _ in range(draw.draw(st.integers(0, 2))):
        if wire:
            wire[draw.draw(st.integers(0, len(wire) - 1))] = draw.draw(st.integers(0, 255))
    try:
        theirs = THEIR_ALL.FromString(bytes(wire))
    except GoogleDecodeError:
        with pytest.raises(DecodeError):
            decode(All, bytes(wire))
        return
    theirs.DiscardUnknownFields()
    assert _spelled(decode(All, theirs.SerializeToString())) == _spelled(decode(All, bytes(wire)))
