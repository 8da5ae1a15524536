"""A daemon on a directory of its own, with a kernel that plays a script, and shims that do."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from architect.room import Room
from architect.ttrpc import shim_v1
from architect.ttrpc.shim_v1 import ContainerStatus
from daemon.arguments import Settings
from daemon.held import Queue
from daemon.idle import Traffic
from daemon.service import running
from daemon.traffic import TrafficUnknown
from tests.daemon.fake_shim import FakeShim, SocketQueue

DEADLINE_SECONDS = 20.0


async def until(condition: Callable[[], object]) -> None:
    """Waits until a condition, plain or to be awaited, holds; fails after a long time."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            found = condition()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(0.001)


@dataclass
class ScriptedKernel:
    """What the kernel says of each container's traffic: seconds since the last packet, open connections."""

    idle_seconds: dict[str, float] = field(default_factory=dict)
    connections: dict[str, int] = field(default_factory=dict)
    watched: dict[str, tuple[str, list[tuple[int, str]]]] = field(default_factory=dict)
    reads: int = 0
    broken: str = ""

    def watch(self, netns: str, container_id: str, ports: Sequence[tuple[int, str]]) -> None:
        self._check()
        self.watched[container_id] = netns, list(ports)

    def unwatch(self, netns: str, container_id: str) -> None:
        self._check()
        del self.watched[container_id]

    def traffic(self, netns: str, status: ContainerStatus, now_ns: int, shim_pid: int = 0) -> Traffic:
        self._check()
        assert self.watched[status.id][0] == netns
        self.reads += 1
        idle = self.idle_seconds.get(status.id)
        last = None if idle is None else now_ns - int(idle * 1e9)
        return Traffic(last, self.connections.get(status.id, 0))

    def _check(self) -> None:
        if self.broken:
            raise TrafficUnknown(self.broken)


class Box:
    """A run directory, a daemon on it when a test wants one, and shims."""

    def __init__(self, directory: Path) -> None:
        self.run_dir = str(directory)
        self.shims = str(directory / "shims")
        self.socket = str(directory / "architectd.sock")
        self.kernel = ScriptedKernel()
        self.adopt: Callable[[int], Queue] = SocketQueue
        self.restore_limit = 2
        self.room = Room(lambda: 1 << 40)
        self.kubeconfig, self.node_name = "", "node-1"
        os.makedirs(self.shims, mode=0o700, exist_ok=True)

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[asyncio.Task[None]]:
        settings = Settings(
            self.run_dir,
            ("127.0.0.1", 0),
            self.restore_limit,
            kubernetes=bool(self.kubeconfig),
            node_name=self.node_name,
            kubeconfig=self.kubeconfig,
        )
        async with running(settings, self.kernel, self.adopt, self.room) as discovery:
            yield discovery
            assert not discovery.done()

    def shim(self, key: str, *statuses: shim_v1.ContainerStatus, pod: str = "web") -> FakeShim:
        return FakeShim(self.shims, key, *statuses, pod=pod)

    async def ask(self, method: str, path: str) -> tuple[int, Any]:
        """Status and body (JSON, else text) of a request on the unix socket."""
        connector = aiohttp.UnixConnector(self.socket)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://architectd{path}") as answer,
        ):
            if answer.content_type == "application/json":
                return answer.status, await answer.json()
            return answer.status, await answer.text()

    async def state(self, container_id: str) -> str | None:
        """What the daemon holds for a container's state."""
        _, body = await self.ask("GET", "/v1/containers")
        return next((entry["state"] for entry in body["containers"] if entry["id"] == container_id), None)

    async def until_state(self, container_id: str, state: str | None) -> None:
        async def reached() -> bool:
            return await self.state(container_id) == state

        await until(reached)

    async def until_metric(self, name: str, value: float) -> None:
        async def reached() -> bool:
            return await self.metric(name) >= value

        await until(reached)

    async def metric(self, name: str) -> float:
        """One sample of the metrics, by its full name with labels."""
        _, text = await self.ask("GET", "/metrics")
        return next(
            (float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0
        )


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack
