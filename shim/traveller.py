"""A container that leaves its node, or comes to it: how its state goes to the daemon, and comes from there.

Leaving: told to end, it asks the daemon whether it moves. If it does, it is frozen and dumped instead (a
sleeper is dumped already), whatever may still come for it. When the daemon has all of it, its end is told. Up
to then every failure means that it wakes, if need be, and gets its signal. Only when nobody can say whether
the daemon has its state, it does neither: it may run elsewhere.

Arriving: started, it asks whether somebody comes to be it. If so it waits, its gate closed, the process that
runc made not yet set going. What comes is begun like what another container has left on this node
(`beginning.py`). What does not come, or does not fit, means a fresh start that says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from architect import images
from architect.engine import EngineError
from architect.engine.children import Ended
from architect.gate import GateError
from architect.states import Operation, Phase, StateRecord
from architect.ttrpc import node_v1
from architect.ttrpc.server import Code, RpcError
from shim.beginning import Begun, Origin, Unfit, check, enter
from shim.fresh import aside, awaited, start_afresh
from shim.image import SleepImage
from shim.node import NodeDaemon, Unheard
from shim.resting import SIGKILL_CODE
from shim.sleeper import Sleeper, consume

LEAVE_SECONDS: Final = 30.0
"""To hand over what leaves, where the daemon does not say: a pod's usual grace period."""
_ORDERLY_SECONDS: Final = 5.0
"""Of that, what a container gets to end as ever, if its state could not be handed over."""
ARRIVE_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 1.0

log = logging.getLogger(__name__)


