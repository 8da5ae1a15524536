"""Message classes with a field of every kind, and any value of any message class."""

import dataclasses
from typing import Any

from hypothesis import strategies as st

from architect.ttrpc import cgroup1, cgroup2, codec, containerd, rpc, runtime_info, shim_v1
from architect.ttrpc.codec import field, message


@message("test.Part")
@dataclasses.dataclass(slots=True)
class Part:
    name: str = field(1, codec.STRING)
    numbers: list[int] = field(2, codec.INT64, repeated=True)


@message("test.All")
@dataclasses.dataclass(slots=True)
class All:
    string: str = field(1, codec.STRING)
    octets: bytes = field(2, codec.BYTES)
    flag: bool = field(3, codec.BOOL)
    i32: int = field(4, codec.INT32)
    i64: int = field(5, codec.INT64)
    u32: int = field(6, codec.UINT32)
    u64: int = field(7, codec.UINT64)
    enum: int = field(8, codec.ENUM)
    double: float = field(9, codec.DOUBLE)
    s64: int = field(10, codec.SINT64)
    f64: int = field(11, codec.FIXED64)
    part: Part | None = field(12, Part)
    parts: list[Part] = field(13, Part, repeated=True)
    strings: list[str] = field(14, codec.STRING, repeated=True)
    doubles: list[float] = field(15, codec.DOUBLE, repeated=True)
    labels: dict[str, str] = field(16, codec.STRING, mapped=True)
    blobs: dict[str, bytes] = field(17, codec.BYTES, mapped=True)
    counts: dict[str, int] = field(18, codec.UINT64, mapped=True)
    tree: dict[str, Part] = field(19, Part, mapped=True)
    maybe: int | None = field(2047, codec.UINT32, optional=True)


@message("test.Nested")
@dataclasses.dataclass(slots=True)
class Nested:
    inner: Part | None = field(1, Part)


EVERY_MESSAGE: list[type[Any]] = [
    cls
    for module in (containerd, runtime_info, cgroup1, cgroup2, shim_v1, rpc)
    for cls in vars(module).values()
    if dataclasses.is_dataclass(cls) and isinstance(cls, type) and cls.__module__ == module.__name__
]
"""What travels: containerd's messages and our own."""

SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(max_size=20),
    "bytes": st.binary(max_size=20),
    "bool": st.booleans(),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "enum": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "sint64": st.integers(-(2**63), 2**63 - 1),
    "uint32": st.integers(0, 2**32 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "fixed64": st.integers(0, 2**64 - 1),
    "double": st.floats(allow_nan=False),
}


def messages(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Any value of a message class, as its declaration allows."""
    parts: dict[str, st.SearchStrategy[Any]] = {}
    for name, spec in codec.declared(cls).items():
        one = SCALARS[spec.kind.name] if isinstance(spec.kind, codec.Kind) else messages(spec.kind)
        if spec.mapped:
            parts[name] = st.dictionaries(st.text(max_size=8), one, max_size=3)
        elif spec.repeated:
            parts[name] = st.lists(one, max_size=3)
        elif spec.optional or not isinstance(spec.kind, codec.Kind):
            parts[name] = st.none() | one
        else:
            parts[name] = one
    return st.builds(cls, **parts)
