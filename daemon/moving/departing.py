"""One pod that leaves: what its shim hands over, what the control plane says, and what follows from both.

Two tasks: one hears the control plane, one acts on what is known by now, again and again until it is over.
The trap: a part is somebody's only copy. It is dropped when the control plane said that it has arrived, and
for no other reason.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from architect.images import ImageDir, ImageError, read_manifest
from architect.migration import methods
from architect.migration.client import Refused, Unavailable
from architect.migration.v1 import migration_pb2 as v1
from daemon.containers import Pod
from daemon.moving import facts, telling
from daemon.moving.custody import Custody, Left, prefix
from daemon.moving.link import Link
from daemon.moving.parts import Departure, Part
from daemon.moving.telling import MoveMetrics, Tell
from daemon.transfer import Offer, Parcel, TransferError, follow

MARGIN_SECONDS: Final = 2
"""From the last moment for saving to the end of the grace period."""
CALL_SECONDS: Final = 10.0
AGAIN_SECONDS: Final = 2.0
_STATE: Final = v1.FollowEvent.State

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Around:
    """What all that moves on this node has in common. `kept`: called when something is kept from now on."""

    link: Link
    custody: Custody
    tell: Tell
    metrics: MoveMetrics
    kept: Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Growing:
    """An image that is being written, and is fetched meanwhile."""

    image: ImageDir
    parcel: Parcel
    task: asyncio.Task[None]


class Departing:
    """A pod that leaves. `parts`: those of its containers that were saved."""

    def __init__(self, departure: Departure, around: Around, parts: Iterable[Part] = ()) -> None:
        self.departure = departure
        self.parts = {part.container: part for part in parts}
        self._around = around
        self._saving: dict[str, asyncio.Task[str]] = {}
        self._withdraw: dict[str, str] = {}
        """Why it was not saved, of those of which the control plane is still to be told."""
        self._withdrawn: set[str] = set()
        self._events: dict[str, v1.FollowEvent] = {}
        self._done: dict[str, v1.FollowEvent] = {}
        """Those that were acted on."""
        self._offers: dict[str, Offer] = {}
        self._growing: dict[str, _Growing] = {}
        self._followed = False
        self._changed = asyncio.Event()

    @property
    def pod(self) -> Pod:
        """The pod, for Events."""
        of = self.departure
        return Pod(namespace=of.namespace, name=of.pod, uid=of.pod_uid)

    def refusal(self, container: str) -> str:
        """Why a container does not move (any more), "" when it does."""
        event = self._events.get(container)
        if container not in self.departure.volumes:
            return "it was not announced with its pod"
        if container in self.parts:
            return ""
        if event is not None and event.state in (_STATE.DROP, _STATE.KEEP):
            return event.reason or "it has moved already"
        if container in self._withdraw or container in self._withdrawn:
            return self._withdraw.get(container, "it was not saved in time")
        if self._followed:
            return "its migration is over"
        return "" if self.seconds > 0 else "its grace period is over"

    @property
    def seconds(self) -> int:
        """For saving it."""
        return int(self.departure.until - time.time())

    def give_up(self, reason: str) -> None:
        """None of it is saved."""
        self._withdraw = dict.fromkeys(self.departure.volumes, reason)

    def follow(self, image: ImageDir) -> None:
        """A container's image will be written there: what there is of it may be fetched meanwhile."""
        name = image.container
        known = name in self._growing or name in self._saving or name in self.parts
        if not known and not self.refusal(name):
            parcel = Parcel()
            task = asyncio.create_task(follow(parcel, prefix(image), image), name="follow")
            task.add_done_callback(_seen)
            self._growing[name] = _Growing(image, parcel, task)
            self._done.pop(name, None)
            self._changed.set()

    async def save(self, left: Left) -> str:
        """Takes a container over: "", or why that was not possible."""
        if left.container in self.parts:
            return ""
        task = self._saving.get(left.container)
        if task is None:
            if reason := self.refusal(left.container):
                return reason
            task = self._saving[left.container] = asyncio.create_task(self._save(left), name="save")
        return await asyncio.shield(task)

    async def run(self) -> None:
        """Until all of it is over."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow())
                group.create_task(self._work())
        finally:
            for growing in self._growing.values():
                growing.task.cancel()
        await asyncio.to_thread(self._around.custody.end, self.departure)

    async def _save(self, left: Left) -> str:
        began = time.monotonic()
        until = began + self.departure.until - time.time()
        around = self._around
        parcel = await self._followed_so_far(left)
        try:
            part = await asyncio.to_thread(around.custody.take, self.departure, left, until, parcel)
        except (ImageError, TransferError, ValueError, OSError) as error:
            self._withdraw[left.container] = reason = str(error)
            if parcel is not None:
                parcel.abandon(reason)
            self._changed.set()
            log.warning("a container was not saved", extra=self._about(left.container, reason=reason))
            around.metrics.left.labels("failed").inc()
            return reason
        self.parts[left.container] = part
        self._done.pop(left.container, None)
        self._changed.set()
        took = round(time.monotonic() - began, 3)
        log.info("a container was saved", extra=self._about(left.container, bytes=part.size, seconds=took))
        around.metrics.left.labels("saved").inc()
        if part.freeze_us:
            around.metrics.freeze.observe(part.freeze_us / 1e6)
        around.tell(self.pod, left.container, telling.saved(part))
        return ""

    async def _followed_so_far(self, left: Left) -> Parcel | None:
        """The parcel in which its image has been followed, if it has; it is the caller's from now on."""
        growing = self._growing.get(left.container)
        if growing is None:
            return None
        growing.task.cancel()
        await asyncio.wait({growing.task})
        del self._growing[left.container]
        if growing.image == left.image:
            return growing.parcel
        growing.parcel.abandon("its image is another one")
        self._end_offer(left.container)
        return None

    def _stop_following(self, name: str, reason: str) -> None:
        growing = self._growing.pop(name, None)
        if growing is not None:
            growing.task.cancel()
            growing.parcel.abandon(reason)

    # ---- what the control plane says

    async def _follow(self) -> None:
        of = self.departure
        request = v1.FollowRequest(namespace=of.namespace, migration=of.migration)
        while not self._followed:
            try:
                async for event in self._around.link.stream(methods.FOLLOW, request):
                    self._hear(event)
                self._followed = True
            except Unavailable as error:
                log.info("a migration cannot be followed now", extra=self._about(reason=str(error)))
            except Refused as error:
                log.warning("a migration cannot be followed", extra=self._about(reason=str(error)))
                if error.code.name == "NOT_FOUND":
                    self._lost()
                else:
                    await asyncio.sleep(AGAIN_SECONDS)
        self._changed.set()

    def _hear(self, event: v1.FollowEvent) -> None:
        # Told twice, it is done twice: whoever leads now knows nothing of offers made to another.
        self._done.pop(event.container, None)
        self._events[event.container] = event
        self._changed.set()

    def _lost(self) -> None:
        """Nobody will ever ask for it."""
        self._followed = True
        for name in self.departure.volumes:
            self._hear(v1.FollowEvent(container=name, state=_STATE.KEEP, reason="its record is gone"))

    # ---- what follows from it

    async def _work(self) -> None:
        while True:
            self._changed.clear()
            again = not await self._tell_withdrawn()
            for name in self.departure.volumes:
                again |= not await self._act(name)
            if self._followed and not again and all(task.done() for task in self._saving.values()):
                if not self._changed.is_set():
                    return
                continue
            await self._wait(again=again)

    async def _wait(self, *, again: bool) -> None:
        """Until something changes, what failed is to be tried again, or the time for saving is over."""
        missing = [name for name in self.departure.volumes if self._missing(name)]
        over = self.departure.until + MARGIN_SECONDS
        ends = [AGAIN_SECONDS] * again + [max(0.0, over - time.time())] * bool(missing)
        try:
            async with asyncio.timeout(min(ends, default=None)):
                await self._changed.wait()
        except TimeoutError:
            if missing and time.time() >= over:
                reason = "it was not saved before its grace period ended"
                self._withdraw |= dict.fromkeys(missing, reason)

    def _missing(self, name: str) -> bool:
        """Whether its shim is still to hand it over."""
        event = self._events.get(name)
        return not (
            name in self.parts
            or name in self._saving
            or name in self._withdraw
            or name in self._withdrawn
            or (event is not None and event.state in (_STATE.DROP, _STATE.KEEP))
        )

    async def _tell_withdrawn(self) -> bool:
        """Says of what was not saved that it was not; False when that is to be said again."""
        of = self.departure
        for name, reason in list(self._withdraw.items()):
            self._end_offer(name)
            request = v1.WithdrawRequest(
                namespace=of.namespace, migration=of.migration, container=name, reason=reason
            )
            try:
                await self._around.link.call(methods.WITHDRAW, request, timeout=CALL_SECONDS)
            except Unavailable:
                return False
            except Refused as error:  # it is over in another way, which Follow says
                log.info("nothing is withdrawn", extra=self._about(name, reason=str(error)))
            self._withdrawn.add(name)
            del self._withdraw[name]
        return True

    async def _act(self, name: str) -> bool:
        """Brings a container's copy in line with what is known; False when that is to be tried again."""
        event, part = self._events.get(name), self.parts.get(name)
        saving = self._saving.get(name)
        if event is None or self._done.get(name) is event or (saving is not None and not saving.done()):
            return True
        try:
            if event.state in (_STATE.WAITING, _STATE.CLAIMED):
                node = event.node if event.state == _STATE.CLAIMED else ""
                await (self._offer_early(name, node) if part is None else self._offer(part, node))
            else:
                self._end_offer(name)
                if part is not None and event.state != _STATE.TAKEN:
                    await self._release(part, event)
        except (Unavailable, ImageError, OSError, ValueError) as error:
            log.warning("a step of a migration failed", extra=self._about(name, reason=str(error)))
            return False
        if self.parts.get(name) is part:
            self._done[name] = event
        return True

    async def _release(self, part: Part, event: v1.FollowEvent) -> None:
        """It has arrived, or is not waited for (any more). Raises OSError."""
        around, name = self._around, part.container
        if event.state == _STATE.DROP and not event.reason:
            await asyncio.to_thread(around.custody.drop, part)
            around.metrics.left.labels("moved").inc()
            log.info("a container has moved", extra=self._about(name))
            del self.parts[name]
        elif not part.kept_until:  # also what is said to be lost while it is here: somebody's only copy
            until = time.time() + self.departure.keep_seconds
            kept = await asyncio.to_thread(around.custody.keep, part, event.reason, until)
            self.parts[name] = kept  # it may be asked for again
            around.metrics.left.labels("kept").inc()
            log.warning("a container's state is kept", extra=self._about(name, reason=event.reason))
            around.kept()

    def _end_offer(self, name: str) -> None:
        self._stop_following(name, "it does not leave")
        offer = self._offers.pop(name, None)
        if offer is not None:
            self._around.link.shelf.withdraw(offer)

    async def _offer(self, part: Part, node: str) -> None:
        """Says where it can be had: by `node`, if that is known. Raises Unavailable, ImageError, OSError."""
        around, name = self._around, part.container
        known = self._laid_out(name, node)
        if known is None and node:
            known = self._lay_out(name, around.custody.parcel(part), node)
        manifest = await asyncio.to_thread(read_manifest, around.custody.image(part))
        request = v1.OfferRequest(
            namespace=part.namespace,
            migration=part.migration,
            container=name,
            address=await around.link.served(),
            ticket=known.ticket if known is not None else "",
            for_node=node,
            complete=True,
            size_bytes=part.size,
            digest=part.digest,
            facts=facts.of_image(manifest, self.departure.images.get(name, "")),
            freeze_us=part.freeze_us,
        )
        try:
            await around.link.call(methods.OFFER, request, timeout=CALL_SECONDS)
        except Refused as error:  # what has become of it, Follow says
            log.info("an offer was refused", extra=self._about(name, reason=str(error)))

    async def _offer_early(self, name: str, node: str) -> None:
        """Says where it can be had while it is written. Raises Unavailable, OSError, ValueError."""
        growing = self._growing.get(name)
        if growing is None or not node:
            return
        of, known = self.departure, self._laid_out(name, node)
        request = v1.OfferRequest(
            namespace=of.namespace,
            migration=of.migration,
            container=name,
            address=await self._around.link.served(),
            ticket=(known or self._lay_out(name, growing.parcel, node)).ticket,
            for_node=node,
            facts=facts.of_machine(of.images.get(name, "")),
        )
        try:
            await self._around.link.call(methods.OFFER, request, timeout=CALL_SECONDS)
        except Refused as error:
            log.info("an offer was refused", extra=self._about(name, reason=str(error)))

    def _laid_out(self, name: str, node: str) -> Offer | None:
        """Its offer for that node; one for another node ends."""
        known = self._offers.get(name)
        if known is not None and (known.for_node != node or known.taken.cancelled()):
            self._around.link.shelf.withdraw(self._offers.pop(name))
            return None
        return known

    def _lay_out(self, name: str, parcel: Parcel, node: str) -> Offer:
        seconds = self.departure.keep_seconds
        self._offers[name] = self._around.link.shelf.offer(parcel, for_node=node, seconds=seconds)
        return self._offers[name]

    def _about(self, container: str = "", **more: object) -> dict[str, object]:
        of = self.departure
        path = "/".join(filter(None, (of.namespace, of.pod, container)))
        return {"container": path, "migration": of.migration, **more}


def _seen(task: asyncio.Task[None]) -> None:
    """An image that is gone is followed no more; what becomes of it its shim says."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.info("an image is not followed any more", extra={"reason": str(error)})
