"""Two nodes that move containers by a control plane in memory; real files, sockets and transfers."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from architect.kube import pod_path
from architect.migration.v1 import migration_pb2 as v1
from daemon.api import private_socket
from daemon.kubernetes.pods import view
from daemon.moving.arriving import Arriving
from daemon.moving.calls import server
from daemon.moving.leaving import Leaving
from daemon.moving.places import Places
from daemon.moving.telling import MoveMetrics
from tests.daemon.moving.plane import Plane, PlaneLink
from tests.daemon.moving.shims import Object, PlayedNode
from tests.daemon.transfer.conftest import credentials


@dataclass
class Node(PlayedNode):
    """`start` and `end` its part in moves. What ends leaves nothing but files, as when it is killed."""

    plane: Plane = field(default_factory=Plane)
    events: list[tuple[str, str]] = field(default_factory=list)
    leaving: Leaving | None = None
    arriving: Arriving | None = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self) -> None:
        (self.root / "run").mkdir(parents=True, exist_ok=True)
        link: Any = PlaneLink(self.name, self.plane, credentials(self.name))
        self._stack.push_async_callback(link.close)
        places = Places(f"{self.root}/state", f"{self.root}/kubelet", "/", f"{self.root}/run/containerd.sock")
        metrics, client = MoveMetrics(CollectorRegistry()), cast(Any, self.plane)
        leaving = Leaving(link, places, client, lambda _: [], self._tell, metrics)
        arriving = Arriving(link, places, client, self._tell, metrics)
        self.leaving, self.arriving = leaving, arriving
        for each in (leaving, arriving):
            self._stack.push_async_callback(each.close)
            await each.start()
        answering = server(leaving, arriving)
        self._stack.push_async_callback(answering.close)
        await answering.start(private_socket(str(self.socket)))

    async def end(self) -> None:
        await self.hang_up()
        self.socket.unlink(missing_ok=True)
        await self._stack.aclose()

    async def again(self) -> None:
        await self.end()
        await self.start()

    def pod(self) -> Object:
        """A new pod on this node."""
        uid = str(uuid.uuid4())
        managed = {"architect.loopholelabs.io/managed-containers": '["app"]'}
        pod = {
            "metadata": {
                "namespace": "shop",
                "name": f"web-{uid[:8]}",
                "uid": uid,
                "annotations": managed,
            },
            "spec": {
                "volumes": [{"name": "cache", "emptyDir": {}}, {"name": "own", "emptyDir": {}}],
                "containers": [{"name": "app", "volumeMounts": [{"name": "cache"}]}],
            },
        }
        self.plane.pods[pod_path("shop", f"web-{uid[:8]}")] = pod
        self.make_volume(pod)
        return pod

    def appears(self, pod: Object) -> None:
        """The API server tells of a pod that is bound to it."""
        assert self.arriving is not None
        self.arriving.appeared(view(pod))

    def leaves(self) -> Object:
        """A pod that is evicted from it."""
        pod = self.pod()
        self.plane.moving.add(pod["metadata"]["uid"])
        return pod

    def _tell(self, pod: Any, container: str, happening: Any) -> None:
        self.events.append((container, happening.reason))


def about(pod: Object) -> v1.Pod:
    metadata = pod["metadata"]
    return v1.Pod(namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"])


@pytest.fixture
def plane() -> Plane:
    return Plane()


@pytest.fixture
async def pair(plane: Plane, tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
    one, two = Node("node-1", tmp_path / "1", plane=plane), Node("node-2", tmp_path / "2", plane=plane)
    try:
        await one.start()
        await two.start()
        yield one, two
    finally:
        await one.end()
        await two.end()
