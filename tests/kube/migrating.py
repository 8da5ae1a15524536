"""A control plane beside a real API server, nodes that speak to it; controllers and kubelets are played."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from architect.kube import Client, NotFound, pod_path, pods_path
from architect.migration import identity, methods
from architect.migration.client import ControlPlane
from architect.migration.identity import Identity, Issuer
from architect.migration.v1 import migration_pb2 as v1
from controlplane.arguments import Settings, parse
from controlplane.election import ADDRESS
from controlplane.program import run
from tests.kube.apiserver import ApiServer, until

CRD = Path(__file__).parents[2] / "deploy/charts/architect/resources/migrations.yaml"
SYSTEM = "architect"
SERVICE = f"architect-controlplane.{SYSTEM}.svc"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/architect-controlplane"
MANAGED = {"architect.loopholelabs.io/managed-containers": '["app"]'}
TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"app": "web"}, "annotations": MANAGED},
    "spec": {
        "runtimeClassName": "runc-architect",
        "containers": [{"name": "app", "image": "local/web:1"}],
    },
}
Object = dict[str, Any]
ClaimState = v1.ClaimEvent.State
FollowState = v1.FollowEvent.State


async def prepare(client: Client) -> None:
    """What a cluster with Architect has: the resource, the class, the namespace, its account, two nodes."""
    definition = yaml.safe_load(CRD.read_text())
    await client.create(DEFINITIONS, definition)
    for path, name, more in (
        ("/api/v1/namespaces", SYSTEM, {}),
        ("/apis/node.k8s.io/v1/runtimeclasses", "runc-architect", {"handler": "runc"}),
        (f"/api/v1/namespaces/{SYSTEM}/serviceaccounts", "architectd", {}),
        (f"/api/v1/namespaces/{SYSTEM}/serviceaccounts", "another", {}),
        ("/api/v1/nodes", "node-1", {}),
        ("/api/v1/nodes", "node-2", {}),
    ):
        await client.create(path, {"metadata": {"name": name}, **more})

    async def established() -> bool:
        found = await client.get(f"{DEFINITIONS}/{definition['metadata']['name']}")
        conditions = (found.get("status") or {}).get("conditions") or []
        return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)

    await until(established)


@dataclass
class Replica:
    """A control plane in this process; ports by what they are for."""

    ports: dict[str, int] = field(default_factory=dict)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports['nodes']}"


def settings(server: ApiServer, *more: str) -> Settings:
    return parse(
        [
            f"--kubeconfig={server.kubeconfig()}",
            *(f"--{name}=0" for name in ("port", "certify-port", "health-port")),
            *more,
        ]
    )


@contextlib.asynccontextmanager
async def replica(server: ApiServer, *more: str) -> AsyncIterator[Replica]:
    """A control plane that serves; it ends with the block."""
    found = Replica()
    serves = asyncio.Event()

    def serving(nodes: int, newcomers: int, health: int) -> None:
        found.ports = {"nodes": nodes, "newcomers": newcomers, "health": health}
        serves.set()

    running = asyncio.create_task(run(settings(server, *more), found.stop, serving=serving))
    try:
        waiting = asyncio.create_task(serves.wait())
        await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if running.done():
            running.result()
        await until_leader(server, found)
        yield found
    finally:
        found.stop.set()
        await asyncio.wait([running])
    running.result()


async def until_leader(server: ApiServer, at: Replica) -> None:
    """Waits until it leads: one that ended before it may not have come to say so."""
    async with Client(server.access()) as client:

        async def leads() -> bool:
            try:
                found = await client.get(LEASE)
            except NotFound:
                return False
            return bool((found["metadata"].get("annotations") or {}).get(ADDRESS) == at.address)

        await until(leads)


class Node:
    """A node's daemon, as the control plane knows it."""

    def __init__(self, name: str, calls: ControlPlane) -> None:
        self.name = name
        self.calls = calls

    async def leave(
        self, pod: Object, *, asleep: bool = False, containers: tuple[str, ...] = ("app",)
    ) -> Any:
        leaving = [v1.LeavingContainer(name=name, asleep=asleep) for name in containers]
        return await self.calls.call(methods.LEAVE, v1.LeaveRequest(pod=about(pod), containers=leaving))

    def follow(self, pod: Object, migration: str) -> Stream:
        request = v1.FollowRequest(namespace=pod["metadata"]["namespace"], migration=migration)
        return Stream(self.calls.stream(methods.FOLLOW, request))

    def claim(self, pod: Object, container: str = "app") -> Stream:
        request = v1.ClaimRequest(pod=about(pod), container=container)
        return Stream(self.calls.stream(methods.CLAIM, request))

    async def offer(self, pod: Object, migration: str, for_node: str = "", **fields: Any) -> None:
        given = {
            "namespace": pod["metadata"]["namespace"],
            "migration": migration,
            "container": "app",
            "address": "10.0.0.1:1234",
            "ticket": f"for {for_node}" if for_node else "",
            "for_node": for_node,
            "complete": True,
            "size_bytes": 1000,
            "freeze_us": 70,
        }
        await self.calls.call(methods.OFFER, v1.OfferRequest(**given | fields))

    async def tell(
        self, method: Any, pod: Object, migration: str, container: str = "app", **fields: Any
    ) -> None:
        await self.calls.call(
            method, method.request(pod=about(pod), migration=migration, container=container, **fields)
        )


