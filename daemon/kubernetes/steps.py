"""A step of `wanted.py`, carried out at the API server."""

from __future__ import annotations

from typing import Any

from architect.kube import Client, Patch, pod_path
from daemon.kubernetes.pods import PodView, view
from daemon.kubernetes.wanted import Annotate, Step


async def take(client: Client, pod: PodView, step: Step) -> PodView:
    """Carries a step out, if the pod is still as it was; the pod then. Raises ApiError."""
    metadata: dict[str, Any] = {"resourceVersion": pod.version}
    if isinstance(step, Annotate):
        metadata |= {"labels": step.labels, "annotations": step.annotations}
        return view(await client.patch(pod_path(pod.namespace, pod.name), {"metadata": metadata}))
    containers = [
        {"name": name, "resources": {"requests": requests}} for name, requests in step.requests.items()
    ]
    body = {"metadata": metadata, "spec": {"containers": containers}}
    return view(await client.patch(pod_path(pod.namespace, pod.name, "resize"), body, Patch.STRATEGIC))
