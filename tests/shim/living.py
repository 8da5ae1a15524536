"""A shim process of the tests' own, with a container under runc in it: spoken to and looked at from outside.

No containerd: a thread here takes the events. Only what a client of its socket or `/proc` can see is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from architect.ttrpc import containerd, frames, shim_v1
from architect.ttrpc.codec import decode, encode
from architect.ttrpc.rpc import Request, Response, RpcError, error_of
from architect.ttrpc.server import Method, Server

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0  # for anything that must happen; never measured against
LIVE = "living"
NEEDS_RUNC = pytest.mark.skipif(not os.access("/usr/sbin/runc", os.X_OK), reason="needs runc")
_SERVE = """
import json, socket, sys
from shim.zygote import Post, become_shim
become_shim(Post(**json.loads(sys.argv[1])), socket.socket(fileno=int(sys.argv[2])))
"""

Forward = Method[containerd.ForwardRequest, containerd.Empty]


def spec(*argv: str, **linux: Any) -> dict[str, Any]:
    """An OCI spec that runs a program of this machine in a root file system of links to them."""
    return {
        "ociVersion": "1.0.2",
        "process": {"args": list(argv), "cwd": "/", "env": ["PATH=/usr/bin"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
            "cgroupsPath": f"/living-{os.getpid()}",
            **linux,
        },
    }


def make_bundle(directory: Path, config: object) -> str:
    """A bundle with this config.json (bytes: as they are) and a root file system that programs run in."""
    for link, target in (("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")):
        (directory / "rootfs").mkdir(parents=True, exist_ok=True)
        (directory / "rootfs" / link).symlink_to(target)
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    (directory / "config.json").write_bytes(text)
    return str(directory)


ARENAS = 2 << 20
"""Bytes. Python takes memory by the MiB (an arena) and gives one back only when all in it is free."""


class Usage(NamedTuple):
    """What a process holds: private memory in bytes, descriptors, threads, children, mounts in sight."""

    private: int
    descriptors: int
    threads: int
    children: int
    mounts: int


class Line:
    """One connection to a shim: whole calls, or bytes without manners."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(SECONDS)
        self._socket.connect(path)
        self._parser = frames.FrameParser()
        self._stream = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()  # the shim, too, has closed its end then
        self._socket.close()

    def say(self, pieces: Sequence[bytes]) -> None:
        """Sends bytes in these pieces, as long as the other end listens."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                self._socket.sendall(piece)

    def hang_up(self) -> list[frames.Frame]:
        """Ends our half; the frames that came until the other end did the same."""
        found = []
        with contextlib.suppress(ConnectionResetError, BrokenPipeError, OSError):
            self._socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while data := self._socket.recv(1 << 16):
                found += self._parser.feed(data)
        return found

    def ask(self, service: str, method: str, payload: bytes, nanos: int = 0) -> Response:
        """One call with any payload; its response."""
        self._stream += 2
        request = Request(service, method, payload, nanos)
        self._socket.sendall(frames.pack(self._stream, frames.REQUEST, 0, encode(request)))
        while True:
            for frame in self._parser.feed(self._socket.recv(1 << 16) or _ended()):
                assert (frame.stream, frame.kind) == (self._stream, frames.RESPONSE)
                return decode(Response, frame.payload)

    def call[R](
        self, method: str, request: object, response: type[R], service: str = containerd.TASK_V3
    ) -> R:
        """One proper call. Raises RpcError."""
        answer = self.ask(service, method, encode(request))
        if error := error_of(answer.status):
            raise error
        return decode(response, answer.payload)


def _ended() -> bytes:
    raise ConnectionError("the shim hung up")


@dataclass(slots=True)
class Living:
    """A serving shim."""

    directory: Path
    pid: int
    init: int = 0
    _told: int = 0

    @property
    def path(self) -> str:
        return str(self.directory / "shim.sock")

    def line(self) -> Line:
        return Line(self.path)

    def hear(self, pieces: Sequence[bytes]) -> list[frames.Frame]:
        """Says these bytes on a connection of their own."""
        with self.line() as line:
            line.say(pieces)
            return line.hang_up()

    def answers(self) -> None:
        """Asserts that it serves as ever: the same process, its container as it was, no bug met."""
        with self.line() as line:
            connected = line.call(
                "Connect", containerd.ConnectRequest(LIVE), containerd.ConnectResponse, containerd.TASK_V2
            )
            assert (connected.shim_pid, connected.task_pid) == (self.pid, self.init)
            state = line.call("State", containerd.StateRequest(LIVE), containerd.StateResponse)
            assert (state.id, state.pid, state.status) == (LIVE, self.init, containerd.Status.RUNNING)
            told = line.call("Describe", shim_v1.DescribeRequest(), shim_v1.DescribeResponse, shim_v1.SERVICE)
            assert [(found.id, found.phase) for found in told.containers] == [(LIVE, "RUNNING")]
        assert self.complaints() == []

    def complaints(self) -> list[str]:
        """What it has logged as an error since last asked: calls that met a bug, tasks that failed."""
        text = (self.directory / "living" / "log").read_text()
        lines, self._told = text[self._told :].splitlines(), len(text)
        return [line.replace("\\n", "\n") for line in lines if "level=error" in line]

    def usage(self) -> Usage:
        """What it holds."""
        return usage(self.pid)

    def holds_no_more_than(self, before: Usage, private: int) -> None:
        """Asserts that it comes back to what it held, with at most `private` bytes more."""
        holds_no_more_than(self.pid, before, private)


def usage(pid: int) -> Usage:
    """What process `pid` holds, as the kernel counts."""
    proc = Path(f"/proc/{pid}")
    memory = dict(line.split(":", 1) for line in (proc / "smaps_rollup").read_text().splitlines()[1:])
    private = sum(int(memory[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))
    threads = os.listdir(proc / "task")
    return Usage(
        private << 10,
        len(os.listdir(proc / "fd")),
        len(threads),
        sum(len((proc / "task" / each / "children").read_text().split()) for each in threads),
        len((proc / "mountinfo").read_text().splitlines()),
    )


def holds_no_more_than(pid: int, before: Usage, private: int) -> None:
    """Asserts that `pid` comes back to what it held, with at most `private` bytes more."""
    await_true(lambda: usage(pid)[1:] == before[1:], lambda: f"{before} again, not {usage(pid)}")
    grown = usage(pid).private - before.private
    assert grown <= private, f"it holds {grown >> 10} KiB more than before"


def await_true(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)


@contextlib.contextmanager
def living() -> Iterator[Living]:
    """A shim that serves one running container."""
    with tempfile.TemporaryDirectory(dir="/run") as made, _events(f"{made}/events.sock") as events:
        directory = Path(made)
        bundle = make_bundle(directory / "living", spec("/bin/sleep", "infinity"))
        (directory / "living" / "log").touch()
        with _serving(directory, events) as shim, shim.line() as line:
            options = containerd.pack(containerd.Options(root=f"{made}/runc"))
            line.call("Create", containerd.CreateTaskRequest(LIVE, bundle, options=options), containerd.Empty)
            shim.init = line.call("Start", containerd.StartRequest(LIVE), containerd.StartResponse).pid
            try:
                yield shim
            finally:
                _end(shim)


@contextlib.contextmanager
def _serving(directory: Path, events: str) -> Iterator[Living]:
    post = {
        "namespace": "test",
        "group": LIVE,
        "bundle": str(directory / "living"),
        "socket_path": str(directory / "shim.sock"),
        "events_address": events,
        "debug": False,
    }
    with socket.socket(socket.AF_UNIX) as listener, open(directory / "stderr", "wb") as stderr:
        listener.bind(str(directory / "shim.sock"))
        listener.listen(64)
        number = listener.fileno()
        argv = [sys.executable, "-c", _SERVE, json.dumps(post), str(number)]
        process = subprocess.Popen(argv, pass_fds=[number], cwd=ROOT, stderr=stderr)
    try:
        yield Living(directory, process.pid)
        process.wait(SECONDS)
    finally:
        process.kill()
        process.wait()


def _end(shim: Living) -> None:
    """Has the container killed and deleted, and the shim end, all by its own calls."""
    with shim.line() as line:
        with contextlib.suppress(RpcError):
            line.call("Kill", containerd.KillRequest(LIVE, signal=9, all=True), containerd.Empty)
        line.call("Wait", containerd.WaitRequest(LIVE), containerd.WaitResponse)
        line.call("Delete", containerd.DeleteRequest(LIVE), containerd.DeleteResponse)
        line.call("Shutdown", containerd.ShutdownRequest(LIVE), containerd.Empty)


@contextlib.contextmanager
def _events(path: str) -> Iterator[str]:
    """The address of somebody who takes every event, as containerd would."""
    ready, loop, done = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def take(_request: containerd.ForwardRequest) -> containerd.Empty:
        return containerd.Empty()

    async def serve() -> None:
        server = Server({containerd.EVENTS: {"Forward": Forward(containerd.ForwardRequest, take)}})
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        await server.start(sock)
        ready.set()
        await done.wait()
        await server.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(SECONDS)
    try:
        yield path
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(SECONDS)
