"""What is on a node that containers leave and come to, and a shim's part, played on the daemon's socket."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from architect import images
from architect.images import Facts, ImageDir
from architect.ttrpc import client as ttrpc
from architect.ttrpc import node_v1

SECONDS = 60.0
Object = dict[str, Any]


@dataclass
class PlayedNode:
    """A node below `root`, whose daemon answers on its socket."""

    name: str
    root: Path
    _clients: list[ttrpc.Client] = field(default_factory=list, init=False)

    @property
    def socket(self) -> Path:
        return self.root / "run" / "node.sock"

    async def hang_up(self) -> None:
        for each in self._clients:
            await each.close()
        self._clients.clear()

    async def ask(self, method: str, request: Any) -> Any:
        """One call, as a shim makes it. Raises RpcError, ConnectionError, OSError."""
        found = await ttrpc.Client.connect(str(self.socket), timeout=SECONDS)
        self._clients.append(found)
        _, answer = node_v1.METHODS[method]
        return await found.call(node_v1.SERVICE, method, request, answer, timeout=SECONDS)

    async def leave(
        self, pod: Object, *, asleep: bool = False, name: str = "app", generation: int = 1
    ) -> str:
        """A container of the pod is told to end: "" when it moves, or why not."""
        image = ImageDir(str(self.root / "state" / "pods"), pod["metadata"]["uid"], name, generation)
        request = node_v1.LeavesRequest(container=container(pod, name), asleep=asleep, image=image.path)
        answer = await self.ask("Leaves", request)
        return "" if answer.moves else str(answer.reason)

    async def hand_over(
        self,
        pod: Object,
        *,
        asleep: bool = False,
        name: str = "app",
        size: int = 5000,
        layer: str = "",
    ) -> None:
        """It was dumped."""
        image = self.dumped(pod, name, size)
        request = node_v1.LeftRequest(
            container=container(pod, name),
            asleep=asleep,
            image=image.path,
            layer=layer or str(self.layer(pod, name)),
            freeze_us=70,
        )
        await self.ask("Left", request)
        images.remove(image)

    def layer(self, pod: Object, name: str) -> Path:
        """Its writable layer."""
        return self.root / "snapshots" / f"{pod['metadata']['uid']}-{name}"

    def dumped(self, pod: Object, name: str = "app", size: int = 5000) -> ImageDir:
        """Its image, its writable layer and its volume are on the node's disk."""
        uid = pod["metadata"]["uid"]
        image = ImageDir(str(self.root / "state" / "pods"), uid, name, 1)
        if Path(image.manifest_path).exists():
            return image
        if not Path(image.path).exists():
            self.dumping(pod, size, name)
        Path(image.engine_path, "core-1.img").write_bytes(f"core of {name} of {uid}".encode())
        images.seal(image, Facts(container_id=f"{uid}-{name}", pod="x/y", generation=1, engine="criu"))
        layer = self.layer(pod, name)
        layer.mkdir(parents=True, exist_ok=True)
        (layer / "written").write_text(f"by {name} of {uid}")
        volume = self.volume(pod)
        if volume.is_dir():
            (volume / "cached").write_text(f"by {uid}")
        return image

    def dumping(self, pod: Object, size: int, name: str = "app") -> None:
        """It is frozen, and so much of its memory is in its image already."""
        image = images.begin(str(self.root / "state" / "pods"), pod["metadata"]["uid"], name, 1)
        Path(image.engine_path, "pages-1.img").write_bytes(os.urandom(size))

    def volume(self, pod: Object) -> Path:
        """Its emptyDir."""
        uid = pod["metadata"]["uid"]
        return Path(self.root, "kubelet/pods", uid, "volumes/kubernetes.io~empty-dir/cache")

    def make_volume(self, pod: Object) -> None:
        self.volume(pod).mkdir(parents=True)
        (self.volume(pod) / "of-an-init-container").write_text(pod["metadata"]["uid"])

    async def created(self, pod: Object, name: str = "app", identity: str = "") -> Any:
        """A container of the pod is created."""
        return await self.ask("Arrives", node_v1.ArrivesRequest(container=container(pod, name, identity)))

    async def arrived(self, pod: Object, name: str = "app", identity: str = "") -> Any:
        """Asks until it is known what has come, through restarts of the daemon."""
        while True:
            request = node_v1.ArrivalRequest(container=container(pod, name, identity))
            try:
                answer = await self.ask("Arrival", request)
            except (ConnectionError, OSError):
                await asyncio.sleep(0.05)
                continue
            if answer.state != node_v1.State.WAITING:
                return answer

    async def settle(self, pod: Object, name: str = "app", *, here: bool = True, reason: str = "") -> None:
        request = node_v1.SettledRequest(
            container=container(pod, name), here=here, reason=reason, restore_us=90
        )
        await self.ask("Settled", request)

    def below(self, directory: str) -> list[str]:
        """The files in one of its directories."""
        top = self.root / "state" / directory
        return sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file())


def container(pod: Object, name: str, identity: str = "") -> node_v1.Container:
    metadata = pod["metadata"]
    return node_v1.Container(
        sandbox_id=f"sandbox-{metadata['uid']}",
        pod_namespace=metadata["namespace"],
        pod_name=metadata["name"],
        pod_uid=metadata["uid"],
        id=identity or f"{metadata['uid']}-{name}",
        name=name,
    )
