"""A container that begins asleep, in the image of another: of the one before it on this node, or of one that
has left another node.

    check:  is it fit to go on with that memory? Nothing is changed.
    enter:  1. the gate closes
            2. the worker that will restore waits in the new cgroup
            3. the process that runc made, which has run nothing yet, is ended
            4. the writable layer becomes that of the other container, while nothing is mounted over it
            5. the image becomes this container's, fitted to its mounts and addresses

What was there before stays whole until the caller removes it: a shim killed at any point has lost nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from architect import images
from architect.engine import Adapted, EngineError
from architect.gate import GateError
from architect.gate.addresses import addresses
from architect.settings import Port
from architect.states import Phase, StateRecord
from architect.ttrpc.rpc import RpcError
from shim import layer, likeness, mounts
from shim.descent import Bed
from shim.fresh import aside, awaited
from shim.image import Sleep, SleepImage
from shim.notes import Notes
from shim.place import Claim, Place
from shim.threads import in_thread

if TYPE_CHECKING:
    from shim.container import Container

_COPY_SECONDS: Final = 60.0  # containerd gives a start two minutes
_DEATH_SECONDS: Final = 10.0


log = logging.getLogger(__name__)


class Unfit(Exception):
    """A container can not begin from an image; the message says why. `touched`: it has to be made anew."""

    def __init__(self, reason: str, *, touched: bool = False) -> None:
        super().__init__(reason)
        self.touched = touched


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the image came from that a container begins in.

    `layer`: a directory, the writable layer that belongs to it. `beneath`: a digest of what that lies on,
    where this node knows; else "". `history`: what to tell of the container's life so far.
    """

    image: images.ImageDir
    layer: str
    beneath: str
    history: StateRecord

    @classmethod
    def of(cls, record: StateRecord) -> Self:
        """What a sleeper of this node has left. Raises Unfit."""
        if record.phase is not Phase.SCALED_DOWN:
            raise Unfit(f"it was {record.phase} when its node or its shim ended")
        try:
            return cls(images.ImageDir.at(record.image), record.layer, record.beneath, record)
        except ValueError as error:
            raise Unfit(f"its image cannot be found: {error}") from error


@dataclass(frozen=True, slots=True)
class Fitting:
    """An image that was found fit for a container, and what it takes."""

    origin: Origin
    facts: images.Facts
    image_bytes: int
    adapted: Adapted

    @property
    def listening(self) -> list[Port]:
        """The ports on which the container that was dumped listened."""
        named = (port.partition("/")[::2] for port in self.facts.listening)
        return [Port(int(number), protocol) for number, protocol in named if number.isdigit()]


@dataclass(frozen=True, slots=True)
class Begun:
    """A container that has begun asleep, and where its image came from."""

    sleep: Sleep
    origin: Origin


async def check(origin: Origin, bed: Bed) -> Fitting:
    """Whether a container, created and not started, can begin there. Raises Unfit."""
    spec, subject, engine = bed.container.bundle.spec, bed.subject, bed.engine
    try:
        manifest = await in_thread(lambda: images.read_manifest(origin.image))
        facts = manifest.facts
        reason = (
            images.foreign(manifest)
            or likeness.difference(facts.conditions, likeness.conditions(spec))
            or _layers(origin, bed.container)
        )
        if facts.engine != engine.name:
            reason = f"it was made by engine {facts.engine}, and this is {engine.name}"
        if reason:
            raise Unfit(reason)
        now = addresses(subject.netns)
        pid = bed.container.init.pid
        adapted = engine.adapt(subject, pid, origin.image.engine_path, facts.extra, now)
    except (images.ImageError, EngineError, GateError, OSError) as error:
        raise Unfit(str(error)) from error
    return Fitting(origin, facts, manifest.bytes, adapted)


def _layers(origin: Origin, container: Container) -> str:
    """Why its writable layer can not become the container's, as a sentence; "" when it can."""
    own, beneath = layer.of(container.rootfs)
    if not origin.layer or not own:
        return "its root file system is no overlay: what it has written cannot be carried over"
    if origin.beneath and origin.beneath != beneath:
        return "its image is another one now, by the same name"
    if not os.path.isdir(origin.layer):
        return f"what it had written is gone ({origin.layer})"
    return ""