class Traveller(Sleeper):
    """A sleeper that may come from another node, and go to one."""

    stays = False
    """Its pod was not told to go, when that was last asked."""
    _told = False
    """To end; its next signal is the application's."""
    _asking: asyncio.Task[bool] | None = None
    _leaving: asyncio.Task[None] | None = None
    _arriving: asyncio.Task[None] | None = None

    @property
    def _daemon(self) -> NodeDaemon:
        return NodeDaemon(self._identity, self._container.id)

    # ---- leaving

    async def leaves(self, number: int, *, told: bool) -> bool:
        """Whether it goes to another node instead of getting signal `number`; then its end is told in time.

        `told`: the signal is for it; else for another container of its pod, and it goes with that.
        """
        if self.phase is Phase.ARRIVING:
            return told and await self._end_before_it_began(number)
        if self._leaving is not None:
            return True
        if self._asking is None and (self._told or self._container.prepared()):
            return False
        self._told = self._told or told
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(number), name=f"ask for {self._container.id}")
            self._asking.add_done_callback(self._asked)
        return await asyncio.shield(self._asking)

    def _asked(self, _: object) -> None:
        self._asking = None

    async def _ask(self, number: int) -> bool:
        if self.phase not in (Phase.RUNNING, Phase.HIBERNATING, Phase.SCALED_DOWN, Phase.WAKING):
            return False
        asleep = self.phase is Phase.SCALED_DOWN
        try:
            after = SleepImage.following(self._place.images, self._identity, self.record.generation)
        except OSError as error:
            log.warning("container %s ends here, its images cannot be read: %s", self._container.id, error)
            return False
        image = self.record.image if asleep else after.path
        answer = await self._daemon.leaves(asleep=asleep, image=image)
        self.stays = answer.stays
        if not answer.moves:
            log.info("container %s ends here: %s", self._container.id, answer.reason)
            return False
        log.info("container %s leaves: %s", self._container.id, answer.reason)
        seconds = answer.seconds or LEAVE_SECONDS
        self._leaving = asyncio.create_task(self._leave(number, seconds), name=f"leave {self._container.id}")
        self._leaving.add_done_callback(consume)
        return True

    async def _leave(self, number: int, seconds: float) -> None:
        container, until = self._container, time.monotonic() + seconds - _ORDERLY_SECONDS
        try:
            asleep = await self._depart_within(seconds)
            assert self._sleep is not None
            frozen_us = 0 if asleep else (time.monotonic_ns() - self._frozen_ns) // 1000
            image, layer = self._sleep.image.path, self.record.layer
            left = node_v1.LeftRequest(None, asleep, image, layer, frozen_us)
            await self._daemon.left(left, until - time.monotonic())
        except (Unheard, Unfit, RpcError) as error:
            if isinstance(error, Unheard) and error.doubtful:
                await self._end_unheard(128 + number, error)
            else:
                await self._end_here(number, error)
            return
        async with container.lock:
            if self.phase is Phase.LEAVING:
                await self._die(128 + number)

    async def _end_unheard(self, code: int, reason: Exception) -> None:
        """Nobody knows whether its state is the daemon's: it may run elsewhere, and does not run here again.
        Its image is kept.
        """
        async with self._container.lock:
            if self.phase is Phase.LEAVING and self._sleep is not None:
                sleep, self._sleep = self._sleep, None
                fate = aside(sleep.image.path, str(reason))
                self.notes.failed("leave", Unfit(f"{reason}; {fate}"))
                await self._die(code)

    async def kill(self) -> bool:
        """See `Sleeper.kill`."""
        if self.phase is Phase.LEAVING:
            await self._end_unheard(SIGKILL_CODE, Unfit("it was killed before the daemon had its state"))
        return await super().kill()

    async def _depart_within(self, seconds: float) -> bool:
        """See `_depart`, which is never broken off in the middle: that would leave the container frozen. Once
        the time is over, it ends before its processes do.
        """
        departing = asyncio.create_task(self._depart(), name=f"depart {self._container.id}")
        await asyncio.wait({departing}, timeout=seconds)
        if not departing.done():
            self._called_off = "the end of its time"
        return await departing

    async def _depart(self) -> bool:
        """Is asleep for the last time here; whether it was so before. Raises RpcError, Unfit."""
        async with self._container.lock:  # what is under way ends first
            asleep = self.phase is Phase.SCALED_DOWN
            if not asleep:
                self._check_may_sleep()
                await self._go_to_sleep(final=True)
            if self.phase is not Phase.SCALED_DOWN:
                raise Unfit("it has ended")
            self._tries.over()
            self.notes.move(Phase.LEAVING)
        return asleep

    async def _end_here(self, number: int, reason: BaseException) -> None:
        """It does not leave after all: it gets its signal, like any container."""
        sentence = str(reason) or "its time was over"
        self.notes.failed("leave", Unfit(sentence))
        async with self._container.lock:
            if self.phase is Phase.LEAVING:
                self.notes.move(Phase.SCALED_DOWN)
        self._leaving = None
        self._told = True
        try:
            await self.clear_for(Operation.SIGNAL)
            self._container.kill(self._container.init, number, everyone=False)
        except RpcError as error:  # it has ended, or kubelet will kill it
            log.warning("container %s did not get its signal: %s", self._container.id, error.message)

    async def _end_before_it_began(self, number: int) -> bool:
        async with self._container.lock:
            if self.phase is not Phase.ARRIVING:
                return False
            await self._die(128 + number)
        return True

    def stopped(self) -> None:
        """See `Resting.stopped`."""
        if self.phase is Phase.ARRIVING and self._arriving is not None:
            self._arriving.cancel()
            telling = self._settled(reason="it has ended before its state had come")
            self._arriving = asyncio.create_task(telling, name=f"tell of {self._container.id}")
        super().stopped()

    # ---- arriving

    async def begin(self) -> bool:
        """See `Sleeper.begin`; a container of which nothing is on this node may come from another one."""
        begun = await super().begin()
        if begun or self.record.failures:
            return begun
        try:
            answer = await self._daemon.arrives()
        except Unheard as error:
            self.notes.failed("arrive", error)
            return False
        if not answer.expected:
            log.debug("container %s begins here: %s", self._container.id, answer.reason)
            return False
        bed = self._bed()
        async with self._container.lock:
            try:
                self._gatekeeper.close(self._container.id, self.settings.ports, bed.wake)
            except GateError as error:
                self.notes.failed("gate", error)  # what comes is refused, as while a program starts
            self.record.started_ns = self.record.active_ns = time.time_ns()
            self.notes.move(Phase.ARRIVING)
        seconds = answer.seconds or ARRIVE_SECONDS
        self._arriving = asyncio.create_task(self._arrive(seconds), name=f"arrive {self._container.id}")
        self._arriving.add_done_callback(consume)
        return True

    async def _arrive(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                arrival = await self._daemon.arrival()
            if arrival.state != node_v1.State.HERE:
                raise Unfit(arrival.reason or "nothing has come")
            await self._settle_in(arrival)
        except (Unfit, TimeoutError) as error:
            reason = str(error) or f"nothing has come within {seconds:.0f} s"
            await self._start_without(reason, touched=isinstance(error, Unfit) and error.touched)
            await self._settled(reason=reason)
            return
        if not arrival.asleep:
            await self._wake_for_good()
        lost = [failure.reason for failure in self.record.failures if failure.operation == "fresh start"]
        await self._settled(reason=lost[-1] if lost else "")

    async def _settled(self, *, reason: str) -> None:
        restore_us = 0 if reason else self.record.last_wake_us
        await self._daemon.settled(here=not reason, reason=reason, restore_us=restore_us)

    async def _settle_in(self, arrival: node_v1.ArrivalResponse) -> None:
        """Is asleep with what has come. Raises Unfit."""
        async with self._container.lock:
            if self.phase is not Phase.ARRIVING:
                raise Unfit("it has ended before its state had come")
            try:
                image = images.ImageDir.at(arrival.image)
            except ValueError as error:
                raise Unfit(str(error)) from error
            # Long started: an initial delay is over for who has come from elsewhere.
            history = StateRecord(container_id="", active_ns=self.record.active_ns, started_ns=1)
            origin = Origin(image, arrival.layer, "", history)
            bed = self._bed()
            fitting = await check(origin, bed)
            history.saved_bytes = fitting.image_bytes
            self._in_between = True
            try:
                self._lie_down(Begun(await enter(fitting, bed), origin))
            finally:
                self._in_between = False
            assert self._sleep is not None
            if arrival.asleep:
                self._make_durable()
            else:  # restored next, and removed: by its digests it was proved as it came
                self._sleep.image.proved()
        if arrival.asleep and self._needed():
            self.want("packet")

    async def _wake_for_good(self) -> None:
        """Runs on, as it ran there; a restore that fails is tried again until it has memory, or none."""
        while self.phase is Phase.SCALED_DOWN:
            try:
                await super().wake("arrival")
            except RpcError as error:
                log.warning(
                    "container %s has arrived and does not run yet: %s", self._container.id, error.message
                )
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _start_without(self, reason: str, *, touched: bool) -> None:
        """Starts fresh, loudly."""
        container = self._container
        async with container.lock:
            if self.phase is not Phase.ARRIVING:
                return
            log.error("container %s STARTS FRESH: %s", container.id, reason)
            self.notes.failed("fresh start", Unfit(f"its state did not come from the node before: {reason}"))
            ports = awaited(self.settings.ports, self.settings.ports)
            self._in_between = True
            try:
                end = await start_afresh(container, ports, made=not touched)
            except (EngineError, OSError) as error:
                self.notes.failed("fresh start", error)
                self.notes.move(Phase.RUNNING)
                container.finish_init(Ended(1, time.time_ns()))
                return
            finally:
                self._in_between = False
            self._open_gate()
            self.record.active_ns = time.time_ns()
            self.notes.move(Phase.RUNNING)
            container.watch_init(end)

    async def wake(self, cause: str) -> None:
        """See `Sleeper.wake`; who has not arrived is waited for first."""
        if self.phase is Phase.ARRIVING and self._arriving is not None:
            await asyncio.wait({self._arriving})
        if self.phase is Phase.LEAVING:
            sentence = f"container {self._container.id} is on its way to another node"
            raise RpcError(Code.FAILED_PRECONDITION, sentence)
        await super().wake(cause)
