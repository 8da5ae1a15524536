"""What two containers must have in common for one to go on with the memory of the other. Pure functions.

Told by name, so that a refusal says which of them differs. What memory does not depend on is left out: the
environment, limits, addresses, the sources of mounts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from architect.engine.plan import namespace_paths

IMAGE_NAME: Final = "io.kubernetes.cri.image-name"
_SHORT: Final = 16


def conditions(spec: Mapping[str, Any]) -> dict[str, str]:
    """How a container with the OCI spec `spec` is, by what people call it."""
    process, root = spec.get("process", {}), spec.get("root", {})
    mounts = sorted((mount["destination"], mount.get("type", "")) for mount in spec.get("mounts", []))
    own = sorted(kind for kind, path in namespace_paths(spec).items() if not path)
    privileges = {key: process.get(key) for key in ("capabilities", "noNewPrivileges", "apparmorProfile")}
    return {
        "image": spec.get("annotations", {}).get(IMAGE_NAME, ""),
        "command": _digest([process.get("args"), process.get("cwd")]),
        "user": _digest(process.get("user")),
        "privileges": _digest(privileges),
        "mounts": _digest(mounts),
        "namespaces": ",".join(own),
        "root file system": "read-only" if root.get("readonly") else "writable",
    }


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The first condition that is not met, as a sentence; "" when all are."""
    for name in [*now, *(name for name in before if name not in now)]:
        wanted, found = before.get(name, ""), now.get(name, "")
        if found == wanted or (name == "image" and _in_full(found) == _in_full(wanted)):
            continue
        plain = not _is_digest(wanted) and not _is_digest(found)
        detail = f" ({wanted or 'none'} then, {found or 'none'} now)" if plain else ""
        return f"its {name} {'are others' if name.endswith('s') else 'is another'}{detail}"
    return ""


def _in_full(image: str) -> str:
    """An image's name with its registry: containerd 1.7 passes it on so, containerd 2 as the pod has it."""
    if not image or _is_digest(image):
        return image
    first, slash, _ = image.partition("/")
    if not slash:
        return f"docker.io/library/{image}"
    has_registry = "." in first or ":" in first or first == "localhost"
    return image if has_registry else f"docker.io/{image}"


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_SHORT]


def _is_digest(value: str) -> bool:
    return value.startswith("sha256:")
