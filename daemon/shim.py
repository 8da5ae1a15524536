"""One shim: connects to its sockets, follows its containers, carries the daemon's calls to it.

A connection that ends is made again while the socket file is there. Everything learnt over a connection is
forgotten with it: the shim tells all of it again. What it leaves to others: what to make of the news
(`node.py`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from architect.gate import GateError
from architect.ttrpc import shim_v1
from architect.ttrpc.client import Client, RpcError
from daemon.containers import Pod
from daemon.held import Confused, HeldPackets, Queue
from daemon.supervision import Tasks

CONNECT_SECONDS: Final = 5.0
DESCRIBE_SECONDS: Final = 10.0
HIBERNATE_SECONDS: Final = 300.0  # a dump of many GiB onto a slow disk
WAKE_SECONDS: Final = 120.0
FIRST_RETRY_SECONDS: Final = 0.02  # a socket that was just bound listens a moment later
LAST_RETRY_SECONDS: Final = 10.0

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who hears what shims tell."""

    def heard(self, shim: ShimConnection, pod: Pod, status: shim_v1.ContainerStatus) -> None:
        """A container is so now."""

    def removed(self, shim: ShimConnection, container_id: str) -> None:
        """A container is gone."""

    def packets(self, shim: ShimConnection, container_id: str, count: int) -> None:
        """Packets were held for a container."""

    def connected(self, shim: ShimConnection) -> None:
        """The shim answers."""

    def lost(self, shim: ShimConnection) -> None:
        """Nothing is known of the shim's containers any more."""


@dataclass(slots=True)
class Pause:
    """A pause between attempts that doubles each time."""

    seconds: float = FIRST_RETRY_SECONDS

    async def wait(self) -> None:
        """Waits, longer each time."""
        await asyncio.sleep(self.seconds)
        self.seconds = min(2 * self.seconds, LAST_RETRY_SECONDS)


class ShimConnection:
    """The shim with socket `<key>.sock` in `directory`."""

    def __init__(self, directory: str, key: str, listener: Listener, adopt: Callable[[int], Queue]) -> None:
        self.key = key
        self.path = os.path.join(directory, f"{key}.sock")
        self.pod = Pod()
        self.held = HeldPackets(
            adopt, lambda container_id, count: listener.packets(self, container_id, count)
        )
        self._gate_path = os.path.join(directory, f"{key}.gate")
        self._listener = listener
        self._client: Client | None = None
        self._known: set[str] = set()
        self._pause = Pause()

    async def run(self) -> None:
        """Follows the shim until its socket file is gone."""
        while os.path.lexists(self.path):
            try:
                client = await Client.connect(self.path, timeout=CONNECT_SECONDS)
            except (OSError, TimeoutError) as error:
                log.debug("a shim cannot be reached", extra={"shim": self.key, "reason": str(error)})
            else:
                try:
                    await self._follow(client)
                except (RpcError, ConnectionError) as error:
                    log.info("a shim does not answer", extra={"shim": self.key, "reason": str(error)})
                finally:
                    await self._forget(client)
            await self._pause.wait()

    async def hibernate(self, container_id: str) -> shim_v1.ContainerStatus:
        """Puts a container to sleep. Raises RpcError, ConnectionError."""
        answer = await self._call(
            "Hibernate", shim_v1.HibernateRequest(container_id), shim_v1.HibernateResponse, HIBERNATE_SECONDS
        )
        return answer.status or shim_v1.ContainerStatus(id=container_id)

    async def wake(self, container_id: str, cause: str) -> shim_v1.ContainerStatus:
        """Wakes a container. Raises RpcError, ConnectionError."""
        answer = await self._call(
            "Wake", shim_v1.WakeRequest(container_id, cause), shim_v1.WakeResponse, WAKE_SECONDS
        )
        return answer.status or shim_v1.ContainerStatus(id=container_id)

    async def _call[R](self, method: str, request: object, response: type[R], timeout: float) -> R:
        if self._client is None:
            raise ConnectionError(f"shim {self.key} is not connected")
        return await self._client.call(shim_v1.SERVICE, method, request, response, timeout=timeout)

    async def _follow(self, client: Client) -> None:
        self._client = client
        await self._describe(client)
        self._pause = Pause()
        self._listener.connected(self)
        log.info(
            "a shim is followed", extra={"shim": self.key, "pod": f"{self.pod.namespace}/{self.pod.name}"}
        )
        tasks = Tasks()
        try:
            tasks.start(f"gate of {self.key}", self._read_gate())
            events = client.stream(shim_v1.SERVICE, "Watch", shim_v1.WatchRequest(), shim_v1.WatchEvent)
            async for event in events:
                await self._event(client, event)
        finally:
            await tasks.close()

    async def _describe(self, client: Client) -> None:
        answer = await client.call(
            shim_v1.SERVICE,
            "Describe",
            shim_v1.DescribeRequest(),
            shim_v1.DescribeResponse,
            timeout=DESCRIBE_SECONDS,
        )
        self.pod = Pod(
            answer.sandbox_id,
            answer.pod_namespace,
            answer.pod_name,
            answer.pod_uid,
            answer.netns,
            answer.shim_pid,
        )

    async def _event(self, client: Client, event: shim_v1.WatchEvent) -> None:
        status = event.status
        if status is None or not status.id:
            return
        if event.removed:
            self._known.discard(status.id)
            self._listener.removed(self, status.id)
            return
        if status.id not in self._known:
            # The first Describe may have come before the pod's first container, and with it its name and
            # namespace.
            await self._describe(client)
            self._known.add(status.id)
        self._listener.heard(self, self.pod, status)

    async def _read_gate(self) -> None:
        """Is the reader of the pod's held packets. The gate socket comes with the pod's first managed
        container.
        """
        pause = Pause()
        while True:
            try:
                await self.held.read(self._gate_path)
                pause = Pause()
            except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
                log.debug("no gate socket yet", extra={"shim": self.key})
            except (OSError, GateError, Confused) as error:
                log.warning(
                    "held packets are left to the shim", extra={"shim": self.key, "reason": str(error)}
                )
            await pause.wait()

    async def _forget(self, client: Client) -> None:
        self._client = None
        self._known.clear()
        self._listener.lost(self)
        await client.close()