async def enter(fitting: Fitting, bed: Bed) -> Sleep:
    """Has the container sleep there, its gate closed. The image of its sleep is whole, and its own.

    Raises Unfit; the gate may be closed then. If that has `touched` it, it has an empty writable layer, as at
    first, and no process.
    """
    container = bed.container
    ports = sorted({*bed.settings.ports, *fitting.listening})
    try:
        if bed.gatekeeper.closed(container.id):
            bed.gatekeeper.extend(container.id, (), ports)
        else:
            bed.gatekeeper.close(container.id, ports, bed.wake)
    except GateError as error:
        raise Unfit(str(error)) from error
    await bed.engine.ready(bed.subject)
    container.end_created()
    await asyncio.wait({container.init_end}, timeout=_DEATH_SECONDS)
    try:
        if not container.init_end.done():
            raise Unfit("the process that runc made does not end")
        await _replace_layer(container, fitting.origin.layer)
        image = SleepImage.begin(bed.place.images, bed.identity, fitting.origin.history.generation)
        await image.adopt(fitting.origin.image, fitting.facts, fitting.adapted, container.id)
    except (Unfit, images.ImageError, RpcError, ValueError, OSError) as error:
        await _leave(bed)
        raise Unfit(f"it cannot be carried over: {error}", touched=True) from error
    listened = awaited(bed.settings.ports, fitting.listening)
    return Sleep(image, dict(fitting.adapted.extra), listened)


async def _leave(bed: Bed) -> None:
    """Undoes what can be undone."""
    await bed.engine.forget(bed.container.id)
    try:
        await _replace_layer(bed.container, "")
    except (RpcError, OSError) as error:
        log.warning("container %s does not begin as it should: %s", bed.container.id, error)


async def _replace_layer(container: Container, source: str) -> None:
    """Makes the writable layer what `source` is; "": empty. Raises Unfit, RpcError, OSError."""
    target, _ = layer.of(container.rootfs)
    mounts.unmount(container.bundle.rootfs)
    try:
        if source:
            await in_thread(lambda: layer.carry(source, target, _COPY_SECONDS))
        else:
            await in_thread(lambda: layer.clear(target))
    except layer.TooSlow:
        raise Unfit(f"what it had written is not copied within {_COPY_SECONDS:.0f} s") from None
    finally:
        mounts.mount_all(container.rootfs, container.bundle.rootfs)


def _generations(image: str) -> set[int]:
    """The generation of the image at that path, if it is one's."""
    try:
        return {images.ImageDir.at(image).generation}
    except ValueError:
        return set()


class Beginning:
    """What a container finds of the one before it, and what becomes of that."""

    def __init__(self, container: Container, place: Place, claim: Claim, notes: Notes) -> None:
        self._container = container
        self._place = place
        self._claim = claim
        self._notes = notes

    async def run(self, bed: Bed) -> Begun | None:
        """Has the container go on with that, asleep; None when there is nothing to go on with.

        Raises Unfit when it can not, which is noted then, and the image put aside.
        """
        try:
            alone = self._claim.take()
        except OSError as error:
            log.warning("what was before container %s is not looked for: %s", self._container.id, error)
            return None
        earlier = self._notes.before()
        if not alone:
            if earlier is not None:
                self._notes.failed("fresh start", Unfit("the container before it is still being served"))
            return None
        try:
            if earlier is None:
                return None
            origin = Origin.of(earlier)
            begun = Begun(await enter(await check(origin, bed), bed), origin)
        except Unfit as reason:
            assert earlier is not None
            fate = aside(earlier.image, str(reason))
            self._notes.failed("fresh start", Unfit(f"{reason}; {fate}"))
            # Not even what could not be put aside is lost with the older ones.
            await self._tidy(bed, _generations(earlier.image))
            raise
        await self._tidy(bed, {begun.sleep.image.generation, origin.image.generation})
        return begun

    async def _tidy(self, bed: Bed, owned: set[int]) -> None:
        """Removes what others before have left behind."""
        identity = bed.identity
        try:
            await in_thread(
                lambda: images.tidy(bed.place.images, identity.pod_uid, identity.container, owned)
            )
        except OSError as error:
            log.warning("old images of container %s are left behind: %s", self._container.id, error)
