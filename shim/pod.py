"""The containers of one pod sandbox, which one shim process serves, and what they share."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Final

from architect import probes, settings
from architect.engine import Engine
from architect.engine.children import Children
from architect.gate import GateError
from architect.states import Phase
from architect.ttrpc import containerd, shim_v1
from architect.ttrpc.server import Code, RpcError
from shim.bundle import Bundle
from shim.container import Container
from shim.gatekeeper import Gatekeeper
from shim.health import Health
from shim.place import Place
from shim.probes import Doors
from shim.status import of
from shim.traveller import Traveller

_WATCH_KEPT: Final = 256

log = logging.getLogger(__name__)
Publish = Callable[[Any], None]


class Pod:
    """The containers by id; makes sleepers for those that are managed."""

    def __init__(
        self, namespace: str, children: Children, engine: Engine, publish: Publish, gate_path: str
    ) -> None:
        self.namespace = namespace
        self.containers: dict[str, Container] = {}
        self.publish = publish
        self.identity = settings.PodIdentity()
        self.netns = ""
        self._children = children
        self._engine = engine
        self._gate_path = gate_path
        self._gatekeeper: Gatekeeper | None = None
        self._errors: dict[str, str] = {}
        self._doors: Doors | None = None
        self._shadow_ports: frozenset[int] = frozenset()
        self._doors_error = ""
        self._watchers: set[asyncio.Queue[shim_v1.WatchEvent]] = set()

    def find(self, container_id: str) -> Container | None:
        """The container, or None."""
        return self.containers.get(container_id)

    def get(self, container_id: str) -> Container:
        """The container. Raises RpcError(NOT_FOUND)."""
        found = self.containers.get(container_id)
        if found is None:
            raise RpcError(Code.NOT_FOUND, f"container {container_id} not found")
        return found

    def add(self, bundle: Bundle, options: containerd.Options) -> Container:
        """Takes a new container in; its annotations decide whether it is managed."""
        if bundle.container_id in self.containers:
            raise RpcError(Code.ALREADY_EXISTS, f"container {bundle.container_id} already exists")
        container = Container(bundle, options, self.namespace, self._children, self.publish)
        self.containers[bundle.container_id] = container
        container.health = Health(partial(self.changed, container.id))
        self._open_doors(bundle)
        container.doors = self._doors
        try:
            identity = settings.pod_identity(bundle.annotations)
            wanted = (
                settings.container_settings(bundle.annotations, identity.container)
                if identity.container
                else None
            )
        except settings.Refused as error:
            # A mistake in an annotation must not keep the user's container from running: it runs unmanaged.
            log.warning("container %s runs unmanaged: %s", container.id, error)
            self._errors[container.id] = str(error)
            return container
        if identity.pod_uid:
            self.identity = identity
        self.netns = self.netns or bundle.netns
        if wanted is not None:
            # Declared or not, a shadow port is no use of the container.
            ports = tuple(port for port in wanted.ports if port.number not in self._shadow_ports)
            wanted = dataclasses.replace(wanted, ports=ports)
            try:
                container.sleeper = self._sleeper(container, wanted, identity)
            except BaseException:
                del self.containers[container.id]
                raise
        return container

    def _open_doors(self, bundle: Bundle) -> None:
        """Opens the pod's shadow ports, with the first bundle that knows of them: the sandbox's."""
        wanted = bundle.annotations
        if (
            self._doors is not None
            or self._doors_error
            or not {probes.PROBES, probes.SHADOWS} & wanted.keys()
        ):
            return
        try:
            doors = probes.doors(wanted)
            self._doors = Doors(bundle.netns, self._named)
            self._shadow_ports = frozenset(door.shadow_port for door in doors)
            self._doors.open(doors)
        except (settings.Refused, GateError, OSError) as error:
            # The containers run all the same; their probes fail, and people see why.
            log.warning("shadow ports of this pod: %s", error)
            self._doors_error = str(error)

    def _named(self, name: str) -> Container | None:
        """The newest container of a name."""
        found = None
        for container in self.containers.values():
            if settings.pod_identity(container.bundle.annotations, strict=False).container == name:
                found = container
        return found

    def _sleeper(
        self, container: Container, wanted: settings.ContainerSettings, identity: settings.PodIdentity
    ) -> Traveller:
        place = Place.of(identity)
        changed = lambda: self.changed(container.id)  # noqa: E731
        return Traveller(
            container, wanted, identity, self._engine, self.gatekeeper(container), place, changed
        )

    def gatekeeper(self, container: Container) -> Gatekeeper:
        """The pod's gatekeeper, made with its first managed container."""
        if self._gatekeeper is None:
            from shim.gatekeeper import bind_seqpacket

            self._gatekeeper = Gatekeeper(container.bundle.netns)
            self._gatekeeper.listen(bind_seqpacket(self._gate_path))
        return self._gatekeeper

    async def leaves(self, container: Container, number: int, *, hook: bool = False) -> bool:
        """Whether a container that gets signal `number`, which is to end it, leaves the node instead. With it
        go all of its pod that are managed: they freeze together.

        `hook`: the signal is still to come, after its preStop hook; of who has not arrived there is no end to
        be prepared.
        """
        if container.sleeper is None:
            return False
        if hook and container.sleeper.phase is Phase.ARRIVING:
            return True
        managed = [each.sleeper for each in self.containers.values() if each.sleeper is not None]
        answers = await asyncio.gather(
            *(each.leaves(number, told=each is container.sleeper and not hook) for each in managed)
        )
        return answers[managed.index(container.sleeper)]

    def remove(self, container_id: str) -> None:
        """Forgets a container."""
        container = self.containers.pop(container_id, None)
        for host in self.containers.values():
            if container in host.guests:
                host.guests.remove(container)
                self.changed(host.id)
        self._errors.pop(container_id, None)
        if container is not None and self._doors is not None:
            identity = settings.pod_identity(container.bundle.annotations, strict=False)
            if identity.sandbox_id == container_id or not self.containers:
                self._doors.close()  # its network namespace goes now, before we are told to
        if container is not None:
            self._tell(shim_v1.WatchEvent(status=self.status(container), removed=True))

    def close(self) -> None:
        """Ends gatekeeper and doors, and with them every descriptor that pins the network namespace."""
        if self._doors is not None:
            self._doors.close()
        if self._gatekeeper is not None:
            self._gatekeeper.shutdown()

    # ---- what the daemon sees

    def status(self, container: Container) -> shim_v1.ContainerStatus:
        """A container as the daemon and people see it."""
        return of(container, self._errors.get(container.id, "") or self._doors_error)

    def changed(self, container_id: str) -> None:
        """Tells every watcher how a container is now."""
        container = self.containers.get(container_id)
        if container is not None:
            self._tell(shim_v1.WatchEvent(status=self.status(container)))

    def _tell(self, event: shim_v1.WatchEvent) -> None:
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()  # the newest state counts; a slow watcher misses old ones
            queue.put_nowait(event)

    async def watch(self) -> AsyncIterator[shim_v1.WatchEvent]:
        """Every container as it is now, then every change."""
        queue: asyncio.Queue[shim_v1.WatchEvent] = asyncio.Queue(_WATCH_KEPT)
        for container in self.containers.values():
            queue.put_nowait(shim_v1.WatchEvent(status=self.status(container)))
        self._watchers.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)
