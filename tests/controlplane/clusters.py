"""Pods and their owners, as the API server would show them."""

from __future__ import annotations

import copy
import json
from typing import Any

from controlplane.leaving import Owners

Object = dict[str, Any]
NOW = 1_800_000_000  # 2027-01-15T08:00:00Z
TOLD = "2027-01-15T08:00:30Z"
"""The deletionTimestamp of a pod that was told at NOW to go within 30 s."""
TEMPLATE: Object = {
    "metadata": {"labels": {"app": "web"}},
    "spec": {"containers": [{"name": "app", "image": "local/web:1"}]},
}


def owner(kind: str, name: str, uid: str, **fields: Any) -> Object:
    return {"kind": kind, "metadata": {"name": name, "uid": uid, "generation": 1}, **fields}


def owned_by(found: Object) -> list[Object]:
    metadata = found["metadata"]
    return [{"kind": found["kind"], "name": metadata["name"], "uid": metadata["uid"], "controller": True}]


def deployment(replicas: int = 1) -> Object:
    return owner("Deployment", "web", "uid-of-deployment", spec={"replicas": replicas, "template": TEMPLATE})


def replica_set(replicas: int = 1) -> Object:
    template = copy.deepcopy(TEMPLATE)
    template["metadata"]["labels"]["pod-template-hash"] = "abc"
    template["metadata"]["creationTimestamp"] = None
    found = owner("ReplicaSet", "web-abc", "uid-of-set", spec={"replicas": replicas, "template": template})
    found["metadata"]["ownerReferences"] = owned_by(deployment())
    return found


def stateful_set(replicas: int = 1, revision: str = "db-1", **spec: Any) -> Object:
    status = {"updateRevision": revision, "currentRevision": revision, "observedGeneration": 1}
    return owner("StatefulSet", "db", "uid-of-db", spec={"replicas": replicas, **spec}, status=status)


def job(**spec: Any) -> Object:
    return owner("Job", "sum", "uid-of-job", spec={"parallelism": 1, "completions": 1, **spec}, status={})


def pod(name: str = "web-abc-1", of: Object | None = None, **metadata: Any) -> Object:
    """A pod that runs, with one managed container, on node-1."""
    found = {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-of-{name}",
            "resourceVersion": "100",
            "creationTimestamp": "2027-01-15T07:00:00Z",
            "labels": {"pod-template-hash": "abc", "controller-revision-hash": "db-1"},
            "annotations": {"architect.loopholelabs.io/managed-containers": json.dumps(["app"])},
            **metadata,
        },
        "spec": {
            "nodeName": "node-1",
            "runtimeClassName": "runc-architect",
            "containers": [{"name": "app", "image": "local/web:1"}],
        },
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": "app", "restartCount": 0, "state": {"running": {}}}],
        },
    }
    if of is not None:
        found["metadata"]["ownerReferences"] = owned_by(of)
    return found


def told(found: Object, grace: int = 30, disruption: str = "") -> Object:
    """The same pod, told to go."""
    found = copy.deepcopy(found)
    found["metadata"] |= {"deletionTimestamp": TOLD, "deletionGracePeriodSeconds": grace}
    return disrupted(found, disruption) if disruption else found


def disrupted(found: Object, reason: str) -> Object:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason}
    return {**found, "status": {**found["status"], "conditions": [condition]}}


NAMESPACE: Object = {"metadata": {"name": "shop"}}


def owners(controller: Object | None, above: Object | None = None) -> Owners:
    return Owners(NAMESPACE, controller, above)
