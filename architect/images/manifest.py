"""The manifest of an image: what it is of, what made it, and the digests that prove it whole.

    {"manifest": {..., "files": {"criu/pages-1.img": {"size": N, "sha256": [hex, ...]}}}, "sha256": hex}

The file is exactly what `encode` makes of its content, so that no byte of it can change unnoticed. Files are
hashed in pieces of PIECE bytes: all processors can work at one large file, a damaged region has a number, and
a transfer can be checked and resumed while it runs. A piece is checked by hand with `dd bs=8M skip=N count=1
| sha256sum`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from architect.untrusted import Unreadable, Value, parse

VERSION: Final = 2
PIECE: Final = 8 << 20
MAX_MANIFEST_BYTES: Final = 16 << 20
MAX_FILES: Final = 1 << 16
MAX_FILE_BYTES: Final = 1 << 40
_MAX_TEXT: Final = 4096
_MAX_PORTS: Final = 1 << 16
_MAX_PORT: Final = 16

_SHA256: Final = re.compile("[0-9a-f]{64}")
_FILE: Final = re.compile(r"criu/[A-Za-z0-9_.+-]{1,200}")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the maker of an image knows of it.

    `pod` is "namespace/name"; `versions` names programs ("criu", "runc") and theirs; `conditions` says, by
    name, how a container has to be that is to go on with this memory; `listening` names the ports that were
    listened on ("8080/TCP"); `extra` is the engine's own, any JSON object.
    """

    container_id: str
    pod: str
    generation: int
    engine: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    conditions: Mapping[str, str] = field(default_factory=dict)
    listening: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """A file of an image: its size in bytes and the SHA-256 of each piece of it, in hex."""

    size: int
    sha256: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A complete image: its place (`pod_uid`, `container`), the machine it was made on, its maker's facts,
    its files.
    """

    pod_uid: str
    container: str
    created_ns: int
    kernel: str
    arch: str
    cpu: str
    facts: Facts
    files: Mapping[str, File]

    @property
    def bytes(self) -> int:
        """The sum of the files' sizes."""
        return sum(file.size for file in self.files.values())


def pieces(size: int) -> int:
    """How many pieces a file of `size` bytes has."""
    return -(-size // PIECE)


def encode(manifest: Manifest) -> bytes:
    """The manifest file. Raises ValueError when it would not be read again: too large, `extra` is no JSON."""
    body = {
        "version": VERSION,
        "pod_uid": manifest.pod_uid,
        "container": manifest.container,
        "created_ns": manifest.created_ns,
        "kernel": manifest.kernel,
        "arch": manifest.arch,
        "cpu": manifest.cpu,
        **asdict(manifest.facts),
        "listening": list(manifest.facts.listening),
        "files": {
            name: {"size": file.size, "sha256": list(file.sha256)} for name, file in manifest.files.items()
        },
    }
    try:
        data = _sealed(body)
        if decode(data) != manifest:  # say a tuple or a key that is a number in `extra`
            raise ValueError("it would not be read back as it is")
    except (TypeError, ValueError, Unreadable) as error:
        raise ValueError(f"the manifest cannot be written: {error}") from error
    return data


def decode(data: bytes) -> Manifest:
    """Reads a manifest file. Raises Unreadable, and nothing else, whatever the bytes."""
    outer = parse(data, limit=MAX_MANIFEST_BYTES)
    body = outer.member("manifest")
    if _sealed(body.mapping()) != data:
        raise Unreadable("", "is damaged: its content and its own digest differ")
    version = body.member("version").integer()
    if version != VERSION:
        raise Unreadable("version", f"is {version}; this program reads version {VERSION}")
    return Manifest(
        pod_uid=_text(body, "pod_uid"),
        container=_text(body, "container"),
        created_ns=body.member("created_ns").integer(),
        kernel=_text(body, "kernel"),
        arch=_text(body, "arch"),
        cpu=_text(body, "cpu"),
        facts=Facts(
            container_id=_text(body, "container_id"),
            pod=_text(body, "pod"),
            generation=body.member("generation").integer(),
            engine=_text(body, "engine"),
            extra=body.member("extra").mapping(),
            versions=_texts(body, "versions"),
            conditions=_texts(body, "conditions"),
            listening=tuple(
                port.text(limit=_MAX_PORT) for port in body.member("listening").items(limit=_MAX_PORTS)
            ),
        ),
        files={
            name: _file(name, entry) for name, entry in body.member("files").members(limit=MAX_FILES).items()
        },
    )


def _sealed(body: Mapping[str, object]) -> bytes:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f'{{"manifest":{text},"sha256":"{hashlib.sha256(text.encode()).hexdigest()}"}}\n'.encode()


def _text(body: Value, name: str) -> str:
    return body.member(name).text(limit=_MAX_TEXT)


def _texts(body: Value, name: str) -> dict[str, str]:
    return {key: value.text(limit=_MAX_TEXT) for key, value in body.member(name).members(limit=64).items()}


def _file(name: str, value: Value) -> File:
    if not _FILE.fullmatch(name):
        value.refuse("is no file that an image can have")
    size = value.member("size").integer(high=MAX_FILE_BYTES)
    digests = value.member("sha256").items(limit=pieces(size))
    if len(digests) != pieces(size):
        value.refuse(f"has {len(digests)} digests; {size} bytes have {pieces(size)} pieces")
    found = tuple(digest.text(limit=64) for digest in digests)
    if not all(_SHA256.fullmatch(digest) for digest in found):
        value.refuse("has a digest that is no SHA-256")
    return File(size, found)
