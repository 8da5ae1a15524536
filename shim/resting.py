"""What a managed container has for its sleeps, and what is known of it: `sleeper.py` stands on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from architect.engine import Engine, EngineError, Subject
from architect.engine.cgroup import Cgroup
from architect.engine.children import Ended
from architect.gate import GateError
from architect.settings import ContainerSettings, PodIdentity
from architect.states import Phase, StateRecord
from shim import limits
from shim.descent import Bed
from shim.image import Discarding, Sleep
from shim.notes import Notes
from shim.place import Claim, Place
from shim.tries import Tries

if TYPE_CHECKING:
    from shim.container import Container
    from shim.gatekeeper import Gatekeeper

SIGKILL_CODE: Final = 137


class Resting:
    """A managed container as its shim knows it. What changes it does so under the container's lock."""

    def __init__(
        self,
        container: Container,
        settings: ContainerSettings,
        identity: PodIdentity,
        engine: Engine,
        gatekeeper: Gatekeeper,
        place: Place,
        changed: Callable[[], None],
    ) -> None:
        self._container = container
        self.settings = settings
        self._identity = identity
        self._engine = engine
        self._gatekeeper = gatekeeper
        self._place = place
        self._claim = Claim(place)
        self._sleep: Sleep | None = None
        self._discarding = Discarding()
        self._wake_wanted = ""
        self._called_off = ""
        self._killed = False
        self._waking: asyncio.Task[None] | None = None
        self._tries = Tries(lambda: self.want("packet"))
        self._held_end: Ended | None = None
        self._frozen_ns = 0
        self._in_between = False
        """It gets another first process just now: the end of the one before is nobody's."""
        self._held_update: bytes | None = None
        self._shares = limits.shares(container.bundle.spec)
        self.record = StateRecord(container_id=container.id)
        self.notes = Notes(self.record, place.state, changed)

    @property
    def _cgroup(self) -> Cgroup:
        assert self._container.cgroup is not None  # runc has made it before anything is asked of a sleeper
        return self._container.cgroup

    # ---- what happened to the container

    @property
    def phase(self) -> Phase:
        """Where the container is."""
        return self.record.phase

    def started(self) -> None:
        """The init runs, or sleeps as if it did."""
        if self.phase is Phase.CREATED:
            self.record.started_ns = self.record.active_ns = time.time_ns()
            self.notes.move(Phase.RUNNING)

    def stopped(self) -> None:
        """The container has ended for good: its gate opens, so that packets meet the truth."""
        self._tries.over()
        self._open_gate()
        self.notes.move(Phase.STOPPED)
        self._claim.release()

    def exec_ended(self) -> None:
        """An exec has ended: that counts as activity up to now."""
        self.notes.active()

    def take_end(self, ended: Ended) -> bool:
        """Whether the end of the init's processes is part of falling asleep; a real end is not ours to keep.

        While the dump runs nobody can know: the end is kept, and given back if the dump turns out to have
        failed.
        """
        if self.phase is Phase.HIBERNATING:
            self._held_end = ended
            return True
        return self._in_between or self.phase in (Phase.SCALED_DOWN, Phase.WAKING, Phase.LEAVING)

    def hold_update(self, resources: bytes) -> None:
        """Keeps new limits until the wake."""
        self._held_update = limits.merged(self._held_update, resources)

    def updated(self, resources: bytes) -> None:
        """New limits hold, and it is awake: the CPU shares they set hold after the next wake, too."""
        self._shares = limits.shares({"linux": {"resources": limits.read(resources)}}) or self._shares

    def want(self, cause: str) -> None:
        """Asks for a wake and does not wait for it."""
        raise NotImplementedError

    def _bed(self) -> Bed:
        return Bed(
            self._container,
            self._subject(),
            self.settings,
            self._identity,
            self._engine,
            self._gatekeeper,
            self._place,
            (lambda: self.want("packet")) if self.settings.monitor else None,
        )

    def _make_durable(self, then: Callable[[], None] = lambda: None) -> None:
        def written() -> None:
            self.notes.write(durable=True)
            then()

        if self._sleep is not None:
            self._sleep.image.sync_later(self.record.layer, written)

    async def _die(self, code: int = SIGKILL_CODE) -> None:
        """Ends a container that sleeps, or is half restored, or has not begun; `code` is its exit status."""
        await self._engine.forget(self._container.id)
        self._kill_all()
        self._container.finish_init(Ended(code, time.time_ns()))

    def _kill_all(self) -> None:
        try:
            self._cgroup.kill()
        except EngineError as error:
            self.notes.failed("kill", error)

    def _subject(self) -> Subject:
        container = self._container
        return Subject(
            container_id=container.id,
            spec=container.bundle.spec,
            rootfs=container.bundle.rootfs,
            netns=container.bundle.netns,
            cgroup=self._cgroup,
            streams=container.init.streams.process_ends(),
        )

    @property
    def image_bytes(self) -> int:
        """What the image takes on disk; 0 while awake."""
        return self._sleep.image.bytes if self._sleep is not None else 0

    def _drop_image(self) -> None:
        """Forgets the image and has it removed; nobody waits for the disk."""
        sleep, self._sleep = self._sleep, None
        self.record.image = ""
        if sleep is not None:
            self._discarding.begin(sleep.image)

    def _open_gate(self) -> None:
        try:
            self._gatekeeper.open(self._container.id)
        except GateError as error:
            self.notes.failed("gate", error)
