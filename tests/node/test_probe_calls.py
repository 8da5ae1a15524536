"""An exec probe of a sleeper in containerd's own calls: a process that ran, ended well and harms nobody."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from architect.probes import EXEC_PROBE
from architect.ttrpc import containerd as c
from architect.ttrpc.client import Client, Code, RpcError
from hack.control import SECONDS, describe, hibernate, shim_socket, status
from hack.cri import Container
from tests.node.conftest import Run

PROBE = json.dumps({"args": [EXEC_PROBE, "/usr/bin/true"], "cwd": "/"}).encode()


class Execs:
    """Calls about one exec of a container, as containerd makes them."""

    def __init__(self, client: Client, app: Container, exec_id: str) -> None:
        self._client = client
        self._names = app.id, exec_id

    async def call[R](self, method: str, request: Any, response: type[R], *more: Any, **named: Any) -> R:
        return await self._client.call(
            c.TASK_V2, method, request(*self._names, *more, **named), response, timeout=SECONDS
        )

    async def add(self, stdout: Path | None = None) -> None:
        spec = c.Any("types.containerd.io/opencontainers/runtime-spec/1/Process", PROBE)
        await self.call("Exec", c.ExecProcessRequest, c.Empty, stdout=str(stdout or ""), spec=spec)

    async def start(self) -> int:
        return (await self.call("Start", c.StartRequest, c.StartResponse)).pid

    async def kill(self) -> None:
        await self.call("Kill", c.KillRequest, c.Empty, signal.SIGKILL)

    async def state(self) -> c.StateResponse:
        return await self.call("State", c.StateRequest, c.StateResponse)


def asleep(app: Container, talk: Any) -> None:
    """Has `talk(Execs)` with the shim of a container put to sleep, which then still sleeps."""

    async def connect() -> None:
        client = await Client.connect(shim_socket(app.pod), timeout=SECONDS)
        try:
            await talk(Execs(client, app, "probe"))
        finally:
            await client.close()

    hibernate(app)
    asyncio.run(connect())
    now = status(app)
    assert (now.phase, now.wakes, now.execs) == ("SCALED_DOWN", 0, 0)


def test_every_call_about_it_is_answered_truthfully(run: Run) -> None:
    app = run()

    async def talk(probe: Execs) -> None:
        await probe.add()
        assert (await probe.state()).status == c.Status.CREATED
        with pytest.raises(RpcError) as early:
            await probe.kill()
        assert early.value.code is Code.FAILED_PRECONDITION
        pid = await probe.start()
        assert pid == shim
        found = await probe.state()
        assert (found.status, found.pid, found.exit_status) == (c.Status.STOPPED, pid, 0)
        with pytest.raises(RpcError) as late:
            await probe.kill()
        assert late.value.code is Code.NOT_FOUND
        with pytest.raises(RpcError) as again:
            await probe.start()
        assert again.value.code is Code.FAILED_PRECONDITION
        assert (await probe.call("Wait", c.WaitRequest, c.WaitResponse)).exit_status == 0
        assert (await probe.call("Delete", c.DeleteRequest, c.DeleteResponse)).exit_status == 0
        with pytest.raises(RpcError) as gone:
            await probe.state()
        assert gone.value.code is Code.NOT_FOUND

    shim = describe(app.pod).shim_pid
    asleep(app, talk)


def test_a_reader_that_comes_late_sees_the_end_of_the_output(run: Run, tmp_path: Path) -> None:
    fifo = tmp_path / "stdout"
    os.mkfifo(fifo)

    async def talk(probe: Execs) -> None:
        await probe.add(fifo)
        starting = asyncio.create_task(probe.start())
        with pytest.raises(RpcError) as early:  # what a caller does that has lost its patience
            await probe.kill()
        assert early.value.code is Code.FAILED_PRECONDITION
        assert await asyncio.to_thread(fifo.read_bytes) == b""
        assert await starting

    asleep(run(), talk)


def test_output_that_nobody_reads_holds_nobody_up(run: Run, tmp_path: Path) -> None:
    fifo = tmp_path / "stdout"
    os.mkfifo(fifo)

    async def talk(probe: Execs) -> None:
        await probe.add(fifo)
        assert await probe.start()
        assert (await probe.state()).status == c.Status.STOPPED

    asleep(run(), talk)
