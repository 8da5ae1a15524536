"""How one managed container falls asleep and wakes: the order of freeze, gate, dump, kill, restore, release.

Falling asleep                                   Waking
0. wait until no probe is inside (probes.py)
1. close the gate (packets are held)             1. restore beside verifying the image's digests
2. freeze, hold also the open connections        2. processes run
3. anything unread? then thaw, it was activity   3. open the gate: held packets go on, in order
4. dump, seal the image (manifest last)          4. tell runc the new pid, apply held-back limits
5. anything come meanwhile? then thaw            5. remove the image
6. CRIU ends the processes

Up to step 6 every error and doubt ends in a thaw: it runs on as if nothing had been. A wake that fails leaves
it asleep, to be tried again (`tries.py`); after that, or damaged, its image is kept, it starts fresh, loudly.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final, NoReturn

from architect.engine import Declined, EngineError
from architect.engine.children import Ended
from architect.files import make_private_dirs, remove_flat
from architect.states import Answer, Operation, Phase, answer, refusal
from architect.ttrpc.server import Code, RpcError
from shim import layer, limits
from shim.beginning import Beginning, Begun, Unfit
from shim.descent import Awake, Descent
from shim.fresh import aside, start_afresh
from shim.image import Damaged, Sleep, SleepImage
from shim.resting import Resting

_DEATH_SECONDS: Final = 10.0

log = logging.getLogger(__name__)


class Sleeper(Resting):
    """The sleep of a managed container. It changes under the container's lock; `phase` may always be read."""

    # ---- beginning

    async def begin(self) -> bool:
        """At the start of the container: goes on with the memory of the one before it, asleep, if that slept
        when its node or its shim ended. False: it is to start as containers do.

        Raises EngineError, OSError when it can not be started.
        """
        container = self._container
        self.record.layer, self.record.beneath = layer.of(container.rootfs)
        async with container.lock:
            beginning = Beginning(container, self._place, self._claim, self.notes)
            try:
                begun = await beginning.run(self._bed())
            except Unfit as reason:
                if reason.touched:
                    await container.recreate()
                    container.watch_init(container.children.ended(container.init.pid))
                self._open_gate()
                return reason.touched
            if begun is None:
                return False
            self._lie_down(begun)
            left = SleepImage(begun.origin.image)
            self._make_durable(lambda: self._discarding.begin(left))
        if self._needed():
            self.want("packet")
        return True

    def _lie_down(self, begun: Begun) -> None:
        """Is asleep from now on, in the image of another."""
        self._sleep = begun.sleep
        self.notes.carry_on(begun.origin.history, begun.sleep.image)

    # ---- falling asleep

    def refusal(self) -> str:
        """Why this container can not be put to sleep, as a sentence; "" when it can."""
        if self._container.cgroup is None:
            return "it is not created yet"
        return self._engine.refusal(self._subject()) or self._container.health.complaint

    async def hibernate(self) -> None:
        """Puts the container to sleep; goes on when the caller stops waiting.

        Raises RpcError: FAILED_PRECONDITION (it cannot sleep), ABORTED (was needed), INTERNAL (failed).
        """
        self._check_may_sleep()
        if self.phase is not Phase.SCALED_DOWN:
            task = asyncio.create_task(self._hibernate(), name=f"sleep {self._container.id}")
            task.add_done_callback(consume)
            await asyncio.shield(task)

    async def _hibernate(self) -> None:
        async with self._container.lock:
            self._check_may_sleep()
            if self.phase is Phase.SCALED_DOWN:
                return
            await self._go_to_sleep()
            await self._engine.ready(self._subject())
            self._make_durable()
        if self._wake_wanted or (self.settings.monitor and self._gatekeeper.packets_seen(self._container.id)):
            self.want(self._wake_wanted or "packet")

    async def _go_to_sleep(self, *, final: bool = False) -> None:
        """Falls asleep, or runs on. `final`: whatever still comes for it. Raises RpcError."""
        began = time.monotonic_ns()
        self._wake_wanted = self._called_off = ""
        self._killed = False
        self._held_end = None
        self.notes.move(Phase.HIBERNATING)
        try:
            await self._fall_asleep(final=final)
        except (Awake, Declined) as reason:
            await self._stay_awake()
            sentence = f"container {self._container.id} stays awake: {reason}"
            raise RpcError(Code.ABORTED, sentence) from reason
        except Exception as error:  # whatever it was, nobody may be left frozen
            if not self._killed:
                self.notes.failed("hibernate", error)
            await self._stay_awake()
            raise RpcError(Code.INTERNAL, f"container {self._container.id} runs on: {error}") from error
        await self._bury()
        self.record.sleeps += 1
        self.record.last_sleep_us = (time.monotonic_ns() - began) // 1000
        self.notes.move(Phase.SCALED_DOWN)

    def _check_may_sleep(self) -> None:
        reason = refusal(self.phase, Operation.HIBERNATE) or self.refusal()
        if not reason and self._container.paused:
            reason = "it is paused"
        if not reason and self._container.visits():
            reason = "an exec or a debugger is running in it"
        if reason:
            raise RpcError(
                Code.FAILED_PRECONDITION, f"container {self._container.id} cannot be put to sleep: {reason}"
            )

    async def _fall_asleep(self, *, final: bool) -> None:
        descent = Descent(self._bed(), final=final)

        def sealed(sleep: Sleep) -> None:
            self.record.image = sleep.image.path
            self.notes.write(durable=False)

        try:
            needed = self._needed_elsewhere if final else self._needed
            await descent.run(self.record.generation, needed, sealed)
        finally:
            self._sleep, self._frozen_ns = descent.sleep, descent.frozen_ns
            if descent.sleep is not None:
                self.record.generation = descent.sleep.image.generation
                self.record.saved_bytes = descent.saved_bytes

    def _needed(self) -> str:
        """What has asked for the container to run since it began to fall asleep; "" for nothing."""
        if self._killed or self._wake_wanted:
            return "SIGKILL" if self._killed else self._wake_wanted
        seen = self.settings.monitor and self._gatekeeper.packets_seen(self._container.id)
        return "a packet" if seen else ""

    def _needed_elsewhere(self) -> str:
        """As `_needed`, of a container that does not wake here again."""
        return "SIGKILL" if self._killed else self._called_off

    async def _bury(self) -> None:
        """CRIU has killed the processes frozen: thawed, they die. The cgroup stays, it is runc's."""
        try:
            self._cgroup.thaw()
        except EngineError as error:
            self.notes.failed("hibernate", error)
        await asyncio.wait({self._container.init_end}, timeout=_DEATH_SECONDS)

    async def _stay_awake(self) -> None:
        """Undoes everything of a sleep that did not come about; if the init really ended, says so."""
        try:
            self._cgroup.thaw()
        except EngineError as error:  # said, and the rest undone all the same: nobody is left HIBERNATING
            self.notes.failed("thaw", error)
        await self._engine.forget(self._container.id)
        self.notes.move(Phase.RUNNING)
        self.record.active_ns = time.time_ns()
        self._open_gate()
        if self._held_end is not None:
            self._container.finish_init(self._held_end)
        self._drop_image()
        await self._discarding.over()

    # ---- waking

    async def clear_for(self, operation: Operation) -> Answer:
        """Brings the container to where `operation` can be done, and answers DO, KEEP or NOTHING.

        Raises RpcError when it can not be done.
        """
        while True:
            what = answer(self.phase, operation)
            if what is Answer.REFUSE:
                reason = refusal(self.phase, operation)
                raise RpcError(Code.FAILED_PRECONDITION, f"container {self._container.id}: {reason}")
            if what in (Answer.DO, Answer.KEEP, Answer.NOTHING):
                return what
            if what is Answer.QUEUE:
                async with self._container.lock:
                    continue
            await self.wake(operation)

    def want(self, cause: str) -> None:
        """Asks for a wake and does not wait for it; what fails is recorded where it fails."""
        if self.phase is Phase.HIBERNATING:
            self._wake_wanted = self._wake_wanted or cause  # seen before the processes end, or right after
        elif self._waking is None and self.phase is Phase.SCALED_DOWN:
            self._begin_wake(cause)

    def _begin_wake(self, cause: str) -> asyncio.Task[None]:
        self._waking = asyncio.create_task(self._wake(cause), name=f"wake {self._container.id}")
        self._waking.add_done_callback(self._wake_done)
        return self._waking

    async def wake(self, cause: str) -> None:
        """Makes the container run, whatever it does now. Any number of callers share one restore.

        Raises RpcError: UNAVAILABLE when it sleeps on, INTERNAL when it can not even be started fresh.
        """
        if self.phase is Phase.HIBERNATING:
            self._wake_wanted = self._wake_wanted or cause
        if self.phase in (Phase.RUNNING, Phase.CREATED) and self._waking is None:
            return
        await asyncio.shield(self._waking or self._begin_wake(cause))

    def _wake_done(self, task: asyncio.Task[None]) -> None:
        self._waking = None
        consume(task)

    async def _wake(self, cause: str) -> None:
        async with self._container.lock:
            if self.phase is not Phase.SCALED_DOWN:
                return  # the sleep did not come about, or the container has ended
            began = time.monotonic_ns()
            self._killed = False
            self.notes.move(Phase.WAKING)
            if self._container.cgroup is not None:
                limits.lift_pod(self._container.cgroup, self._identity.pod_uid)
            try:
                end = await self._restore()
            except Exception as error:  # whatever it was, nobody may be left waking
                if self._killed:
                    await self._die()
                    raise RpcError(Code.FAILED_PRECONDITION, "it was killed while it woke") from error
                self.notes.failed("wake", error)
                if not isinstance(error, Damaged) and self._tries.failed():
                    await self._sleep_on(error)
                end = await self._start_fresh(error)
            self._tries.over()
            self._open_gate()
            self.record.active_ns = time.time_ns()
            self.record.wakes += 1
            self.record.last_wake_us = (time.monotonic_ns() - began) // 1000
            self.record.last_wake_cause = cause
            self.notes.move(Phase.RUNNING)  # last: who is told that it runs is told of this wake, too
            self._container.watch_init(end)
            await self._settle()

    async def _restore(self) -> asyncio.Future[Ended]:
        """Restores the image, trying once more if that fails and the image is whole."""
        sleep = self._sleep
        assert sleep is not None
        for last in (False, True):
            verified = asyncio.ensure_future(sleep.image.verdict())

            async def sound(verified: asyncio.Future[str] = verified) -> bool:
                return await verified == ""

            try:
                # Another node's image comes without, and logs are cleaned.
                make_private_dirs(self._place.logs)
                pid, end = await self._engine.wake(
                    self._subject(), sleep.image.engine_path, self._place.log_directory(), sleep.extra, sound
                )
                self._container.init.pid = pid
                return end
            except (EngineError, OSError) as error:
                await asyncio.wait({verified})
                if verified.exception() is None and verified.result():
                    raise Damaged(f"its image is damaged: {verified.result()}") from error
                if last or self._killed:
                    raise
                self.notes.failed("wake", error)
                self._cgroup.kill()
        raise AssertionError("unreachable")

    async def _sleep_on(self, cause: Exception) -> NoReturn:
        """Goes back to sleep for another try: at the next request, and soon if packets wait."""
        self._cgroup.kill()  # what a restore left half done
        self.notes.move(Phase.SCALED_DOWN)
        await self._engine.ready(self._subject())
        if self.settings.monitor and self._gatekeeper.packets_seen(self._container.id):
            self._tries.later()
        sentence = f"container {self._container.id} sleeps on, its memory is kept: {cause}"
        raise RpcError(Code.UNAVAILABLE, sentence) from cause

    async def _start_fresh(self, cause: Exception) -> asyncio.Future[Ended]:
        """The last resort: the image is put aside for diagnosis, the container starts with empty memory."""
        sleep, self._sleep = self._sleep, None
        assert sleep is not None
        await self._engine.forget(self._container.id)
        self._cgroup.kill()  # what a restore left half done; runc would wait for it for long
        fate = aside(sleep.image.path, str(cause))
        log.error("container %s STARTS FRESH, %s: %s", self._container.id, fate, cause)
        self.notes.failed("fresh start", Exception(f"memory lost to the container, {fate}: {cause}"))
        try:
            return await start_afresh(self._container, sleep.listened)
        except (EngineError, OSError) as error:
            self.notes.failed("fresh start", error)
            self.notes.move(Phase.RUNNING)
            self._container.finish_init(Ended(1, time.time_ns()))
            raise RpcError(
                Code.INTERNAL, f"container {self._container.id} can neither wake nor start: {error}"
            ) from error

    async def _settle(self) -> None:
        """What a wake leaves to be done once the container answers again."""
        try:
            if self._sleep is not None:  # else it started fresh, and runc knows
                self._container.runc.adopt(self._container.init.pid)
            if self._held_update is not None:
                resources, self._held_update = self._held_update, None
                # Kubelet was told that it asks for nothing while it slept; it is awake before kubelet knows.
                await self._container.runc.update(limits.with_shares(resources, self._shares))
        except EngineError as error:
            self.notes.failed("wake", error)
        self._drop_image()
        self.notes.write(durable=False)

    # ---- the rest

    async def kill(self) -> bool:
        """SIGKILL: ends a sleeper as it is, breaks off dump and restore. False: the caller has to kill."""
        if answer(self.phase, Operation.KILL) is Answer.CUT_SHORT:
            self._killed = True
            self._engine.cut_short(self._container.id)
            self._kill_all()
        async with self._container.lock:
            if self.phase in (Phase.SCALED_DOWN, Phase.LEAVING, Phase.ARRIVING):
                await self._die()
            return self.phase is Phase.STOPPED

    async def remove(self) -> None:
        """Removes the container's image and state; what was put aside for diagnosis stays."""
        await self._engine.forget(self._container.id)
        self._open_gate()
        self._drop_image()
        await self._discarding.over()
        self.notes.forget()
        if not self.record.failures:
            remove_flat(self._place.logs)
        self._place.leave()
        self._claim.release()


def consume(task: asyncio.Task[None]) -> None:
    """Wakes nobody waits for: their failure is in the container's failures and in the log already."""
    if not task.cancelled() and task.exception() is not None:
        log.warning("%s: %s", task.get_name(), task.exception())
