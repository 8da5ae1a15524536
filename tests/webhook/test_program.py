"""The program from outside: how it starts, ends, and says that it cannot."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.webhook.asking import SERVICE, Asking
from tests.webhook.pods import pod
from webhook import tls
from webhook.arguments import parse
from webhook.certificates import Generation, make
from webhook.service import run

SECONDS = 60


def certified(directory: object) -> Generation:
    now = int(time.time())
    found = make([SERVICE], now, begins=now)
    for name, content in ((tls.CERTIFICATE, found.certificate), (tls.KEY, found.key)):
        with open(os.path.join(str(directory), name), "w", encoding="ascii") as file:
            file.write(content)
    return found


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KUBERNETES_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "webhook", *arguments, stderr=asyncio.subprocess.PIPE, env=environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_serves_with_given_certificates_until_it_is_told_to_end(tmp_path: object) -> None:
    generation = certified(tmp_path)
    async with program("--port=0", f"--certificate-dir={tmp_path}") as process, asyncio.timeout(SECONDS):
        assert process.stderr
        said = json.loads(await process.stderr.readline())
        assert said["message"] == "serving"
        asking = Asking(said["port"], generation.authority)
        assert (await asking.about(pod()))["allowed"]
        assert (await asking.get("/readyz"))[0] == 200
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_while_it_ends_it_answers_and_is_not_ready(tmp_path: object) -> None:
    generation = certified(tmp_path)
    settings = parse(["--port=0", f"--certificate-dir={tmp_path}"])
    ports: list[int] = []
    stop = asyncio.Event()
    running = asyncio.create_task(run(settings, stop, drain=SECONDS, serving=ports.append))
    while not ports:
        await asyncio.sleep(0)
        assert not running.done()
    asking = Asking(ports[0], generation.authority)
    assert (await asking.get("/readyz"))[0] == 200
    stop.set()
    assert (await asking.get("/readyz"))[0] == 503
    assert (await asking.about(pod()))["allowed"]
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--certificate-dir=/none"], "/none/tls.crt and /none/tls.key are no certificate and its key"),
        (["--self-signed"], "KUBERNETES_SERVICE_HOST"),
        (["--self-signed", "--kubeconfig=/none"], "/none"),
    ],
)
async def test_it_ends_with_the_reason_when_it_cannot_serve(arguments: list[str], says: str) -> None:
    async with program(*arguments) as process, asyncio.timeout(SECONDS):
        assert process.stderr
        said = json.loads(await process.stderr.readline())
        assert said["message"] == "cannot serve"
        assert says in said["reason"]
        assert await process.wait() == 1


async def test_it_can_be_ended_before_there_is_an_api_server(tmp_path: object) -> None:
    kubeconfig = os.path.join(str(tmp_path), "config")
    with open(kubeconfig, "w", encoding="ascii") as file:
        json.dump(
            {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "x"}}],
                "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:9"}}],
            },
            file,
        )
    async with (
        program("--port=0", "--self-signed", f"--kubeconfig={kubeconfig}") as process,
        asyncio.timeout(SECONDS),
    ):
        assert process.stderr
        said = json.loads(await process.stderr.readline())
        assert said["message"] == "certificates could not be looked after"
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


@pytest.mark.parametrize(
    "arguments", [[], ["--self-signed", "--certificate-dir=/x"], ["--self-signed", "--port=70000"]]
)
def test_arguments_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
