"""A container's state on the disk of the node that it left: what `part.json` says of its parcel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Self

from architect.images.manifest import File
from architect.untrusted import Unreadable, Value, parse
from daemon.transfer import contents

VERSION: Final = 1
MAX_BYTES: Final = contents.MAX_CONTENTS_BYTES + (1 << 20)
_MAX_TEXT: Final = 4096
_MAX_NAMES: Final = 256


@dataclass(frozen=True, slots=True)
class Departure:
    """A pod that leaves, as the control plane and the pod object told. Times are Unix seconds."""

    namespace: str
    migration: str
    pod: str
    pod_uid: str
    until: int
    """Its containers are to be saved by then."""
    keep_seconds: int
    volumes: Mapping[str, tuple[str, ...]]
    """Of each container that was announced, the emptyDir volumes that travel with it."""
    images: Mapping[str, str] = field(default_factory=dict)
    """The digests of their images, as far as they are known."""

    def encode(self) -> bytes:
        """The file's content."""
        return _text(asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Reads what `encode` wrote. Raises Unreadable."""
        body = _body(data, 1 << 20)
        volumes = body.member("volumes").members(limit=_MAX_NAMES)
        digests = body.member("images").members(limit=_MAX_NAMES)
        return cls(
            **_texts(body, "namespace", "migration", "pod", "pod_uid"),
            until=body.member("until").integer(),
            keep_seconds=body.member("keep_seconds").integer(),
            volumes={name: _names(each) for name, each in volumes.items()},
            images={name: each.text(limit=_MAX_TEXT) for name, each in digests.items()},
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A container of it that was saved: its parcel is whole."""

    namespace: str
    migration: str
    pod: str
    pod_uid: str
    container: str
    generation: int
    asleep: bool
    freeze_us: int
    saved: int
    """Unix seconds."""
    digest: str
    files: Mapping[str, File]
    kept_until: int = 0
    """Unix seconds; 0: it is leaving."""
    reason: str = ""
    """Why it is kept."""
    notes: tuple[str, ...] = field(default=())
    """What of its files did not travel."""

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(file.size for file in self.files.values())

    @property
    def reference(self) -> str:
        """namespace/pod/container: what people call it."""
        return f"{self.namespace}/{self.pod}/{self.container}"

    def until(self, moment: int, reason: str) -> Part:
        """The same, kept until then."""
        return replace(self, kept_until=moment, reason=reason[:_MAX_TEXT])

    def encode(self) -> bytes:
        """The file's content."""
        body = {name: getattr(self, name) for name in self.__slots__ if name != "files"}
        return _text(body | {"files": contents.encode(self.files).decode()})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Reads what `encode` wrote. Raises Unreadable."""
        body = _body(data, 2 * MAX_BYTES)
        integers = ("generation", "freeze_us", "saved", "kept_until")
        numbers: dict[str, Any] = {name: body.member(name).integer() for name in integers}
        return cls(
            **_texts(body, "namespace", "migration", "pod", "pod_uid", "container", "digest", "reason"),
            **numbers,
            asleep=body.member("asleep").boolean(),
            notes=_names(body.member("notes")),
            files=contents.decode(body.member("files").text(limit=MAX_BYTES).encode()),
        )


def _text(body: Mapping[str, Any]) -> bytes:
    return json.dumps({"version": VERSION, **body}).encode()


def _body(data: bytes, limit: int) -> Value:
    body = parse(data, limit=limit)
    version = body.member("version").integer()
    if version != VERSION:
        raise Unreadable("version", f"is {version}; this program reads version {VERSION}")
    return body


def _texts(body: Value, *names: str) -> dict[str, Any]:
    return {name: body.member(name).text(limit=_MAX_TEXT) for name in names}


def _names(value: Value) -> tuple[str, ...]:
    return tuple(each.text(limit=_MAX_TEXT) for each in value.items(limit=_MAX_NAMES))
