"""Who owns a pod, read freshly: whether it is replaced depends on what they want now."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from urllib.parse import quote

from architect.kube import Client, NotFound
from controlplane.leaving import Owners
from controlplane.pods import PodView

PLACES: Final = {
    "ReplicaSet": ("apps/v1", "replicasets"),
    "StatefulSet": ("apps/v1", "statefulsets"),
    "Deployment": ("apps/v1", "deployments"),
    "Job": ("batch/v1", "jobs"),
}


async def read(client: Client, pod: PodView) -> Owners:
    """The owners of a pod and its namespace. Raises ApiError."""
    namespace, controller = await asyncio.gather(
        _get(client, f"/api/v1/namespaces/{quote(pod.namespace, safe='')}"),
        _owner(client, pod.namespace, pod.owner.kind, pod.owner.name) if pod.owner else _nothing(),
    )
    above = None
    for each in (controller or {"metadata": {}})["metadata"].get("ownerReferences") or []:
        if each.get("controller") is True and each.get("kind") == "Deployment":
            above = await _owner(client, pod.namespace, "Deployment", str(each["name"]))
            if above is not None and above["metadata"]["uid"] != each["uid"]:
                above = None  # another of the same name
    return Owners(namespace, controller, above)


async def _owner(client: Client, namespace: str, kind: str, name: str) -> dict[str, Any] | None:
    if kind not in PLACES:
        return None
    group, plural = PLACES[kind]
    path = f"/apis/{group}/namespaces/{quote(namespace, safe='')}/{plural}/{quote(name, safe='')}"
    return await _get(client, path)


async def _get(client: Client, path: str) -> dict[str, Any] | None:
    try:
        return await client.get(path)
    except NotFound:
        return None


async def _nothing() -> None:
    return None
