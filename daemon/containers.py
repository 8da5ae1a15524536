"""What the daemon knows: the containers of the node, as their shims last described them.

All of it is copied from the shims and can be lost at any moment; a new daemon learns it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from architect.ttrpc.shim_v1 import ContainerStatus
from daemon.idle import Moments

SHORTEST_ID: Final = 8


class Shim(Protocol):
    """What a container's shim can be asked. Both raise RpcError, or ConnectionError when the shim is gone."""

    async def hibernate(self, container_id: str) -> ContainerStatus:
        """Puts a container to sleep; answers when it sleeps."""

    async def wake(self, container_id: str, cause: str) -> ContainerStatus:
        """Wakes a container; answers when it runs."""


@dataclass(frozen=True, slots=True)
class Pod:
    """The pod that a shim serves."""

    sandbox_id: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    netns: str = ""
    shim_pid: int = 0


@dataclass(slots=True, eq=False)
class Container:
    """One container and what the daemon is about to do with it."""

    shim: Shim
    pod: Pod
    status: ContainerStatus
    moments: Moments
    failures: int = 0
    """Attempts to put it to sleep that failed, since the last that did not."""
    retry_ns: int = 0
    """No attempt before this moment (monotonic)."""
    waiting_for: str = ""
    """Why it does not sleep now, as a sentence."""
    due_ns: int | None = None
    """When it is looked at again (monotonic)."""
    timer: asyncio.TimerHandle | None = None
    attempt: bool = False
    """An attempt to put it to sleep is under way."""
    watched: bool = False
    """The rules that note its packets are in place."""
    gone: bool = False

    @property
    def path(self) -> str:
        """namespace/pod/container, for people and logs."""
        return f"{self.pod.namespace}/{self.pod.name}/{self.status.name}"


class NoSuch(Exception):
    """No container, or more than one, is meant by a reference; the message says which."""

    def __init__(self, sentence: str, *, ambiguous: bool = False) -> None:
        super().__init__(sentence)
        self.ambiguous = ambiguous


@dataclass(slots=True)
class Containers:
    """The containers of the node by id."""

    _by_id: dict[str, Container] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, container_id: str) -> Container | None:
        """The container, or None."""
        return self._by_id.get(container_id)

    def of(self, shim: Shim) -> list[Container]:
        """The containers of one shim."""
        return [container for container in self._by_id.values() if container.shim is shim]

    def of_pod(self, uid: str) -> list[ContainerStatus]:
        """How the containers of a pod are."""
        return [container.status for container in self._by_id.values() if container.pod.uid == uid]

    def learn(
        self, shim: Shim, pod: Pod, status: ContainerStatus
    ) -> tuple[Container, ContainerStatus | None] | None:
        """Takes in what a shim says of a container: the container, and its status until now (None: it is
        new).

        None when it is old news (an answer and an event of one shim may overtake each other: what has counted
        more sleeps and wakes is newer), or when the container is another shim's.
        """
        known = self._by_id.get(status.id)
        now = {"wall_ns": time.time_ns(), "now_ns": time.monotonic_ns()}
        if known is None:
            container = Container(shim, pod, status, Moments.of(status, **now))
            self._by_id[status.id] = container
            return container, None
        before = known.status
        if known.shim is not shim or status.sleeps + status.wakes < before.sleeps + before.wakes:
            return None
        if (status.active_ns, status.started_ns) != (before.active_ns, before.started_ns):
            known.moments = Moments.of(
                status, **now
            )  # else they stay, whatever was done to the clock meanwhile
        known.pod, known.status = pod, status
        return known, before

    def forget(self, container: Container) -> None:
        """Drops a container."""
        container.gone = True
        self._by_id.pop(container.status.id, None)

    def find(self, reference: str) -> Container:
        """The container meant by an id (or its first 8 or more characters), pod/container or
        namespace/pod/container.

        A container that runs or sleeps comes before one of the same name that has ended. Raises NoSuch.
        """
        parts = reference.split("/")
        if len(parts) == 1:
            found = [
                c for i, c in self._by_id.items() if len(reference) >= SHORTEST_ID and i.startswith(reference)
            ]
        else:
            found = [c for c in self._by_id.values() if c.path.split("/")[-len(parts) :] == parts]
        if len(found) > 1:
            found = [c for c in found if c.status.phase != "STOPPED"] or found
        if not found:
            raise NoSuch(
                f"there is no container {reference[:200]!r} on this node; name it by pod/container, "
                f"namespace/pod/container, or {SHORTEST_ID} or more characters of its id"
            )
        if len(found) > 1:
            names = ", ".join(sorted(f"{c.path} ({c.status.id[:12]})" for c in found)[:8])
            raise NoSuch(f"{reference[:200]!r} means more than one container: {names}", ambiguous=True)
        return found[0]
