"""Wakes: one at a time for each container, not too many at a time on the node and none that its memory has no
room for, tried again while packets are held.

The restore itself, and whether one is needed at all, is the shim's business; waking what runs is no error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from architect.room import NoRoom, Room
from architect.states import Phase
from architect.ttrpc.client import Code, RpcError
from architect.ttrpc.shim_v1 import ContainerStatus
from daemon.containers import Container
from daemon.metrics import Metrics
from daemon.supervision import Tasks

FIRST_RETRY_SECONDS: Final = 0.1
LAST_RETRY_SECONDS: Final = 10.0

log = logging.getLogger(__name__)
Learn = Callable[[Container, ContainerStatus], None]


class Waking:
    """Wakes containers. `learn` is told how one is after it, `refused` why a wake was not even tried."""

    def __init__(
        self,
        limit: int,
        room: Room,
        metrics: Metrics,
        tasks: Tasks,
        learn: Learn,
        refused: Callable[[Container, str], None],
    ) -> None:
        self._room = room
        self._refused = refused
        self._slots = asyncio.Semaphore(limit)  # gives its slots in the order of asking
        self._metrics = metrics
        self._tasks = tasks
        self._learn = learn
        self._calls: dict[Container, asyncio.Task[RpcError | ConnectionError | None]] = {}
        self._insisting: set[Container] = set()

    async def wake(self, container: Container, cause: str) -> None:
        """Wakes a container; who asks while it is being woken shares the result. Raises RpcError,
        ConnectionError.
        """
        call = self._calls.get(container)
        if call is None:
            call = self._calls[container] = self._tasks.start(
                f"wake {container.path}", self._call(container, cause)
            )
            call.add_done_callback(lambda _: self._calls.pop(container, None))
        error = await asyncio.shield(call)
        if error is not None:
            raise error

    def insist(self, container: Container, still: Callable[[], bool]) -> None:
        """Wakes a container because of a packet, and goes on trying until it runs or `still` says no more."""
        if container not in self._insisting:
            self._insisting.add(container)
            self._tasks.start(f"packet for {container.path}", self._insist(container, still))

    async def _insist(self, container: Container, still: Callable[[], bool]) -> None:
        pause = FIRST_RETRY_SECONDS
        try:
            while still() and not container.gone:
                try:
                    await self.wake(container, "packet")
                except ConnectionError:
                    return  # its shim is gone, or will read the queue itself
                except RpcError as error:
                    if error.code is Code.NOT_FOUND:
                        return
                    log.warning(
                        "a wake failed, packets are still held",
                        extra={"container": container.path, "reason": error.message, "retry_seconds": pause},
                    )
                else:
                    return
                await asyncio.sleep(pause)
                pause = min(2 * pause, LAST_RETRY_SECONDS)
        finally:
            self._insisting.discard(container)

    async def _call(self, container: Container, cause: str) -> RpcError | ConnectionError | None:
        """One call; its error is handed to whoever waits, if anybody does."""
        needed = container.status.saved_bytes if container.status.phase == Phase.SCALED_DOWN else 0
        try:
            with self._metrics.wakes_waiting.track_inprogress():
                await self._room.wait(needed)
        except NoRoom as error:
            self._metrics.failed("wake", f"out of memory: {error}")
            self._refused(container, str(error))
            return RpcError(Code.RESOURCE_EXHAUSTED, f"{container.path} is not woken: {error}")
        with self._room.promised(needed):
            with self._metrics.wakes_waiting.track_inprogress():
                await self._slots.acquire()
            try:
                status = await container.shim.wake(container.status.id, cause)
            except RpcError as error:
                # What the shim itself reports is counted when it reports it.
                if error.code is Code.DEADLINE_EXCEEDED:
                    self._metrics.failed("wake", error.message)
                return error
            except ConnectionError as error:
                return error
            finally:
                self._slots.release()
        self._learn(container, status)
        return None
