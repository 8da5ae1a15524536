"""The node: what the shims tell goes in, decisions to sleep and to wake come out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from architect.room import Room
from architect.states import Phase
from architect.ttrpc.shim_v1 import ContainerStatus
from daemon.audience import Audience, Nobody
from daemon.containers import Container, Containers, Pod
from daemon.held import Queue
from daemon.idle import watched_ports
from daemon.kubernetes.happenings import refused
from daemon.metrics import Metrics
from daemon.shim import ShimConnection
from daemon.sleeping import Sleeping
from daemon.supervision import Tasks
from daemon.traffic import Kernel, TrafficUnknown
from daemon.waking import Waking

log = logging.getLogger(__name__)


Kept = Callable[[], Awaitable[list[dict[str, Any]]]]
"""The states that left this node and that nobody has taken, for people."""


class Node:
    """Ties the parts together: a listener of the shims (`shim.Listener`)."""

    def __init__(
        self, directory: str, restore_limit: int, kernel: Kernel, adopt: Callable[[int], Queue], room: Room
    ) -> None:
        self.audience: Audience = Nobody()
        self.kept: Kept | None = None
        self.containers = Containers()
        self.metrics = Metrics(self.containers)
        self.tasks = Tasks()
        self.shims: set[ShimConnection] = set()
        self._directory = directory
        self._kernel = kernel
        self._adopt = adopt
        # Held packets may be seen on the one connection before the other tells of their container.
        self._early: set[tuple[ShimConnection, str]] = set()
        self.sleeping = Sleeping(kernel, self.metrics, self.tasks, self._answered)
        self.waking = Waking(
            restore_limit, room, self.metrics, self.tasks, self._answered, self._wake_refused
        )
        self.metrics.gates_closed.set_function(lambda: sum(len(shim.held) for shim in self.shims))
        self.metrics.shims.set_function(lambda: len(self.shims))

    def shim(self, key: str) -> ShimConnection:
        """The follower of a newly found shim."""
        return ShimConnection(self._directory, key, self, self._adopt)

    def connected(self, shim: ShimConnection) -> None:
        """A shim answers."""
        self.shims.add(shim)

    def heard(self, shim: ShimConnection, pod: Pod, status: ContainerStatus) -> None:
        """A shim told how a container is now."""
        learnt = self.containers.learn(shim, pod, status)
        if learnt is None:
            return
        container, before = learnt
        if before is not None:
            self.metrics.changed(before, status)
            if before.phase != status.phase:
                fields = {"container": container.path, "before": before.phase, "phase": status.phase}
                log.info(
                    "a container changed its phase", extra=fields | {"wake_cause": status.last_wake_cause}
                )
        self._watch(container)
        self.audience.heard(container, before)
        self.sleeping.consider(container)
        if (shim, status.id) in self._early:
            self._early.discard((shim, status.id))
            self._insist(shim, container)

    def removed(self, shim: ShimConnection, container_id: str) -> None:
        """A shim told that a container is gone."""
        container = self.containers.get(container_id)
        if container is not None and container.shim is shim:
            self._unwatch(container)
            self._forget(container)

    def lost(self, shim: ShimConnection) -> None:
        """A shim is gone, or has to be asked anew."""
        self.shims.discard(shim)
        self._early = {early for early in self._early if early[0] is not shim}
        for container in self.containers.of(shim):
            self._forget(container)

    def packets(self, shim: ShimConnection, container_id: str, count: int) -> None:
        """Packets are held for a container."""
        self.metrics.packets_held.inc(count)
        container = self.containers.get(container_id)
        if container is None or container.shim is not shim:
            self._early.add((shim, container_id))
        else:
            self._insist(shim, container)

    async def close(self) -> None:
        """Ends everything that runs here; the shims carry on alone."""
        for container in self.containers:
            self._forget(container)
        await self.tasks.close()

    def _answered(self, container: Container, status: ContainerStatus) -> None:
        """A shim's answer to a call is news like any other."""
        if not container.gone and isinstance(container.shim, ShimConnection) and status.phase:
            self.heard(container.shim, container.pod, status)

    def _wake_refused(self, container: Container, reason: str) -> None:
        self.audience.happened(container, refused(container.status.name, reason))

    def _insist(self, shim: ShimConnection, container: Container) -> None:
        container_id = container.status.id
        self.waking.insist(container, lambda: shim.held.holds(container_id))

    def _watch(self, container: Container) -> None:
        """Has the packets of a running container noted."""
        status = container.status
        ports = watched_ports(status)
        if status.phase == Phase.STOPPED:
            self._unwatch(container)
        elif status.phase == Phase.RUNNING and ports and not status.refusal and not container.watched:
            try:
                self._kernel.watch(container.pod.netns, status.id, ports)
                container.watched = True
            except TrafficUnknown as error:  # tried again before its sleep is decided
                log.warning(
                    "packets are not noted", extra={"container": container.path, "reason": str(error)}
                )

    def _unwatch(self, container: Container) -> None:
        if container.watched:
            container.watched = False
            try:
                self._kernel.unwatch(container.pod.netns, container.status.id)
            except TrafficUnknown as error:  # the network namespace went first, and the rules with it
                log.debug("rules were left behind", extra={"container": container.path, "reason": str(error)})

    def _forget(self, container: Container) -> None:
        self.containers.forget(container)
        self.sleeping.disarm(container)
