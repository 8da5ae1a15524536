"""A container's OCI spec (`config.json`): read once, every part that anything here asks for of its type.

containerd writes it, but annotations, mounts and paths in it come from people, and a client of containerd may
write what it likes. What nothing here reads is runc's business and passes unlooked at. The trap: Go writes
an empty slice as null, so null counts as absent.
"""

from __future__ import annotations

import json
from typing import Any, Final

from architect.engine.errors import Refused
from architect.untrusted import Unreadable, Value

MAX_BYTES: Final = 16 << 20
"""Of a config.json: far above what a pod's environment and mounts can fill, as etcd limits the pod."""
_MAX_ENTRIES: Final = 1 << 16

# An object's members by name ("!": must be there), a list's one kind of entry, or a type.
_SHAPE: Final[dict[str, Any]] = {
    "process": {"terminal": bool},
    "root": {"path": str, "readonly": bool},
    "annotations": {},
    "mounts": [{"destination!": str, "type": str, "source": str, "options": [str]}],
    "linux": {
        "namespaces": [{"type!": str, "path": str}],
        "maskedPaths": [str],
        "resources": {"devices": [{"allow": bool, "type": str, "access": str}]},
    },
}


def read_spec(text: str | bytes) -> dict[str, Any]:
    """An OCI `config.json`, without what is null. Raises Refused, naming the place, for what is none."""
    try:
        # Not `untrusted.parse`: its care costs 8 ms of every pod's start, and runc reads the file after us.
        spec: dict[str, Any] = _fit(Value(json.loads(text)), _SHAPE)
    except (Unreadable, ValueError, RecursionError) as error:
        raise Refused(f"its config.json does not read: {error}") from error
    return spec


def _fit(value: Value, shape: Any) -> Any:
    """The value with what is null left out. Raises Unreadable where it has not the shape."""
    if isinstance(shape, dict):
        return _fit_members(value, shape)
    if isinstance(shape, list):
        return [_fit(entry, shape[0]) for entry in value.items(limit=_MAX_ENTRIES)]
    if shape is bool:
        return value.boolean()
    found = value.text(limit=MAX_BYTES)
    if "\0" in found:
        value.refuse("holds a NUL")
    found.encode()  # half a surrogate pair: an error here, and not only at the first system call
    return found


def _fit_members(value: Value, shape: dict[str, Any]) -> dict[str, Any]:
    found = {name: entry for name, entry in value.mapping().items() if entry is not None}
    for name, inner in shape.items():
        plain = name.removesuffix("!")
        if plain in found or plain != name:
            found[plain] = _fit(value.member(plain), inner)
    return found
