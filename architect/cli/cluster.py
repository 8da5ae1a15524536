"""What `kubectl architect` asks: the API server for pods, and a node's daemon through `pods/exec`.

The daemon opens no port for this: whoever may run commands in its pod may ask it, with `architect` there.
What a pod's labels say is enough for a list; the daemon is asked about one container at a time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from architect.kube import ApiError, Client, NotFound, Refused, pod_path, pods_path
from architect.kube.execution import run_in_pod

NAMESPACE: Final = "architect"
DAEMON: Final = "architectd"
SELECTOR: Final = "app.kubernetes.io/name=architectd"
STATUS: Final = "status.architect.loopholelabs.io/"
MANAGED: Final = "architect.loopholelabs.io/managed-containers"
RUNTIMES: Final = ("runc-architect", "runsc-architect")
REQUESTS: Final = {kind: f"architect.loopholelabs.io/{kind}-requests" for kind in ("cpu", "memory")}
_ARCHITECT: Final = ("python3", "-m", "architect.cli")  # in the daemon's image
UNKNOWN: Final = "UNKNOWN"
_TOGETHER: Final = 8


class Failed(Exception):
    """It cannot be done; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Named:
    """A pod of the cluster, and the containers of it that are meant."""

    namespace: str
    name: str
    node: str
    containers: tuple[str, ...]


