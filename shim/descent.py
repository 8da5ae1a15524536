"""One attempt to fall asleep: from a running container to an image on disk, its processes ended.

Undoing it, whatever went wrong, is the sleeper's business: an attempt says what it has begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from architect import images
from architect.engine import Engine, EngineError, Subject
from architect.engine.cgroup import resident_bytes
from architect.files import make_private_dirs
from architect.gate import sockets
from architect.settings import ContainerSettings, PodIdentity, Port
from shim.fresh import awaited
from shim.image import Sleep, SleepImage
from shim.likeness import conditions
from shim.place import Place

if TYPE_CHECKING:
    from shim.container import Container
    from shim.gatekeeper import Gatekeeper


class Awake(Exception):
    """The container was needed while it was falling asleep; it runs on. The message says what needed it."""


@dataclass(frozen=True, slots=True)
class Bed:
    """What a container needs for a sleep; `wake` is called when a packet comes, None: packets do not wake."""

    container: Container
    subject: Subject
    settings: ContainerSettings
    identity: PodIdentity
    engine: Engine
    gatekeeper: Gatekeeper
    place: Place
    wake: Callable[[], None] | None


class Descent:
    """The attempt, and the sleep that it has come to, as soon as that has an image, be it a whole one.

    `final`: the container does not wake here again, so what has come and is not read keeps it from nothing.
    """

    def __init__(self, bed: Bed, *, final: bool = False) -> None:
        self._bed = bed
        self._final = final
        self.frozen_ns = 0
        """Since when it has been frozen (monotonic)."""
        self.sleep: Sleep | None = None
        self.saved_bytes = 0

    async def run(self, after: int, needed: Callable[[], str], sealed: Callable[[Sleep], None]) -> None:
        """Falls asleep. Raises Awake, EngineError, GateError, ImageError, ValueError, OSError.

        `after`: the generation before; `needed`: what asks for the container to run, or ""; `sealed`: the
        image is whole, and the processes end next.
        """
        bed, container, cgroup = self._bed, self._bed.container, self._bed.subject.cgroup
        if reason := await container.probes_over():
            raise Awake(reason)
        bed.engine.prepare(bed.subject)
        before = sockets.snapshot(cgroup.pids())
        # What listens without being declared is held too: asleep, the kernel would refuse it.
        listening = before.listening()
        ports = sorted({*bed.settings.ports, *listening})
        bed.gatekeeper.close(container.id, ports, bed.wake)
        await cgroup.freeze()
        self.frozen_ns = time.monotonic_ns()
        if container.init_end.done():  # before the freeze: its pid may be another's by now
            raise EngineError("its first process has ended")
        pids = cgroup.pids()
        frozen = sockets.snapshot(pids)
        bed.gatekeeper.extend(container.id, frozen.connections(), frozen.listening())
        self._raise_if(needed, pids)
        self.saved_bytes = resident_bytes(pids)
        make_private_dirs(bed.place.logs)
        sleep = self.sleep = Sleep(SleepImage.begin(bed.place.images, bed.identity, after))
        sleep.listened = awaited(bed.settings.ports, listening)

        async def decide(extra: Mapping[str, Any]) -> bool:
            sleep.extra = dict(extra)
            await sleep.image.seal(self._facts(sleep, {*listening, *frozen.listening()}))
            self._raise_if(needed, pids)
            sealed(sleep)
            return True

        pid, path = container.init.pid, sleep.image.engine_path
        await bed.engine.sleep(bed.subject, pid, path, bed.place.logs, decide, final=self._final)

    def _raise_if(self, needed: Callable[[], str], pids: list[int]) -> None:
        """Raises Awake if anything has come since the gate was closed, or lies unread in the container."""
        if not self._final and (unread := sockets.snapshot(pids).unread()):
            raise Awake(unread)
        if came := needed():
            raise Awake(f"{came} came")

    def _facts(self, sleep: Sleep, listening: Collection[Port]) -> images.Facts:
        bed, identity = self._bed, self._bed.identity
        return images.Facts(
            container_id=bed.container.id,
            pod=f"{identity.pod_namespace}/{identity.pod_name}",
            generation=sleep.image.generation,
            engine=bed.engine.name,
            extra=dict(sleep.extra),
            conditions=conditions(bed.container.bundle.spec),
            listening=tuple(f"{port.number}/{port.protocol}" for port in sorted(listening)),
        )
