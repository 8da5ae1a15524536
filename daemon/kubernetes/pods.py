"""Of a pod, what reporting has to know: a few hundred bytes instead of the whole object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from architect.settings import Refused, container_settings
from daemon.kubernetes.quantities import is_quantity

STATUS: Final = "status.architect.loopholelabs.io/"
"""Prefix of the labels that say how a container is; after it comes the container's name."""
RESOURCES: Final = ("cpu", "memory")
ORIGINALS: Final = {resource: f"architect.loopholelabs.io/{resource}-requests" for resource in RESOURCES}
"""The annotations that keep the requests of sleepers: JSON, container name to quantity."""

Amounts = Mapping[str, str]
"""Quantities by resource: cpu, memory, or one of them."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A container's place in the pod's specification."""

    name: str
    requests: Amounts = field(default_factory=dict)
    limits: Amounts = field(default_factory=dict)
    restarted_by: frozenset[str] = frozenset()
    """Resources whose change restarts the container, by its resizePolicy."""


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod of this node as the API server last told it."""

    namespace: str
    name: str
    uid: str
    version: str = ""
    containers: tuple[Kept, ...] = ()
    others: tuple[Kept, ...] = ()
    """Init containers: never changed, but they count for the QoS class."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Those with prefix STATUS."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Those in ORIGINALS."""
    over: bool = False
    """It has ended, or is being deleted."""
    awaited: tuple[str, ...] = ()
    """Its managed containers, as long as none of the pod's has begun."""
    fixed: str = ""
    """Why its requests cannot be changed at all, "" when they can."""
    pending: str = ""
    """Why kubelet has not carried out the last resize: Deferred, Infeasible, Error; "" when it has."""
    pending_sentence: str = ""

    def originals(self, resource: str) -> dict[str, str]:
        """The requests that the annotation keeps, as far as it makes sense: anybody may have written it."""
        try:
            found = json.loads(self.annotations.get(ORIGINALS[resource], "{}"))
        except (ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {name: value for name, value in found.items() if is_quantity(value)}


def view(pod: Mapping[str, Any]) -> PodView:
    """A pod object, reduced. Total: what is missing or odd is as if it were not there."""
    metadata, spec, status = _object(pod, "metadata"), _object(pod, "spec"), _object(pod, "status")
    labels, annotations = _object(metadata, "labels"), _object(metadata, "annotations")
    pending, sentence = _pending(status)
    return PodView(
        namespace=str(metadata.get("namespace") or ""),
        name=str(metadata.get("name") or ""),
        uid=str(metadata.get("uid") or ""),
        version=str(metadata.get("resourceVersion") or ""),
        containers=tuple(_kept(entry) for entry in _objects(spec, "containers")),
        others=tuple(_kept(entry) for entry in _objects(spec, "initContainers")),
        labels={key: str(value) for key, value in labels.items() if key.startswith(STATUS)},
        annotations={key: str(annotations[key]) for key in ORIGINALS.values() if key in annotations},
        over="deletionTimestamp" in metadata or status.get("phase") in ("Succeeded", "Failed"),
        awaited=_awaited(annotations, spec, status),
        fixed=_fixed(spec, annotations),
        pending=pending,
        pending_sentence=sentence,
    )


def _awaited(
    annotations: Mapping[str, Any], spec: Mapping[str, Any], status: Mapping[str, Any]
) -> tuple[str, ...]:
    if any("waiting" not in _object(each, "state") for each in _objects(status, "containerStatuses")):
        return ()
    texts = {key: value for key, value in annotations.items() if isinstance(value, str)}
    names = [str(entry.get("name") or "") for entry in _objects(spec, "containers")]
    try:
        return tuple(name for name in names if container_settings(texts, name) is not None)
    except Refused:
        return ()


def _fixed(spec: Mapping[str, Any], annotations: Mapping[str, Any]) -> str:
    if "kubernetes.io/config.mirror" in annotations:
        return "it is a static pod, whose requests only its file on the node can change"
    if _object(spec, "resources"):
        return "the pod has resources of its own besides its containers'"
    return ""


def _pending(status: Mapping[str, Any]) -> tuple[str, str]:
    """What kubelet says of a resize that it has not carried out (since Kubernetes 1.33: as conditions)."""
    for condition in _objects(status, "conditions"):
        if condition.get("status") != "True":
            continue
        reason, said = str(condition.get("reason") or ""), str(condition.get("message") or "")
        if condition.get("type") == "PodResizePending":
            return reason or "Deferred", said
        if condition.get("type") == "PodResizeInProgress" and reason:  # without a reason all goes well
            return reason, said
    return "", ""


def _kept(entry: Mapping[str, Any]) -> Kept:
    resources = _object(entry, "resources")
    restarts = {
        str(policy.get("resourceName"))
        for policy in _objects(entry, "resizePolicy")
        if policy.get("restartPolicy") == "RestartContainer"
    }
    return Kept(
        str(entry.get("name") or ""),
        _amounts(_object(resources, "requests")),
        _amounts(_object(resources, "limits")),
        frozenset(restarts),
    )


def _amounts(found: Mapping[str, Any]) -> Amounts:
    return {resource: found[resource] for resource in RESOURCES if is_quantity(found.get(resource))}


def _object(parent: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = parent.get(key)
    return found if isinstance(found, dict) else {}


def _objects(parent: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = parent.get(key)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
