"""Sleep: a timer for each running container, and the attempt when it falls due.

Nothing is polled: what the kernel counts is read when a timer falls due, and the timer is set again if it
says so. The order and the safety of falling asleep are the shim's; so is the last word: it declines (ABORTED)
when anything came for the container meanwhile, and that is no failure.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from architect.ttrpc.client import Code, RpcError
from architect.ttrpc.shim_v1 import ContainerStatus
from daemon.containers import Container
from daemon.idle import Moments, Sleep, Traffic, WaitUntil, decide, retry_after_ns, watched_ports
from daemon.metrics import Metrics
from daemon.supervision import Tasks
from daemon.traffic import Kernel, TrafficUnknown

DUMP_LIMIT: Final = 2  # dumps at the same time: they compete with each other for the disk, and with restores

log = logging.getLogger(__name__)
Learn = Callable[[Container, ContainerStatus], None]


class Sleeping:
    """Puts idle containers to sleep. `learn` is told how a container is after it."""

    def __init__(self, kernel: Kernel, metrics: Metrics, tasks: Tasks, learn: Learn) -> None:
        self._kernel = kernel
        self._metrics = metrics
        self._tasks = tasks
        self._learn = learn
        self._slots = asyncio.Semaphore(DUMP_LIMIT)

    def consider(self, container: Container) -> None:
        """Looks at a container: attempts its sleep, or sets the timer to look again. To be called on every
        change.
        """
        self.disarm(container)
        if container.gone or container.attempt:
            return
        verdict = self._verdict(container)
        if isinstance(verdict, Sleep):
            container.waiting_for = ""
            container.attempt = True
            self._tasks.start(f"sleep {container.path}", self._attempt(container))
            return
        container.waiting_for, container.due_ns = verdict.reason, verdict.at_ns
        if verdict.at_ns is not None:
            loop = asyncio.get_running_loop()  # its clock is the monotonic one
            container.timer = loop.call_at(verdict.at_ns / 1e9, self.consider, container)

    def disarm(self, container: Container) -> None:
        """Takes a container's timer away."""
        container.due_ns = None
        if container.timer is not None:
            container.timer.cancel()
            container.timer = None

    async def hibernate(self, container: Container) -> None:
        """Puts a container to sleep now, idle or not. Raises RpcError, ConnectionError."""
        async with self._slots:
            await self._call(container)

    def _verdict(self, container: Container) -> Sleep | WaitUntil:
        now_ns = time.monotonic_ns()
        status, moments, retry_ns = container.status, container.moments, container.retry_ns
        verdict = decide(status, moments, now_ns, retry_ns=retry_ns)
        if isinstance(verdict, WaitUntil) or not watched_ports(status):
            return verdict
        try:
            traffic = self._read(container, now_ns)
        except TrafficUnknown as error:
            log.warning("traffic cannot be read", extra={"container": container.path, "reason": str(error)})
            return WaitUntil(now_ns + status.idle_ns, f"its traffic cannot be read: {error}")
        return decide(status, moments, now_ns, traffic=traffic, retry_ns=retry_ns)

    def _read(self, container: Container, now_ns: int) -> Traffic:
        status = container.status
        if not container.watched:
            self._kernel.watch(container.pod.netns, status.id, watched_ports(status))
            container.watched = True
        return self._kernel.traffic(container.pod.netns, status, now_ns, container.pod.shim_pid)

    async def _attempt(self, container: Container) -> None:
        try:
            async with self._slots:
                if container.gone or isinstance(self._verdict(container), WaitUntil):
                    return  # it was used, or ended, while others fell asleep
                await self._call(container)
        except ConnectionError:
            return  # its shim is gone, and with it the container
        except RpcError as error:
            self._not_asleep(container, error)
        else:
            container.failures, container.retry_ns = 0, 0
        finally:
            container.attempt = False
            self.consider(container)

    def _not_asleep(self, container: Container, error: RpcError) -> None:
        now_ns = time.monotonic_ns()
        if error.code is Code.ABORTED:
            log.info("a container was needed while falling asleep", extra=_fields(container, error))
            self._metrics.aborted.inc()
            container.moments = Moments(now_ns, container.moments.started_ns)
            return
        container.failures += 1
        wait_ns = retry_after_ns(container.status.idle_ns, container.failures)
        container.retry_ns = now_ns + wait_ns
        if error.code is Code.DEADLINE_EXCEEDED:  # what the shim itself reports is counted when it reports it
            self._metrics.failed("hibernate", error.message)
        log.warning(
            "a container could not be put to sleep",
            extra=_fields(container, error)
            | {"failures": container.failures, "retry_seconds": wait_ns / 1e9},
        )

    async def _call(self, container: Container) -> None:
        status = await container.shim.hibernate(container.status.id)
        self._learn(container, status)
        log.info(
            "a container sleeps",
            extra={
                "container": container.path,
                "saved_bytes": status.saved_bytes,
                "image_bytes": status.image_bytes,
                "took_ms": status.last_sleep_us / 1000,
            },
        )


def _fields(container: Container, error: RpcError) -> dict[str, object]:
    return {"container": container.path, "reason": error.message}
