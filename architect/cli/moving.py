"""`kubectl architect migrate` and `restore`: pods are evicted on purpose, and it is told what became of them.

Whether a pod moves the control plane decides when the pod is told to go. What can be seen of that before is
looked at here, so that nobody loses memory by a command that is to keep it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from architect.cli.cluster import NAMESPACE, Failed, daemons, described
from architect.cli.migrations import API, moved
from architect.cli.waiting import until
from architect.kube import Busy, Client, Conflict, NotFound, pod_path, pods_path

RESTORE: Final = "architect.loopholelabs.io/restore"
WAIT_SECONDS: Final = 2400.0
"""For all of a move: longer than the control plane waits for a replacement."""
_ANSWER_SECONDS: Final = 30.0
_CONTROL_PLANE: Final = "app.kubernetes.io/name=architect-controlplane"
_HASH: Final = "pod-template-hash"
_OVER: Final = ("Arrived", "Kept", "Lost")

Object = dict[str, Any]


def stays(pod: Mapping[str, Any]) -> str:
    """Why the memory of a pod would not move if it was evicted, as a sentence; "" when nothing is known."""
    metadata, spec, status = (pod.get(part) or {} for part in ("metadata", "spec", "status"))
    kind = _owner(pod).get("kind")
    if metadata.get("deletionTimestamp"):
        return "it was told to go already"
    if "kubernetes.io/config.mirror" in (metadata.get("annotations") or {}):
        return "it is a static pod of its node"
    if not kind:
        return "nobody replaces it: it has no owner"
    if kind == "DaemonSet":
        return "a DaemonSet's pod belongs to its node"
    if kind not in ("ReplicaSet", "StatefulSet", "Job"):
        return f"pods of a {kind} do not move"
    if kind == "ReplicaSet" and _HASH not in (metadata.get("labels") or {}):
        return "its ReplicaSet belongs to no Deployment"
    if not described(pod):
        return (
            "none of its containers is managed: it needs the label architect.loopholelabs.io/hibernate, "
            "or a runtime class and annotations, when it is created"
        )
    if spec.get("hostNetwork"):
        return "it has its node's network"
    return "" if status.get("phase") == "Running" else f"it does not run: it is {status.get('phase')}"


async def to_migrate(client: Client, namespace: str, name: str) -> Object:
    """The pod, which can move. Raises Failed, which says why not; ApiError."""
    try:
        pod = await client.get(pod_path(namespace, name))
    except NotFound as error:
        raise Failed(f"there is no pod {name!r} in namespace {namespace!r}; name another with -n") from error
    reason = stays(pod) or await _out_of_order(client, str((pod.get("spec") or {}).get("nodeName")))
    if reason:
        raise Failed(f"the memory of pod {namespace}/{name} would not move: {reason}")
    return pod


async def _out_of_order(client: Client, node: str) -> str:
    """What of Architect is missing, as a sentence."""
    replicas = await client.all(pods_path(NAMESPACE), labelSelector=_CONTROL_PLANE)
    if not any(_ready(replica) for replica in replicas):
        return "no control plane runs; install the chart with migration.enabled=true"
    if node not in await daemons(client, node):
        return f"no architectd runs on its node {node}: see kubectl -n {NAMESPACE} get pods -o wide"
    return ""


async def evict(client: Client, pod: Mapping[str, Any], *, rehearse: bool = False) -> None:
    """Tells a pod to go, as far as its disruption budget allows. Raises Failed, ApiError."""
    metadata = pod["metadata"]
    namespace, name = metadata["namespace"], metadata["name"]
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"namespace": namespace, "name": name},
        "deleteOptions": {"preconditions": {"uid": metadata["uid"]}}
        | ({"dryRun": ["All"]} if rehearse else {}),
    }
    try:
        await client.create(pod_path(namespace, name, "eviction"), body)
    except Busy as error:
        raise Failed(f"pod {namespace}/{name} may not be evicted now: {error}") from error
    except (Conflict, NotFound) as error:
        raise Failed(f"pod {namespace}/{name} is gone already") from error


async def outcome(client: Client, pod: Mapping[str, Any]) -> list[Object]:
    """What has become of a pod's containers, when all of it is over. Raises Failed, ApiError."""
    metadata = pod["metadata"]
    namespace, name, uid = metadata["namespace"], metadata["name"], metadata["uid"]

    def left(pods: list[Object]) -> bool:
        return all(each["metadata"]["uid"] != uid for each in pods)

    def record_of(records: list[Object]) -> Object | None:
        return next((each for each in records if each["spec"]["pod"]["uid"] == uid), None)

    def over(records: list[Object]) -> list[Object]:
        record = record_of(records)
        return ended(record) if record is not None else []

    gone = asyncio.create_task(until(client, pods_path(namespace), left, only=name))
    end = asyncio.create_task(until(client, _migrations(namespace), over))
    try:
        await asyncio.wait({gone, end}, return_when=asyncio.FIRST_COMPLETED)
        if not end.done() and record_of(await client.all(_migrations(namespace))) is None:
            return []  # there would be one by now
        return await end
    finally:
        gone.cancel()
        end.cancel()
        await asyncio.gather(gone, end, return_exceptions=True)


