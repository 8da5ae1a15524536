"""The pods of a bench and the line to their shims: what times and costs are both measured on.

It leaves out what a test needs: an answer that is not the expected one ends the bench with its sentence.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from architect.ttrpc import shim_v1
from architect.ttrpc.client import Client, Code, RpcError
from hack.control import SECONDS, await_true, shim_socket
from hack.cri import Container, Cri, Pod

PORT: Final = 8080
ARCHITECT: Final = "runc-architect"
RUNC: Final = ""
"""The handler of containerd's own shim."""
_PREFIX: Final = "architect.loopholelabs.io/"
# Nothing but the bench puts containers to sleep.
_ANNOTATIONS: Final = {
    _PREFIX + "managed-containers": '["app"]',
    _PREFIX + "scaledown-durations": '{"app": "24h"}',
    _PREFIX + "network-monitor": '{"app": "packets"}',
}
_RETRIES: Final = 20
_names = itertools.count(1)


def make_pod(cri: Cri, runtime: str) -> Pod:
    """A pod without containers yet; the same under either runtime, but for the annotations."""
    notes = _ANNOTATIONS if runtime == ARCHITECT else {}
    return Pod(cri, f"bench-{next(_names)}", runtime=runtime, annotations=notes)


def start(pod: Pod, image: str, env: Mapping[str, str] | None = None) -> Container:
    """The container `app` of a pod, started."""
    return pod.start("app", image, ports=[PORT], env=env or {})


def first_byte(connection: socket.socket, address: tuple[str, int]) -> float:
    """Connects a TCP socket to a web server; milliseconds from before the first SYN to the first byte of an
    answer. Returns when the server has closed too: an open end would be activity to the next sleep. Raises
    OSError.
    """
    connection.settimeout(SECONDS)
    began = time.perf_counter()
    connection.connect(address)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
    data = connection.recv(1)
    took = (time.perf_counter() - began) * 1e3
    if data != b"H":
        raise ConnectionError(f"{address} answered {data!r}")
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(4096):
        pass
    return took


class Sleeper:
    """A container of the bench and a lasting connection to its shim."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.address = container.pod.addresses[0]
        self._runner = asyncio.Runner()
        self._client = self._runner.run(Client.connect(shim_socket(container.pod), timeout=SECONDS))

    def hibernate(self) -> float:
        """Puts it to sleep and returns how long the call took, in milliseconds.

        What still came for it (the last packet of a connection) keeps it awake: asked again then.
        """
        request = shim_v1.HibernateRequest(container_id=self.container.id)
        for _ in range(_RETRIES):
            began = time.perf_counter()
            try:
                answer = self._call("Hibernate", request, shim_v1.HibernateResponse)
            except RpcError as error:
                if error.code is not Code.ABORTED:
                    raise
                continue
            took = (time.perf_counter() - began) * 1e3
            if answer.status is None or answer.status.phase != "SCALED_DOWN":
                raise RuntimeError(f"{self.container.id} does not sleep: {answer.status}")
            return took
        raise RuntimeError(f"{self.container.id} was asked to sleep {_RETRIES} times and never did")

    def wake(self) -> None:
        """Wakes it through its shim."""
        request = shim_v1.WakeRequest(container_id=self.container.id, cause="request")
        self._call("Wake", request, shim_v1.WakeResponse)

    def first_byte(self) -> float:
        """Milliseconds from before the first SYN to the first byte of an answer. Raises OSError."""
        with socket.socket() as connection:
            return first_byte(connection, (self.address, PORT))

    def image(self) -> str:
        """The directory of its newest image. Raises FileNotFoundError when it has none."""
        home = f"/var/lib/architect/pods/{self.container.pod.uid}/{self.container.name}"
        numbers = [int(name) for name in os.listdir(home) if name.isdigit()]
        if not numbers:
            raise FileNotFoundError(home)
        return f"{home}/{max(numbers)}"

    def await_durable(self) -> None:
        """Waits until its image is on the disk: the shim writes on after a sleep, and a sleeper is rarely
        woken in that moment.
        """
        for folder, _, names in os.walk(self.image()):
            for name in names:
                with open(os.path.join(folder, name), "rb") as file:
                    os.fsync(file.fileno())

    def await_settled(self) -> None:
        """Waits until a wake has left nothing to be done: the image it woke from is removed last."""
        await_true(self._settled, f"the image of {self.container.id} is removed")

    def _settled(self) -> bool:
        try:
            self.image()
        except FileNotFoundError:
            return True
        return False

    def _call[R](self, method: str, request: object, response: type[R]) -> R:
        return self._runner.run(
            self._client.call(shim_v1.SERVICE, method, request, response, timeout=SECONDS)
        )

    def close(self) -> None:
        """Ends the connection; the container stays."""
        self._runner.run(self._client.close())
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
