from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from architect.cli.commands import cli
from architect.cli.terminal import printable
from architect.ttrpc.server import Code, RpcError
from architect.ttrpc.shim_v1 import Failure, Port
from tests.daemon.conftest import Box
from tests.daemon.fake_shim import FakeShim, container

ROOT = Path(__file__).parents[2]
ID = "c0ffee" + "0" * 58


async def run(box: Box, *argv: str) -> Result:
    """The command's outcome, against the daemon's real socket."""
    return await asyncio.to_thread(
        CliRunner().invoke, cli, ["--socket", box.socket, *argv], catch_exceptions=False
    )


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.fixture
async def shim(box: Box) -> AsyncIterator[FakeShim]:
    async with AsyncExitStack() as stack:
        status = container(ID, monitor="packets", ports=[Port(80, "TCP")])
        broken = container(
            "d" * 64, "sidecar", managed=False, settings_error="scaledown-durations.app: is negative"
        )
        shim = await stack.enter_async_context(box.shim("pod1", status, broken))
        await stack.enter_async_context(box.daemon())
        await box.until_state(ID, "RUNNING")
        await box.until_state("d" * 64, "RUNNING")
        yield shim


async def test_status_shows_every_container(box: Box, shim: FakeShim) -> None:
    result = await run(box, "status")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    app = next(line for line in lines if " app " in line)
    assert "default/web" in app
    assert "RUNNING" in app
    sidecar = next(line for line in lines if " sidecar " in line)
    assert "unmanaged" in sidecar
    assert "is negative" in sidecar


async def test_a_sleeper_shows_what_it_saves_and_a_woken_one_how_long_it_took(
    box: Box, shim: FakeShim
) -> None:
    result = await run(box, "hibernate", "web/app")
    assert (result.exit_code, result.output) == (
        0,
        "default/web/app sleeps: 50 MiB of memory saved, fell asleep in 70 ms.\n",
    )
    row = next(line for line in (await run(box, "status")).output.splitlines() if " app " in line)
    assert all(part in row for part in ("SCALED_DOWN", "50 MiB", "20 MiB"))
    result = await run(box, "wake", "web/app")
    assert (result.exit_code, result.output) == (0, "default/web/app runs; its last wake took 42 ms.\n")
    row = next(line for line in (await run(box, "status")).output.splitlines() if " app " in line)
    assert all(part in row for part in ("RUNNING", "42 ms", "request"))


@pytest.mark.parametrize("argv", [["status"], ["explain", ID], ["hibernate", ID], ["wake", ID]])
async def test_every_command_speaks_json(box: Box, shim: FakeShim, argv: list[str]) -> None:
    result = await run(box, *argv, "--json")
    assert result.exit_code == 0
    answer = json.loads(result.output)
    assert answer.get("id", ID) == ID


async def test_explain_says_why_and_what_failed(box: Box, shim: FakeShim) -> None:
    shim.set(
        ID, failures=[Failure(1, "hibernate", "criu:\x1b[31m broken")], refusal="it has a terminal", execs=1
    )
    async with asyncio.timeout(20):
        while "broken" not in (result := await run(box, "explain", "web/app")).output:
            assert result.exit_code == 0
    assert "It cannot hibernate: it has a terminal." in result.output
    assert "hibernate: criu:?[31m broken" in result.output
    assert "80/TCP" in result.output
    assert "annotations were refused" in (await run(box, "explain", "web/sidecar")).output


async def test_a_refusal_is_one_sentence_and_status_1(box: Box, shim: FakeShim) -> None:
    async def refuse(_: str) -> None:
        raise RpcError(Code.ABORTED, "container stays awake: a packet came")

    shim.on_hibernate = refuse
    result = await run(box, "hibernate", "web/app")
    assert (result.exit_code, result.output) == (1, "architect: container stays awake: a packet came\n")
    result = await run(box, "wake", "no/such")
    assert result.exit_code == 1
    assert "there is no container 'no/such' on this node" in result.output


@pytest.mark.parametrize("argv", [["status"], ["explain", "a/b"], ["hibernate", "a/b"], ["wake", "a/b"]])
async def test_without_a_daemon_it_says_so_and_ends_with_2(box: Box, argv: list[str]) -> None:
    result = await run(box, *argv)
    assert result.exit_code == 2
    assert result.output == f"architect: architectd does not run on this node: there is no {box.socket}\n"


async def test_a_socket_that_nobody_serves_is_a_daemon_that_is_down(box: Box) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(box.socket)
    result = await run(box, "status")
    assert result.exit_code == 2
    assert "does not run on this node" in result.output


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        os.urandom(2000),
        b"HTTP/1.1 200 OK\r\n\r\nno json",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\n\r\n[1]",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
    ],
    ids=["nothing", "noise", "no json", "cut off", "no object", "deep"],
)
async def test_an_answer_that_is_none_of_the_daemons_is_said_so(box: Box, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(box.socket)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        result = await run(box, "status")
        server.join()
    assert result.exit_code == 2
    assert result.output.startswith(f"architect: what answers on {box.socket} is not architectd")
    assert result.output.count("\n") == 1


def test_help_imports_nothing_that_it_does_not_show() -> None:
    script = (
        "import sys\nsys.argv = ['architect', '--help']\n"
        "try:\n    from architect.cli import main; main()\n"
        "finally:\n    heavy = ('rich', 'http.client', 'ssl', 'asyncio', 'aiohttp', 'architect.gate')\n"
        "    print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "hibernate" in done.stdout
    assert done.stderr.strip() == "[]"


def test_what_a_terminal_would_obey_is_not_printed() -> None:
    assert printable("a\x1b[2Jb\r\n\u202ec é") == "a?[2Jb???c é"
