"""The program from outside: how it ends, and says that it cannot begin."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from controlplane.arguments import parse

SECONDS = 60


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KUBERNETES_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "controlplane", *arguments, stderr=asyncio.subprocess.PIPE, env=environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize(
    ("arguments", "says"), [([], "KUBERNETES_SERVICE_HOST"), (["--kubeconfig=/none"], "/none")]
)
async def test_it_ends_with_the_reason_when_it_cannot_serve(arguments: list[str], says: str) -> None:
    async with program(*arguments) as process, asyncio.timeout(SECONDS):
        assert process.stderr
        said = json.loads(await process.stderr.readline())
        assert said["message"] == "cannot serve"
        assert says in said["reason"]
        assert await process.wait() == 1


async def test_it_can_be_ended_before_there_is_an_api_server(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(
        json.dumps(
            {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "x"}}],
                "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:9"}}],
            }
        )
    )
    async with program(f"--kubeconfig={kubeconfig}") as process, asyncio.timeout(SECONDS):
        assert process.stderr
        said = json.loads(await process.stderr.readline())
        assert said["message"] == "authorities could not be looked after"
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


@pytest.mark.parametrize("arguments", [["--port=70000"], ["--log-level=loud"], ["--secrets=x"]])
def test_arguments_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
