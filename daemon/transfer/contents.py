"""What a parcel is made of: names, sizes, and the digests that prove each piece of each file.

    {"app/criu/pages-1.img": {"size": N, "sha256": [hex, ...]}, "app/layer.pack": ...}

The pieces are those of checkpoint images (`architect.images.manifest`), so that an image's own manifest says
it all and nothing is hashed twice. A parcel's digest is that of this text, which is written in one way only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final

from architect.images.manifest import MAX_FILE_BYTES, MAX_FILES, PIECE, File, pieces
from architect.untrusted import Unreadable, Value, parse, shown

MAX_CONTENTS_BYTES: Final = 16 << 20
MAX_NAME: Final = 512

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}(/[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}){0,5}")
_SHA256: Final = re.compile("[0-9a-f]{64}")

Contents = Mapping[str, File]


def checked_name(name: str) -> str:
    """A file's name within a parcel, safe as a relative path: no part is empty or begins with a dot. Raises
    ValueError.
    """
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise ValueError(f"{shown(name)} can not name a file of a parcel")
    return name


def encode(contents: Contents) -> bytes:
    """The text of `contents`."""
    plain = {name: {"size": file.size, "sha256": list(file.sha256)} for name, file in contents.items()}
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()


def decode(data: bytes) -> dict[str, File]:
    """Reads what `encode` wrote. Raises Unreadable, and nothing else, whatever the bytes."""
    members = parse(data, limit=MAX_CONTENTS_BYTES).members(limit=MAX_FILES)
    return {name: _file(name, entry) for name, entry in members.items()}


def digest(contents: Contents) -> str:
    """The parcel's digest, SHA-256 in hex."""
    return hashlib.sha256(encode(contents)).hexdigest()


def _file(name: str, value: Value) -> File:
    try:
        checked_name(name)
    except ValueError as error:
        raise Unreadable("", str(error)) from None
    size = value.member("size").integer(high=MAX_FILE_BYTES)
    found = tuple(each.text(limit=64) for each in value.member("sha256").items(limit=pieces(size)))
    if len(found) != pieces(size) or not all(_SHA256.fullmatch(each) for each in found):
        value.refuse(f"has {len(found)} digests; {size} bytes have {pieces(size)}, of SHA-256")
    return File(size, found)


class Hashing:
    """Digests of a file's pieces, taken as it is written."""

    def __init__(self) -> None:
        self._size = 0
        self._done: list[str] = []
        self._open = hashlib.sha256(usedforsecurity=False)

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes of the file."""
        left = memoryview(data)
        while left:
            part = left[: PIECE - self._size % PIECE]
            self._open.update(part)
            self._size += len(part)
            left = left[len(part) :]
            if self._size % PIECE == 0:
                self._done.append(self._open.hexdigest())
                self._open = hashlib.sha256(usedforsecurity=False)

    def file(self) -> File:
        """The file as it is so far."""
        rest = (self._open.hexdigest(),) if self._size % PIECE else ()
        return File(self._size, (*self._done, *rest))
