"""Of a pod, what moving it depends on: a few hundred bytes instead of the whole object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from architect.settings import MANAGED, Refused, container_settings
from controlplane.times import seconds

CLASSES: Final = frozenset({"runc-architect", "runsc-architect"})
TEMPLATE_HASH: Final = "pod-template-hash"
REVISION: Final = "controller-revision-hash"
_MIRROR: Final = "kubernetes.io/config.mirror"
_JOB_INDEX: Final = "batch.kubernetes.io/job-completion-index"

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Owner:
    """The controller that a pod's ownerReferences name."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Key:
    """What a pod and its replacement have in common, and nobody else has.

    `slot`: the template's hash of a ReplicaSet's pod, the name of a StatefulSet's, the index of a Job's.
    """

    namespace: str
    owner: str
    slot: str


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod as the API server last told it. Times are Unix seconds, 0: never."""

    namespace: str
    name: str
    uid: str
    version: int = 0
    """Its resourceVersion. Versions of pods can be compared: etcd's revision, KEP-5504."""
    node: str = ""
    owner: Owner | None = None
    template_hash: str = ""
    revision: str = ""
    job_index: str = ""
    managed: tuple[str, ...] = ()
    """Its managed containers; none without a runtime class of ours."""
    started: frozenset[str] = field(default_factory=frozenset)
    """Containers that run or have run, in this pod."""
    created: float = 0.0
    deleting: float = 0.0
    """When its grace period ends, while it is being deleted."""
    grace: float = 0.0
    disruption: str = ""
    """Why it is disrupted: the reason of its condition DisruptionTarget."""
    over: bool = False
    """It has ended: Succeeded or Failed."""
    host_network: bool = False
    mirror: bool = False

    @property
    def left_at(self) -> float:
        """When it was told to go; 0.0 when it was not."""
        return self.deleting - self.grace if self.deleting else 0.0

    @property
    def active(self) -> bool:
        """Whether its controller counts it as one of its replicas."""
        return not self.over and not self.deleting

    @property
    def began(self) -> bool:
        """Whether a managed container of it runs or has run."""
        return not self.started.isdisjoint(self.managed)

    @property
    def key(self) -> Key | None:
        """None when its like is not replaced by one that could go on where it stopped."""
        if self.owner is None:
            return None
        slot = {"ReplicaSet": self.template_hash, "StatefulSet": self.name, "Job": f"index {self.job_index}"}
        found = slot.get(self.owner.kind, "")
        return Key(self.namespace, self.owner.uid, found) if found else None


def reduce(pod: Object) -> PodView:
    """What is kept of a pod."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    version = str(metadata.get("resourceVersion") or "")
    return PodView(
        namespace=str(metadata.get("namespace") or ""),
        name=str(metadata["name"]),
        uid=str(metadata["uid"]),
        version=int(version) if version.isdigit() else 0,
        node=str(spec.get("nodeName") or ""),
        owner=_owner(metadata.get("ownerReferences") or []),
        template_hash=str(labels.get(TEMPLATE_HASH, "")),
        revision=str(labels.get(REVISION, "")),
        job_index=str(annotations.get(_JOB_INDEX, "")),
        managed=_managed(annotations, spec),
        started=frozenset(_started(status)),
        created=seconds(metadata.get("creationTimestamp")),
        deleting=seconds(metadata.get("deletionTimestamp")),
        grace=float(metadata.get("deletionGracePeriodSeconds") or 0),
        disruption=_disruption(status),
        over=status.get("phase") in ("Succeeded", "Failed"),
        host_network=spec.get("hostNetwork") is True,
        mirror=_MIRROR in annotations,
    )


def _owner(references: list[Object]) -> Owner | None:
    for each in references:
        if each.get("controller") is True:
            return Owner(str(each["kind"]), str(each["name"]), str(each["uid"]))
    return None


def _managed(annotations: Mapping[str, str], spec: Object) -> tuple[str, ...]:
    """Those that a shim manages: named, there, and with annotations that make sense as a whole."""
    if spec.get("runtimeClassName") not in CLASSES or MANAGED not in annotations:
        return ()
    names = [str(container["name"]) for container in spec.get("containers") or []]
    try:
        return tuple(name for name in names if container_settings(annotations, name) is not None)
    except Refused:
        return ()


def _started(status: Object) -> list[str]:
    found = []
    for each in status.get("containerStatuses") or []:
        states = [*(each.get("state") or {}), *(each.get("lastState") or {})]
        if each.get("restartCount") or "running" in states or "terminated" in states:
            found.append(str(each["name"]))
    return found


def _disruption(status: Object) -> str:
    for each in status.get("conditions") or []:
        if each.get("type") == "DisruptionTarget" and each.get("status") == "True":
            return str(each.get("reason") or "unknown")
    return ""
