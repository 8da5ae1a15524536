"""The records of a pack, a tree of files as one stream, depth first:

    MAGIC, ROOT, then (DIR ... UP | FILE DATA* | SYMLINK | FIFO | WHITEOUT | LINK)*, END

    record: kind u8, zero u8, length of the name u16, length of the body u32, name, body (big endian)

A name is one component, of the directory that was entered last; there are no paths, so none can lead
elsewhere. DATA goes on at or after where the one before ended: what is between is a hole. A file or the like
with several names is SHARED when it comes first, and then counted: LINK gives it one more name by that
number.

Reading is total: whatever the bytes, a record or Corrupt, and no more memory than a record may have.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

from architect.images.manifest import MAX_FILE_BYTES
from daemon.transfer.errors import Corrupt

MAGIC: Final = b"ARCHITECT-PACK-1\n"
MAX_NAME: Final = 255
MAX_DEPTH: Final = 256
DATA_BYTES: Final = 256 << 10
MAX_BODY: Final = 1 << 20
MAX_TARGET: Final = 4096
NOBODY: Final = (1 << 32) - 1
"""What chown(2) takes for "leave it"."""

_RECORD: Final = struct.Struct(">BxHI")
_ATTRIBUTES: Final = struct.Struct(">IIIqqQB")  # mode, uid, gid, modified, accessed (ns), size, shared
_XATTR: Final = struct.Struct(">BI")  # lengths of name and value
_OFFSET: Final = struct.Struct(">Q")
_TOTALS: Final = struct.Struct(">QQ")

_OF_OVERLAYS: Final = frozenset(
    f"trusted.overlay.{name}" for name in ("opaque", "redirect", "metacopy", "whiteout", "protattr")
)
_OF_ALL: Final = ("security.capability", "system.posix_acl_access", "system.posix_acl_default")
_SILENT: Final = ("trusted.overlay.", "security.selinux", "security.ima", "security.evm")


class Kind(IntEnum):
    """See above."""

    ROOT = 1
    DIR = 2
    UP = 3
    FILE = 4
    SYMLINK = 5
    FIFO = 6
    WHITEOUT = 7
    LINK = 8
    DATA = 9
    END = 10


_NAMED: Final = frozenset({Kind.DIR, Kind.FILE, Kind.SYMLINK, Kind.FIFO, Kind.WHITEOUT, Kind.LINK})


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a file has beside its content. Times in ns since 1970; `size` of FILE alone; xattrs by name."""

    mode: int
    uid: int
    gid: int
    modified: int
    accessed: int
    size: int = 0
    shared: bool = False
    xattrs: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it is on the wire."""

    kind: Kind
    name: bytes
    body: bytes


class Input(Protocol):
    """Where a pack is read from: an open binary file."""

    def read(self, count: int, /) -> bytes: ...


class Output(Protocol):
    """Where a pack is written to; takes all of it or raises."""

    def write(self, data: bytes, /) -> object: ...


def travels(xattr: str, *, layer: bool) -> bool:
    """Whether an extended attribute goes along."""
    return xattr.startswith("user.") or xattr in _OF_ALL or (layer and xattr in _OF_OVERLAYS)


def worth_a_note(xattr: str) -> bool:
    """Whether somebody may miss an attribute that does not travel."""
    return not xattr.startswith(_SILENT)


def write(output: Output, kind: Kind, name: bytes = b"", body: bytes = b"") -> None:
    """Writes a record."""
    output.write(_RECORD.pack(kind, len(name), len(body)) + name + body)


def read(source: Input) -> Record:
    """The next record, its name and lengths checked. Raises Corrupt, OSError."""
    kind, length, size = _RECORD.unpack(exactly(source, _RECORD.size))
    try:
        found = Kind(kind)
    except ValueError:
        raise Corrupt(f"the pack has a record of unknown kind {kind}") from None
    if length > MAX_NAME or size > MAX_BODY:
        raise Corrupt(f"the pack has a {found.name} record of {length} + {size} bytes")
    name = exactly(source, length)
    plain = name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name
    if plain != (found in _NAMED):
        raise Corrupt(f"the pack has a {found.name} record with the name {name[:60]!a}")
    return Record(found, name, exactly(source, size))


def exactly(source: Input, count: int) -> bytes:
    """So many bytes. Raises Corrupt when there are fewer."""
    data = source.read(count)
    if len(data) != count:
        raise Corrupt("the pack ends before its end")
    return data


def attributes(found: Attributes, rest: bytes = b"") -> bytes:
    """The body of an entry; `rest` follows the attributes. Raises ValueError when there is too much of it."""
    body = bytearray(
        _ATTRIBUTES.pack(
            found.mode, found.uid, found.gid, found.modified, found.accessed, found.size, found.shared
        )
    )
    body.append(len(found.xattrs))
    for name, value in found.xattrs:
        body += _XATTR.pack(len(name), len(value)) + name.encode() + value
    body += rest
    if len(body) > MAX_BODY or len(found.xattrs) > 255:
        raise ValueError("has too many extended attributes")
    return bytes(body)


def read_attributes(record: Record, *, layer: bool) -> tuple[Attributes, bytes]:
    """Of an entry's body: the attributes and what follows them. Raises Corrupt."""
    try:
        mode, uid, gid, modified, accessed, size, shared = _ATTRIBUTES.unpack_from(record.body)
        at = _ATTRIBUTES.size + 1
        xattrs: list[tuple[str, bytes]] = []
        for _ in range(record.body[at - 1]):
            lengths = _XATTR.unpack_from(record.body, at)
            at += _XATTR.size
            name = record.body[at : at + lengths[0]].decode("ascii")
            value = record.body[at + lengths[0] : at + sum(lengths)]
            at += sum(lengths)
            if at > len(record.body) or not travels(name, layer=layer):
                raise Corrupt(f"the pack has the extended attribute {name[:60]!a}")
            xattrs.append((name, value))
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise Corrupt(f"the pack has a {record.kind.name} record that can not be read") from error
    if mode > 0o7777 or NOBODY in (uid, gid) or size > MAX_FILE_BYTES or shared > 1:
        raise Corrupt(f"the pack has a {record.kind.name} record with impossible attributes")
    found = Attributes(mode, uid, gid, modified, accessed, size, bool(shared), tuple(xattrs))
    return found, record.body[at:]


def data(offset: int, content: bytes) -> bytes:
    """The body of DATA."""
    return _OFFSET.pack(offset) + content


def read_data(record: Record) -> tuple[int, memoryview]:
    """Offset and content of DATA. Raises Corrupt."""
    return read_number(record), memoryview(record.body)[_OFFSET.size :]


def number(value: int) -> bytes:
    """The body of LINK."""
    return _OFFSET.pack(value)


def read_number(record: Record) -> int:
    """The number that a body begins with. Raises Corrupt."""
    if len(record.body) < _OFFSET.size:
        raise Corrupt(f"the pack has a {record.kind.name} record that is too short")
    found: int = _OFFSET.unpack_from(record.body)[0]
    return found


def totals(entries: int, size: int) -> bytes:
    """The body of END."""
    return _TOTALS.pack(entries, size)
