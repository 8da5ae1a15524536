"""Drives a shim binary the way containerd does, and writes down everything that can be seen from outside.

One `Shim` is one pod served by one binary: containerd's own, ours, or ours with its container asleep where a
case says `doze`. What it leaves to others: the cases, which run once with each. The trap: pids, times and
paths differ from run to run, so they are written down by what they mean.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from architect.ttrpc import containerd, shim_v1
from architect.ttrpc.client import Client, RpcError
from architect.ttrpc.codec import decode
from architect.ttrpc.server import Method, Server
from tests.node.conftest import managed
from tests.node.differences import FILES
from tests.node.fifos import SECONDS, Fifo, Logged, Streams, process

BINARIES: Final = {
    "runc": "/usr/bin/containerd-shim-runc-v2",
    "ours": "/opt/architect/bin/containerd-shim-runc-architect-v1",
    "asleep": "/opt/architect/bin/containerd-shim-runc-architect-v1",
}
Events = list[tuple[str, Any]]
_NEVER: Final = containerd.Timestamp(seconds=-62135596800)  # Go's zero time, which containerd's shim sends
_EVENTS: Final = {topic: message for message, topic in containerd.TOPICS.items()}
_SCRATCH: Final = Path("/run/parity")
_CGROUPS: Final = Path("/sys/fs/cgroup")


class Shim:
    """One pod on one shim binary, with a transcript of what was asked and seen: (entry, what it was)."""

    def __init__(self, kind: str, case: str) -> None:
        self.kind = kind
        self.namespace = f"parity-{kind}"
        self.pod = f"{case}-{kind}".replace("_", "-")[:60]
        self.home = _SCRATCH / self.pod
        self.transcript: dict[str, Any] = {}
        self.events: list[tuple[str, Any]] = []
        self.ids: list[str] = []
        self.options: containerd.Any | None = None
        self.version = 3  # of the Task service that containerd speaks at most; 1.7 knows 2
        self.streams: dict[str, Any] = {}
        self._names: dict[int, str] = {}
        self._news = asyncio.Event()
        self._client: Client | None = None
        self._service = ""
        self._address = ""
        self._pid = 0
        self._deletes = 0
        forward = Method(containerd.ForwardRequest, self._forward)
        self._server = Server({containerd.EVENTS: {"Forward": forward}})
        self._log: Fifo | None = None

    async def __aenter__(self) -> Self:
        for name in ("fifos", "bundles"):
            (self.home / name).mkdir(parents=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{self.home}/events.sock")
        listener.listen(16)
        await self._server.start(listener)
        _command(["ip", "netns", "add", self.pod])
        return self

    async def __aexit__(self, *_: object) -> None:
        """Removes whatever is left, after a case that failed too; processes and mounts first."""
        for streams in self.streams.values():
            streams.close()
        if self._log is not None:
            self._log.close()
        if self._client is not None:
            await self._client.close()
        if self._pid and Path(f"/proc/{self._pid}").exists():
            os.kill(self._pid, 9)
        await self._server.close()
        for path in self._mounts():
            _command(["umount", "-l", path])
        _command(["ip", "netns", "del", self.pod])
        shutil.rmtree(self.home)

    # ---- what a case does

    def bundle(self, name: str, *args: str, terminal: bool = False, **spec: object) -> Path:
        """A bundle of container `name` that runs `args`; `spec` replaces parts of its config.json."""
        path = self.home / "bundles" / self.full(name)  # containerd's shim takes it for the id
        (path / "work").mkdir(parents=True)  # where containerd lets a shim put CRIU's logs
        (path / "config.json").write_text(json.dumps({**self._spec(name, args, terminal), **spec}))
        return path

    async def launch(self, bundle: Path) -> None:
        """Has the binary `start` a shim for the bundle, as before each Create."""
        if self._log is None:
            self._log = Fifo(bundle / "log")
        command = [BINARIES[self.kind], *self._flags(bundle), "start"]
        code, answer = await self._run(command, bundle)
        assert code == 0, f"{command} ended with {code}"
        text = answer.decode().strip()
        # The shim of containerd 1.7 answers with the bare address.
        told: dict[str, Any] = json.loads(text) if text.startswith("{") else {"version": 2, "address": text}
        self._service = {2: containerd.TASK_V2, 3: containerd.TASK_V3}[told["version"]]
        self._address = told["address"].removeprefix("unix://")
        if self._client is None:
            self._client = await Client.connect(self._address, timeout=SECONDS)
        self.note("start command", told["address"][:7])

    async def create(
        self,
        name: str,
        *args: str,
        terminal: bool = False,
        stdin: bool = False,
        io: str = "",
        mounts: Sequence[containerd.Mount] | None = None,
        **spec: object,
    ) -> Any:
        """Bundle, shim and Create of a container that runs `args`."""
        bundle = self.bundle(name, *args, terminal=terminal, **spec)
        await self.launch(bundle)
        self.ids.append(name)
        return await self.create_in(bundle, name, terminal=terminal, stdin=stdin, io=io, mounts=mounts)

    async def create_in(
        self,
        bundle: Path,
        name: str,
        *,
        terminal: bool = False,
        stdin: bool = False,
        io: str = "",
        mounts: Sequence[containerd.Mount] | None = None,
        **more: Any,
    ) -> Any:
        """The Create call alone, over fresh FIFOs (or what `io` names)."""
        key = name if name not in self.streams else f"{name}-{len(self.streams)}"
        streams = self._open(key, stdin=stdin, terminal=terminal, io=io)
        answer = await self.call(
            "Create",
            id=self.full(name),
            bundle=str(bundle),
            rootfs=list(self.rootfs() if mounts is None else mounts),
            options=self.options,
            **streams.uris,
            **more,
        )
        if answer is not None:
            self._names[answer.pid] = f"init of {name}"
        return answer

    def _open(self, key: str, *, stdin: bool, terminal: bool, io: str) -> Any:
        place = self.home / "fifos"
        opened: Streams | Logged
        if io:
            opened = Logged(place, key, io, terminal=terminal)
        else:
            opened = Streams(place, key, stdin=stdin, terminal=terminal)
        self.streams[key] = opened
        return opened

    async def run(self, name: str, *args: str, **options: Any) -> Any:
        """Creates and starts a container."""
        await self.create(name, *args, **options)
        await self.call("Start", id=self.full(name))
        return self.streams[name]

    async def exec(
        self,
        name: str,
        exec_id: str,
        *args: str,
        terminal: bool = False,
        stdin: bool = False,
        io: str = "",
        start: bool = True,
    ) -> Any:
        """Exec and Start of a process in container `name`."""
        streams = self._open(f"{name}.{exec_id}", stdin=stdin, terminal=terminal, io=io)
        spec = containerd.Any(
            type_url="types.containerd.io/opencontainers/runtime-spec/1/Process",
            value=json.dumps(process(args, terminal)).encode(),
        )
        await self.call("Exec", id=self.full(name), exec_id=exec_id, spec=spec, **streams.uris)
        if start:
            answer = await self.call("Start", id=self.full(name), exec_id=exec_id)
            if answer is not None:
                self._names[answer.pid] = f"exec {exec_id}"
        return streams

    async def call(self, method: str, *, silent: bool = False, **fields: Any) -> Any:
        """One Task call, written down with its answer or error code; None after an error."""
        request_class, response_class = containerd.TASK_METHODS[method]
        entry = " ".join([method, *(str(fields[key]) for key in ("id", "exec_id") if key in fields)])
        entry = self._plain(entry)
        assert self._client is not None
        try:
            answer = await self._client.call(
                self._service, method, request_class(**fields), response_class, timeout=SECONDS
            )
        except RpcError as error:
            if not silent:
                self.note(entry, error.code.name)
            return None
        pid = getattr(answer, "pid", 0)
        if method in ("Create", "Start") and pid:
            what = (
                f"exec {fields['exec_id']}"
                if fields.get("exec_id")
                else f"init of {self._plain(fields['id'])}"
            )
            self._names[pid] = what
        if method == "Connect":
            self._names[answer.shim_pid], self._pid = "shim", answer.shim_pid
        if method == "Delete" and not fields.get("exec_id"):
            self._deletes += 1
        if not silent:
            self.note(entry, self.told(answer))
        if self.kind == "asleep" and not silent and method not in ("State", "Delete"):
            await self._new_pid(fields["id"])
        return answer

    async def _new_pid(self, container_id: str) -> None:
        """Learns the pid that a wake has given the init."""
        request = containerd.StateRequest(id=container_id)
        assert self._client is not None
        try:
            state = await self._client.call(
                self._service, "State", request, containerd.StateResponse, timeout=SECONDS
            )
        except RpcError:
            return  # there is no such container in this case
        self._names.setdefault(state.pid, f"init of {self._plain(container_id)}")

    async def _all_deletes(self) -> None:
        """Waits for the last events: containerd's shim drops those it has not sent when it is shut down."""
        async with asyncio.timeout(SECONDS):
            while sum(topic == "/tasks/delete" for topic, _ in self.events) < self._deletes:
                self._news.clear()
                await self._news.wait()

    async def doze(self, name: str) -> None:
        """Here the container falls asleep, on the third of the runs."""
        if self.kind != "asleep":
            return
        request = shim_v1.HibernateRequest(container_id=self.full(name))
        await self.ask("Hibernate", request, shim_v1.HibernateResponse)

    async def ask(self, method: str, request: object, response: type[Any]) -> Any:
        """A call of our own service."""
        assert self._client is not None
        return await self._client.call(shim_v1.SERVICE, method, request, response, timeout=SECONDS)

    async def end(self, name: str, number: int = 9) -> None:
        """Kill, Wait and Delete."""
        await self.call("Kill", id=self.full(name), signal=number)
        await self.call("Wait", id=self.full(name))
        await self.call("Delete", id=self.full(name))

    def full(self, name: str) -> str:
        """The id of container `name`: the node's runs must not meet in cgroups and runc's state."""
        return f"{self.pod}.{name}"

    def note(self, entry: str, what: Any) -> None:
        """Writes one thing down; the same entry again gets a number."""
        number, unique = 1, entry
        while unique in self.transcript:
            number += 1
            unique = f"{entry} ({number})"
        self.transcript[unique] = what

    async def finish(self) -> dict[str, Any]:
        """Ends everything as containerd would, and tells what was seen and what is left."""
        if self.ids:
            await self.call("Connect", silent=True, id=self.full(self.ids[0]))
        for name in self.ids:
            if await self.call("Kill", silent=True, id=self.full(name), signal=9, all=True) is not None:
                await self.call("Wait", silent=True, id=self.full(name))
            await self.call("Delete", silent=True, id=self.full(name))
        if self._client is not None:
            await self._all_deletes()
            try:
                await self.call("Shutdown", silent=True, id=self.pod)
            except ConnectionError:
                pass  # containerd's shim may have ended before its answer was on its way
            async with asyncio.timeout(SECONDS):
                await self._client.closed.wait()
        for name in self.ids:
            bundle = self.home / "bundles" / self.full(name)
            code, answer = await self._run([BINARIES[self.kind], *self._flags(bundle), "delete"], bundle)
            self.note(f"delete command {name}", code or self.told(decode(containerd.DeleteResponse, answer)))
        events = self.events if self.kind != "runc" else _ends_first(self.events)
        self.note("events", [f"{topic} {self.told(event)}" for topic, event in events])
        for name, streams in sorted(self.streams.items()):
            self.note(f"output of {name}", streams.out.bytes.replace(self.pod.encode(), b"POD"))
            self.note(f"errors of {name}", streams.err.bytes if streams.err is not None else None)
        self.note("left: mounts", [self._plain(path) for path in self._mounts() if "/bundles/" in path])
        self.note(
            "left: cgroups", [self._plain(str(path)) for path in sorted(_CGROUPS.rglob(f"{self.pod}.*"))]
        )
        self.note("left: socket", bool(self._address) and os.path.lexists(self._address))
        self.note(
            "left: runc state",
            [
                self._plain(path.name)
                for path in Path("/run/containerd/runc", self.namespace).glob(f"{self.pod}.*")
            ],
        )
        self.note("left: processes", self._processes())
        for name in self.ids:
            files = sorted(path.name for path in (self.home / "bundles" / self.full(name)).iterdir())
            files = [file for file in files if file not in FILES]
            self.note(f"left: bundle {name}", files)
        return self.transcript

    # ---- how it is written down

    def told(self, message: Any) -> Any:
        """A message by what it means: pids by name, moments by whether they are set, without defaults."""
        if isinstance(message, list):
            return [self.told(item) for item in message]
        if isinstance(message, containerd.Timestamp):
            return "set"
        if isinstance(message, containerd.Any):
            if message.type_url.endswith("ProcessDetails"):
                return self.told(decode(containerd.ProcessDetails, message.value))
            return message.type_url
        if not dataclasses.is_dataclass(message):
            return self._plain(message) if isinstance(message, str) else message
        found = {}
        for field in dataclasses.fields(message):
            value = getattr(message, field.name)
            if value in (None, 0, "", [], {}) or value == _NEVER:
                continue
            found[field.name] = self._who(value) if field.name.endswith("pid") else self.told(value)
        return found

    def _who(self, pid: int) -> str:
        if pid not in self._names:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                inner = next(line.split()[-1] for line in status.splitlines() if line.startswith("NSpid"))
            except (OSError, StopIteration):
                return "a process that is gone"
            self._names[pid] = "init of c1" if inner == "1" else "another process"
        return self._names[pid]

    def _plain(self, text: str) -> str:
        return text.replace(str(self.home), "HOME").replace(f"{self.pod}.", "").replace(self.pod, "POD")

    async def _forward(self, request: containerd.ForwardRequest) -> containerd.Empty:
        envelope = request.envelope
        assert envelope is not None
        assert envelope.event is not None
        assert envelope.namespace == self.namespace
        event = decode(_EVENTS[envelope.topic], envelope.event.value)
        if isinstance(event, containerd.TaskCreate):
            self._names[event.pid] = f"init of {self._plain(event.container_id)}"
        if isinstance(event, containerd.TaskExecStarted):
            self._names[event.pid] = f"exec {event.exec_id}"
        self.told(event)  # learns whose pid it is, while that process lives
        self.events.append((envelope.topic, event))
        self._news.set()
        return containerd.Empty()

    def _mounts(self) -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        found = [line.split()[4] for line in lines]
        return [path for path in reversed(found) if path.startswith(f"{self.home}/")]

    def _processes(self) -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and entry.name != str(os.getpid()):
                try:
                    words = (entry / "cmdline").read_bytes().decode().split("\0")
                    cgroup = (entry / "cgroup").read_text()
                except (FileNotFoundError, ProcessLookupError):
                    continue  # it has just ended
                if f"/{self.pod}." in cgroup or f"{self.home}/" in " ".join(words):
                    found.append(self._plain(" ".join(words)))
        return found

    # ---- how containerd does it

    def _flags(self, bundle: Path) -> list[str]:
        flags = ["-namespace", self.namespace, "-address", f"{self.home}/containerd.sock"]
        return [*flags, "-publish-binary", "/bin/true", "-id", bundle.name, "-bundle", str(bundle)]

    async def _run(self, command: Sequence[str], directory: Path) -> tuple[int, bytes]:
        environment = {
            **os.environ,
            "TTRPC_ADDRESS": f"{self.home}/events.sock",
            "GRPC_ADDRESS": f"{self.home}/containerd.sock",
            "NAMESPACE": self.namespace,
            "MAX_SHIM_VERSION": str(self.version),
            "PATH": f"{os.environ['PATH']}:/opt/architect/criu",  # for the shim of a node without a CRIU
            "GOMAXPROCS": "2",
        }
        # Not by pipes: a shim that inherits them would keep them open.
        with (self.home / "answer").open("w+b") as answer:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=directory, env=environment, stdout=answer, stdin=asyncio.subprocess.DEVNULL
            )
            async with asyncio.timeout(SECONDS):
                code = await process.wait()
            answer.seek(0)
            return code, answer.read()

    def rootfs(self) -> list[containerd.Mount]:
        """The root file system of every container: this node's own."""
        # No overlay of our own: the box's root is one, and CRIU finds no file in an overlay over an overlay.
        return [containerd.Mount(type="bind", source="/", options=["bind", "ro"])]

    def _spec(self, name: str, args: Sequence[str], terminal: bool) -> dict[str, Any]:
        cri = "io.kubernetes.cri."
        annotations = {
            f"{cri}container-type": "container",
            f"{cri}container-name": name,
            f"{cri}sandbox-id": self.pod,
            f"{cri}sandbox-name": self.pod,
            f"{cri}sandbox-namespace": "default",
            f"{cri}sandbox-uid": self.pod,
        }
        if self.kind == "asleep":
            annotations |= managed("c1")
        namespaces: list[dict[str, str]] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
        namespaces.append({"type": "network", "path": f"/run/netns/{self.pod}"})
        return {
            "ociVersion": "1.1.0",
            "process": process(args, terminal),
            "root": {"path": "rootfs"},
            "hostname": "parity",
            "annotations": annotations,
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {
                    "destination": "/dev",
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "options": ["nosuid", "mode=755"],
                },
                {
                    "destination": "/dev/pts",
                    "type": "devpts",
                    "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
                },
                {
                    "destination": "/run",
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "options": ["nosuid", "mode=755"],
                },
                {
                    "destination": "/tmp",
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "options": ["nosuid", "mode=1777"],
                },
            ],
            "linux": {"namespaces": namespaces, "cgroupsPath": f"/parity/{self.full(name)}"},
        }


def _command(argv: list[str]) -> None:
    subprocess.run(argv, check=True, timeout=SECONDS)


def _ends_first(events: Events) -> Events:
    """The deletion of a container after its end: on a busy machine containerd's shim tells it before."""
    found: Events = []
    for topic, event in events:
        ends = topic == "/tasks/exit" and event.id == event.container_id
        # A name may be created again, so only a deletion that is the last word of this container.
        of_this = [i for i, (_, each) in enumerate(found) if each.container_id == event.container_id]
        late = ends and of_this and found[of_this[-1]][0] == "/tasks/delete"
        found.insert(of_this[-1] if late else len(found), (topic, event))
    return found
