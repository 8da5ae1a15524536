"""Driving shims and a daemon in a box: what tests, demo and benches share. Runs inside the box."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from architect.ttrpc import shim_v1
from architect.ttrpc.client import Client
from hack.cri import SLOWNESS, Container, Pod

SECONDS = 60.0 * SLOWNESS
SHIMS = "/run/architect/shims"
API = "/run/architect/architectd.sock"
DAEMON_LOG = "/var/log/architectd.log"


def shim_socket(pod: Pod) -> str:
    """The socket of the shim that serves a pod."""
    return f"{SHIMS}/k8s.io-{pod.id}.sock"


def describe(pod: Pod) -> shim_v1.DescribeResponse:
    """The pod as its shim sees it."""
    return _call(pod, "Describe", shim_v1.DescribeRequest(), shim_v1.DescribeResponse)


def status(container: Container) -> shim_v1.ContainerStatus:
    """The container as its shim sees it."""
    return next(found for found in describe(container.pod).containers if found.id == container.id)


def hibernate(container: Container) -> shim_v1.ContainerStatus:
    """Puts a container to sleep, as the daemon would. Raises RpcError with the shim's sentence."""
    request = shim_v1.HibernateRequest(container_id=container.id)
    answer = _call(container.pod, "Hibernate", request, shim_v1.HibernateResponse)
    assert answer.status is not None
    return answer.status


def wake(container: Container, cause: str = "request") -> shim_v1.ContainerStatus:
    """Wakes a container, as the daemon would."""
    request = shim_v1.WakeRequest(container_id=container.id, cause=cause)
    answer = _call(container.pod, "Wake", request, shim_v1.WakeResponse)
    assert answer.status is not None
    return answer.status


def await_phase(container: Container, *phases: str, seconds: float = SECONDS) -> shim_v1.ContainerStatus:
    """The container's status once it is in one of `phases`, told by its shim.

    AssertionError if never: with what the shim says of it then, and what the daemon has logged last.
    """

    async def watch() -> shim_v1.ContainerStatus:
        client = await Client.connect(shim_socket(container.pod), timeout=seconds)
        try:
            request = shim_v1.WatchRequest()
            async with asyncio.timeout(seconds):
                async for event in client.stream(shim_v1.SERVICE, "Watch", request, shim_v1.WatchEvent):
                    found = event.status
                    if found is not None and found.id == container.id and found.phase in phases:
                        return found
        finally:
            await client.close()
        raise ConnectionError("the shim stopped telling")

    try:
        return asyncio.run(watch())
    except TimeoutError:
        log = Path(DAEMON_LOG)
        told = log.read_text()[-3000:] if log.exists() else "nothing"
        found = f"never {' or '.join(phases)}: {status(container)}; the daemon: {told}"
    raise AssertionError(found)


def _call[R](pod: Pod, method: str, request: object, response: type[R]) -> R:
    async def call() -> R:
        client = await Client.connect(shim_socket(pod), timeout=SECONDS)
        try:
            return await client.call(shim_v1.SERVICE, method, request, response, timeout=SECONDS)
        finally:
            await client.close()

    return asyncio.run(call())


def await_true(condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Returns when `condition` holds: for things that nobody announces. AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.01)


class Daemon:
    """An `architectd` of this box; a context that ends it."""

    def __init__(self, *arguments: str, log: str = DAEMON_LOG) -> None:
        self._arguments = arguments
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it and returns when it answers."""
        with open(self._log, "ab") as log:
            argv = [sys.executable, "-m", "daemon", *self._arguments]
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        await_true(self._answers, "the daemon answers")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended: {self.log()[-2000:]}"
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(API)
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        """What it has logged."""
        return Path(self._log).read_text()

    def kill(self) -> None:
        """Kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, as Kubernetes would."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, number)
            self.process.wait(SECONDS)
        self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
