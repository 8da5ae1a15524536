"""Pods as the API server sends them, and JSON Patch as it applies it."""

from __future__ import annotations

import copy
import json
from typing import Any

from architect.settings import PREFIX

LABEL = f"{PREFIX}hibernate"
Pod = dict[str, Any]


def container(name: str = "app", port: int | None = 8080, **more: Any) -> dict[str, Any]:
    ports = [{"containerPort": port, "protocol": "TCP"}] if port else []
    limits = {"cpu": "1", "memory": "1Gi"}
    return {"name": name, "image": "local/web:1", "ports": ports, "resources": {"limits": limits}} | more


def pod(
    *containers: dict[str, Any],
    label: str | None = "true",
    annotations: dict[str, Any] | None = None,
    owner: str = "",
    **spec: Any,
) -> Pod:
    metadata: dict[str, Any] = {"name": "web", "namespace": "default", "labels": {"app": "web"}}
    if label is not None:
        metadata["labels"][LABEL] = label
    if annotations:
        metadata["annotations"] = {
            f"{PREFIX}{key}": value if isinstance(value, str) else json.dumps(value)
            for key, value in annotations.items()
        }
    if owner:
        metadata["ownerReferences"] = [{"kind": owner, "name": "owner", "controller": True}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": list(containers) or [container()], **spec},
    }


def annotation(of: Pod, key: str) -> Any:
    return json.loads(of["metadata"]["annotations"][f"{PREFIX}{key}"])


def patched(document: Any, patch: Any) -> Any:
    """RFC 6902, as far as the webhook uses it; a path that does not exist is an error."""
    root = {"": copy.deepcopy(document)}
    for operation in patch:
        holder: Any = root
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")]
        for part in way:
            holder = holder[int(part)] if isinstance(holder, list) else holder[part]
        if isinstance(holder, list):
            if last == "-":
                assert operation["op"] == "add"
                holder.append(operation["value"])
                continue
            index = int(last)
            assert operation["op"] == "replace"
            assert 0 <= index < len(holder)
            holder[index] = operation["value"]
        elif operation["op"] == "remove":
            del holder[last]
        else:
            assert (last in holder) == (operation["op"] == "replace")
            holder[last] = operation["value"]
    return root[""]
