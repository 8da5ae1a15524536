"""The difference of two JSON values as a JSON Patch (RFC 6902): what was not changed is not named in it."""

from __future__ import annotations

from typing import Any

Operation = dict[str, Any]


def difference(old: Any, new: Any, path: str = "") -> list[Operation]:
    """The operations that make `new` of `old`, in their order; empty when they are the same."""
    if isinstance(old, dict) and isinstance(new, dict):
        return _of_objects(old, new, path)
    if isinstance(old, list) and isinstance(new, list) and len(new) >= len(old):
        found = [
            each
            for index, value in enumerate(old)
            for each in difference(value, new[index], f"{path}/{index}")
        ]
        return found + [{"op": "add", "path": f"{path}/-", "value": value} for value in new[len(old) :]]
    if type(old) is type(new) and old == new:
        return []
    return [{"op": "replace", "path": path, "value": new}]


def _of_objects(old: dict[str, Any], new: dict[str, Any], path: str) -> list[Operation]:
    found: list[Operation] = [{"op": "remove", "path": _below(path, name)} for name in old if name not in new]
    for name, value in new.items():
        if name in old:
            found += difference(old[name], value, _below(path, name))
        else:
            found.append({"op": "add", "path": _below(path, name), "value": value})
    return found


def _below(path: str, name: str) -> str:
    return f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