def described(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a pod's own labels and annotations say of its managed containers, one entry each."""
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    labels, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
    kept = {kind: _read(notes.get(key), dict) for kind, key in REQUESTS.items()}
    names = {key.removeprefix(STATUS) for key in labels if key.startswith(STATUS)}
    if spec.get("runtimeClassName") in RUNTIMES:
        names |= {name for name in _read(notes.get(MANAGED), list) if isinstance(name, str)}
    return [
        {
            "namespace": str(metadata.get("namespace") or ""),
            "pod": str(metadata.get("name") or ""),
            "container": name,
            "state": str(labels.get(STATUS + name) or UNKNOWN),
            "node": str(spec.get("nodeName") or ""),
            "released": {kind: str(values[name]) for kind, values in kept.items() if name in values},
        }
        for name in sorted(names)
    ]


def _read[T: (dict[str, Any], list[Any])](text: object, kind: type[T]) -> T:
    """The JSON of an annotation, if it is such; anybody may have written it."""
    try:
        found = json.loads(str(text))
    except (ValueError, RecursionError):
        return kind()
    return found if isinstance(found, kind) else kind()


async def listed(client: Client, namespace: str) -> list[dict[str, Any]]:
    """Every managed container of a namespace, or with "" of all of them. Raises ApiError."""
    found: list[dict[str, Any]] = []
    async for pods, _ in client.pages(pods_path(namespace)):
        for pod in pods:
            found += described(pod)
    return sorted(found, key=lambda entry: (entry["namespace"], entry["pod"], entry["container"]))


async def find(client: Client, namespace: str, reference: str) -> Named:
    """The pod and containers meant by POD or POD/CONTAINER. Raises Failed, ApiError."""
    name, _, container = reference.partition("/")
    try:
        pod = await client.get(pod_path(namespace, name))
    except NotFound as error:
        raise Failed(f"there is no pod {name!r} in namespace {namespace!r}; name another with -n") from error
    node = str((pod.get("spec") or {}).get("nodeName") or "")
    if not node:
        raise Failed(f"pod {namespace}/{name} has no node yet")
    managed = tuple(entry["container"] for entry in described(pod))
    if container:
        return Named(namespace, name, node, (container,))
    if not managed:
        raise Failed(
            f"no container of pod {namespace}/{name} is managed: it needs the label "
            "architect.loopholelabs.io/hibernate, or a runtime class and annotations, when it is created"
        )
    return Named(namespace, name, node, managed)


async def daemons(client: Client, node: str = "") -> dict[str, str]:
    """The pod of the daemon on each node, or on one. Raises ApiError."""
    query = {"labelSelector": SELECTOR} | ({"fieldSelector": f"spec.nodeName={node}"} if node else {})
    found: dict[str, str] = {}
    for pod in await client.all(pods_path(NAMESPACE), **query):
        metadata, status = pod.get("metadata") or {}, pod.get("status") or {}
        if "deletionTimestamp" not in metadata and status.get("phase") == "Running":
            found[str((pod.get("spec") or {}).get("nodeName"))] = str(metadata.get("name"))
    return found


async def ask(client: Client, node: str, arguments: list[str], *, seconds: float) -> dict[str, Any]:
    """The answer of a node's daemon to a command of `architect`. Raises Failed, ApiError."""
    pods = await daemons(client, node)
    if node not in pods:
        raise Failed(f"no {DAEMON} runs on node {node}: see kubectl -n {NAMESPACE} get pods -o wide")
    ran = await run_in_pod(client, NAMESPACE, pods[node], [*_ARCHITECT, *arguments], timeout=seconds)
    try:
        found = json.loads(ran.stdout)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        said = ran.stderr.decode(errors="replace").strip().removeprefix("architect: ")
        raise Failed(said[-1000:] or f"architect on node {node} ended with status {ran.status}")
    return found


async def examined(client: Client) -> list[dict[str, Any]]:
    """What the doctor finds in the cluster as a whole: {check, passed, detail, cure}."""
    return list(await asyncio.gather(_resize(client), _runtime_class(client), _daemon_set(client)))


async def examined_node(
    client: Client, node: str, seconds: float, slots: asyncio.Semaphore
) -> list[dict[str, Any]]:
    """What the doctor finds on a node."""
    async with slots:
        try:
            answer = await ask(client, node, ["doctor", "--json"], seconds=seconds)
        except (Failed, ApiError) as error:
            return [_finding(f"{node}: doctor", False, str(error), f"see the log of {DAEMON} there")]
    checks = answer.get("checks")
    found = [check for check in checks if isinstance(check, dict)] if isinstance(checks, list) else []
    return [
        _finding(
            f"{node}: {check.get('check')}",
            check.get("passed") is True,
            str(check.get("detail")),
            str(check.get("cure")),
        )
        for check in found
    ]


async def examined_all(client: Client, node: str, seconds: float) -> list[dict[str, Any]]:
    """What the doctor finds in the cluster and on its nodes, or on one node. Raises ApiError."""
    slots = asyncio.Semaphore(_TOGETHER)
    found = [] if node else await examined(client)
    nodes = [node] if node else sorted(await daemons(client))
    for findings in await asyncio.gather(*(examined_node(client, each, seconds, slots) for each in nodes)):
        found += findings
    return found


def _finding(check: str, passed: bool, detail: str, cure: str) -> dict[str, Any]:
    return {"check": check, "passed": passed, "detail": detail, "cure": "" if passed else cure}


async def _resize(client: Client) -> dict[str, Any]:
    check = "Kubernetes"
    try:
        version = (await client.get("/version")).get("gitVersion")
        resources = (await client.get("/api/v1")).get("resources") or []
    except ApiError as error:
        return _finding(check, False, str(error), "see whether kubectl version works")
    passed = any(resource.get("name") == "pods/resize" for resource in resources)
    detail = f"{version}, pods {'can' if passed else 'cannot'} be resized in place"
    return _finding(
        check, passed, detail, "use Kubernetes 1.33 or newer; without, sleepers keep their requests"
    )


async def _runtime_class(client: Client) -> dict[str, Any]:
    check, cure = "runtime class", "install the chart, or create the RuntimeClass runc-architect"
    try:
        found = await client.get("/apis/node.k8s.io/v1/runtimeclasses/runc-architect")
    except (NotFound, Refused) as error:
        return _finding(check, False, str(error), cure)
    return _finding(check, True, f"runc-architect has the handler {found.get('handler')}", cure)


async def _daemon_set(client: Client) -> dict[str, Any]:
    check, cure = "daemon", f"see kubectl -n {NAMESPACE} describe daemonset {DAEMON}"
    try:
        found = await client.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/{DAEMON}")
    except (NotFound, Refused) as error:
        return _finding(check, False, str(error), "install the chart")
    status = found.get("status") or {}
    wanted, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
    if not wanted:
        cure = "label the nodes that are to run it: architect.loopholelabs.io/node=true"
    return _finding(check, 0 < wanted == ready, f"ready on {ready} of {wanted} nodes", cure)