class Stream:
    """What a stream of the control plane tells, one by one."""

    def __init__(self, events: AsyncIterator[Any]) -> None:
        self._events = events

    async def next(self) -> Any:
        async with asyncio.timeout(60):
            return await anext(self._events)

    async def until(self, state: int) -> Any:
        """The first that says so."""
        while (event := await self.next()).state != state:
            continue
        return event

    async def rest(self) -> list[Any]:
        async with asyncio.timeout(60):
            return [event async for event in self._events]

    async def close(self) -> None:
        await self._events.aclose()  # type: ignore[attr-defined]


def about(pod: Object) -> v1.Pod:
    metadata = pod["metadata"]
    return v1.Pod(namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"])


async def token(
    client: Client, node: str, account: str = "architectd", audience: str = methods.AUDIENCE
) -> str:
    """A token that is bound to a pod on the node."""
    pods = pods_path(SYSTEM)
    pod = {
        "metadata": {"generateName": "architectd-"},
        "spec": {
            "nodeName": node,
            "serviceAccountName": account,
            "containers": [{"name": "daemon", "image": "local/web:1"}],
        },
    }
    made = (await client.create(pods, pod))["metadata"]
    bound = {"apiVersion": "v1", "kind": "Pod", "name": made["name"], "uid": made["uid"]}
    spec = {"audiences": [audience], "expirationSeconds": 3600, "boundObjectRef": bound}
    path = f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{account}/token"
    return str((await client.create(path, {"spec": spec}))["status"]["token"])


async def issuer(client: Client, at: Replica, secret: str) -> Issuer:
    path = f"/api/v1/namespaces/{SYSTEM}/configmaps/architect-migration"
    trusted = (await client.get(path))["data"]["ca.crt"]
    return Issuer(f"127.0.0.1:{at.ports['newcomers']}", SERVICE, lambda: trusted, lambda: secret)


async def identified(client: Client, at: Replica, node: str) -> Identity:
    return await identity.certified(await issuer(client, at, await token(client, node)))


@contextlib.asynccontextmanager
async def nodes(client: Client, at: Replica, *names: str) -> AsyncIterator[list[Node]]:
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for name in names:
            who = await identified(client, at, name)
            calls = await stack.enter_async_context(ControlPlane(at.address, SERVICE, who))
            found.append(Node(name, calls))
        yield found


@dataclass
class Shop:
    """A namespace with a Deployment or a StatefulSet, whose controllers the test plays."""

    client: Client
    namespace: str
    replicas: int = 1
    template: Object = field(default_factory=lambda: TEMPLATE)
    controller: Object = field(default_factory=dict)
    _made: int = 0

    async def deploy(self, name: str = "web") -> None:
        labels = {"app": "web"}
        spec = {"replicas": self.replicas, "selector": {"matchLabels": labels}, "template": self.template}
        above = await self._create("deployments", {"metadata": {"name": name}, "spec": spec})
        hashed = {**labels, "pod-template-hash": "abc"}
        template = json.loads(json.dumps(self.template))
        template["metadata"]["labels"] = hashed
        spec = {"replicas": self.replicas, "selector": {"matchLabels": hashed}, "template": template}
        metadata = {"name": f"{name}-abc", "labels": hashed, "ownerReferences": owned(above, "Deployment")}
        self.controller = await self._create("replicasets", {"metadata": metadata, "spec": spec})
        self.controller["kind"] = "ReplicaSet"

    async def scale(self, replicas: int) -> None:
        name = self.controller["metadata"]["name"]
        path = f"/apis/apps/v1/namespaces/{self.namespace}"
        for each in (f"{path}/deployments/{name.removesuffix('-abc')}", f"{path}/replicasets/{name}"):
            await self.client.patch(each, {"spec": {"replicas": replicas}})

    async def deploy_set(self, name: str = "db") -> None:
        labels = {"app": "web"}
        spec = {
            "replicas": self.replicas,
            "selector": {"matchLabels": labels},
            "template": self.template,
            "serviceName": name,
        }
        made = await self._create("statefulsets", {"metadata": {"name": name}, "spec": spec})
        path = f"/apis/apps/v1/namespaces/{self.namespace}/statefulsets/{name}/status"
        status = {"observedGeneration": 1, "updateRevision": "r1", "currentRevision": "r1", "replicas": 1}
        self.controller = await self.client.patch(path, {"status": status})
        assert made["metadata"]["generation"] == 1
        self.controller["kind"] = "StatefulSet"

    async def pod(self, node: str, name: str = "") -> Object:
        """A new pod of it on a node, that nobody has begun."""
        self._made += 1
        kind = self.controller["kind"]
        labels = {"app": "web"} | (
            {"pod-template-hash": "abc"} if kind == "ReplicaSet" else {"controller-revision-hash": "r1"}
        )
        made = await self.client.create(
            pods_path(self.namespace),
            {
                "metadata": {
                    "name": name or f"web-abc-{self._made}",
                    "labels": labels,
                    "annotations": self.template["metadata"]["annotations"],
                    "ownerReferences": owned(self.controller, kind),
                },
                "spec": {**self.template["spec"], "nodeName": node},
            },
        )
        return {**made, "path": pod_path(self.namespace, made["metadata"]["name"])}

    async def begin(self, pod: Object) -> None:
        """Its containers run."""
        names = [each["name"] for each in pod["spec"]["containers"]]
        statuses = [
            {
                "name": name,
                "image": "i",
                "imageID": "i",
                "ready": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            }
            for name in names
        ]
        body = {"status": {"phase": "Running", "containerStatuses": statuses}}
        await self.client.patch(f"{pod['path']}/status", body)

    async def running(self, node: str, name: str = "") -> Object:
        made = await self.pod(node, name)
        await self.begin(made)
        return made

    async def evict(self, pod: Object, grace: int = 30) -> None:
        """It is told to go."""
        await self.client.delete(pod["path"], gracePeriodSeconds=str(grace))

    async def finish(self, pod: Object) -> None:
        """Its containers have ended: kubelet lets it go."""
        await self.client.delete(pod["path"], gracePeriodSeconds="0")

    async def records(self) -> dict[str, Object]:
        """By the name of the pod that left."""
        path = f"/apis/architect.loopholelabs.io/v1alpha1/namespaces/{self.namespace}/migrations"
        return {each["spec"]["pod"]["name"]: each for each in await self.client.all(path)}

    async def until_record(self, pod: Object, said: Callable[[Object], Any]) -> Object:
        """The record of a pod, when `said` is true of it."""

        async def found() -> Object | None:
            record = (await self.records()).get(pod["metadata"]["name"])
            return record if record is not None and said(record) else None

        answer: Object = await until(found)
        return answer

    async def _create(self, plural: str, body: Object) -> Object:
        return await self.client.create(f"/apis/apps/v1/namespaces/{self.namespace}/{plural}", body)


def owned(by: Object, kind: str) -> list[Object]:
    metadata = by["metadata"]
    return [
        {
            "apiVersion": "apps/v1",
            "kind": kind,
            "name": metadata["name"],
            "uid": metadata["uid"],
            "controller": True,
        }
    ]


def phase(record: Object) -> str:
    return str((record.get("status") or {}).get("phase", ""))