def ended(record: Mapping[str, Any]) -> list[Object]:
    """The containers of a record all of which are over; [] as long as one is not."""
    entries = moved(record)
    return entries if all(entry["state"] in _OVER for entry in entries) else []


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy that is kept, and the pod that is to give way to it, if there is one."""

    record: Object
    pod: Object | None

    @property
    def entries(self) -> list[Object]:
        """The containers of which there is a copy."""
        return [entry for entry in moved(self.record) if entry["state"] == "Kept"]


async def kept(client: Client, namespace: str, name: str) -> Copy:
    """The copy that is meant by a migration's name, or by a pod's: of the one that left, of the one that
    began without it, or of another one that is to give way. Raises Failed, ApiError.
    """
    pods = await client.all(pods_path(namespace))
    records = [record for record in await _recorded(client, namespace) if _restorable(record, pods)]
    pod = next((each for each in pods if each["metadata"]["name"] == name), None)
    rules: tuple[Callable[[Object], bool], ...] = (
        lambda record: bool(record["metadata"]["name"] == name),
        lambda record: bool(_target(record).get("name") == name),
        lambda record: bool(record["spec"]["pod"]["name"] == name),
        lambda record: pod is not None and _in_place_of(record, pod),
    )
    for rule in rules:
        if found := [record for record in records if rule(record)]:
            record = max(found, key=lambda each: str(each["spec"]["leftTime"]))
            return Copy(record, _giving_way(record, pods, pod))
    raise Failed(f"no copy is kept for {name!r} in namespace {namespace!r}: see kubectl architect migrations")


def _giving_way(record: Object, pods: list[Object], named: Object | None) -> Object | None:
    """The pod that goes, so that one comes which gets the copy."""
    fit = [pod for pod in pods if _in_place_of(record, pod)]
    if named is not None and named in fit:
        return named
    began = [pod for pod in fit if pod["metadata"]["uid"] == _target(record).get("uid")]
    if began or len(fit) < 2:
        return next(iter(began or fit), None)
    names = ", ".join(sorted(pod["metadata"]["name"] for pod in fit))
    raise Failed(f"the pod that began without the copy is gone; name the one that is to give way: {names}")


def _in_place_of(record: Mapping[str, Any], pod: Mapping[str, Any]) -> bool:
    """Whether a pod is one of those that could have had the copy."""
    owner, spec, metadata = _owner(pod), record["spec"], pod["metadata"]
    if owner.get("uid") != spec["owner"]["uid"] or metadata.get("deletionTimestamp"):
        return False
    if owner.get("kind") == "StatefulSet":
        return bool(metadata["name"] == spec["slot"])
    return True


async def restore(client: Client, copy: Copy) -> None:
    """Has the next pod get the copy, and the present one make room for it. Raises Failed, ApiError."""
    metadata = copy.record["metadata"]
    path = f"{_migrations(metadata['namespace'])}/{quote(metadata['name'], safe='')}"
    if copy.pod is not None:
        await evict(client, copy.pod, rehearse=True)  # rather nothing at all than half of it
    await client.patch(path, {"metadata": {"annotations": {RESTORE: ""}}})

    def heard(records: list[Object]) -> Object | None:
        [record] = records or [copy.record]
        return None if RESTORE in (record["metadata"].get("annotations") or {}) else record

    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            record = await until(client, _migrations(metadata["namespace"]), heard, only=metadata["name"])
    except TimeoutError:
        raise Failed("the control plane does not answer: the copy stays where it is") from None
    if (record.get("status") or {}).get("endTime"):
        raise Failed(f"the copy is not given again: see the log of {NAMESPACE}'s control plane")
    if copy.pod is not None:
        await evict(client, copy.pod)


async def restored(client: Client, copy: Copy) -> list[Object]:
    """What has become of it, when that is over. Raises ApiError."""
    metadata = copy.record["metadata"]

    def over(records: list[Object]) -> list[Object]:
        return ended(records[0]) if records else moved(copy.record)

    return await until(client, _migrations(metadata["namespace"]), over, only=metadata["name"])


async def waited(work: Awaitable[list[Object]]) -> list[Object]:
    """`work`, for as long as that can be expected to take. Raises Failed."""
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            return await work
    except TimeoutError:
        raise Failed("it is not over yet: see kubectl architect migrations") from None


def _restorable(record: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all of it is over, and there is a copy of which nothing can run anywhere."""
    parts = (record.get("status") or {}).get("containers") or []
    copies = [part for part in parts if part.get("state") == "Kept"]
    taken = any(part.get("taken") for part in copies)
    runs = taken and any(pod["metadata"]["uid"] == _target(record).get("uid") for pod in pods)
    return bool(ended(record)) and bool(copies) and not runs


async def _recorded(client: Client, namespace: str) -> list[Object]:
    try:
        return await client.all(_migrations(namespace))
    except NotFound as error:
        raise Failed(
            "this cluster knows no migrations; install the chart with migration.enabled=true"
        ) from error


def _migrations(namespace: str) -> str:
    return f"{API}/namespaces/{quote(namespace, safe='')}/migrations"


def _owner(pod: Mapping[str, Any]) -> Object:
    owners = (pod.get("metadata") or {}).get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), {})


def _target(record: Mapping[str, Any]) -> Object:
    return (record.get("status") or {}).get("target") or {}


def _ready(pod: Mapping[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)
