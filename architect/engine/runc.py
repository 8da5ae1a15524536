"""runc, driven by its command line: makes, starts, changes and deletes the container that CRIU dumps and
restores.

runc knows nothing of sleep: its state file goes on naming a container, and `adopt` writes the pid of the
restored process into it, so that `runc exec`, `update` and `delete` go on working. The alternative, `runc
checkpoint` and `runc restore`, removes the cgroup that cAdvisor reads and can not be stopped at the last
moment.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from architect.engine.children import Children
from architect.engine.errors import EngineError

COMMAND_SECONDS: Final = 60.0
CHECKPOINT_SECONDS: Final = 120.0
# Our own CRIU first: runc looks for it by name, and a distribution's may be too old for this kernel.
ENVIRONMENT: Final = {
    "PATH": "/opt/architect/criu:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C",
}

_serial = itertools.count()


@dataclass(frozen=True, slots=True)
class Runc:
    """One container, as runc sees it."""

    children: Children
    binary: str
    root: str
    bundle: str
    container_id: str
    systemd_cgroup: bool = False

    async def create(self, streams: Mapping[int, int], pid_file: str, flags: Sequence[str] = ()) -> int:
        """`runc create` with standard streams `streams` (0-2 to our descriptors); returns the init's pid."""
        argv = ["create", "--bundle", self.bundle, "--pid-file", pid_file, *flags, self.container_id]
        await self._run(argv, streams)
        return _read_pid(pid_file)

    async def start(self) -> None:
        """`runc start`: lets the created process execute its program."""
        await self._run(["start", self.container_id])

    async def exec(
        self, streams: Mapping[int, int], process: bytes, pid_file: str, flags: Sequence[str] = ()
    ) -> int:
        """`runc exec` of the OCI process document `process`; returns the new process's pid."""
        with self._scratch("exec", process) as document:
            argv = [
                "exec",
                "--detach",
                "--process",
                document,
                "--pid-file",
                pid_file,
                *flags,
                self.container_id,
            ]
            await self._run(argv, streams)
        return _read_pid(pid_file)

    async def pause(self) -> None:
        """`runc pause`: freezes the container."""
        await self._run(["pause", self.container_id])

    async def resume(self) -> None:
        """`runc resume`: thaws it."""
        await self._run(["resume", self.container_id])

    async def update(self, resources: bytes) -> None:
        """`runc update` with an OCI LinuxResources document."""
        with self._scratch("update", resources) as document:
            await self._run(["update", "--resources", document, self.container_id])

    async def delete(self, *, force: bool) -> None:
        """`runc delete`: removes cgroup and state; with `force` kills first and is content with nothing
        there.
        """
        await self._run(["delete", *(["--force"] if force else []), self.container_id])

    async def checkpoint(self, image: str, work: str, flags: Sequence[str]) -> None:
        """`runc checkpoint` into directory `image`, CRIU's log into `work`; ends the container unless a flag
        says `--leave-running`.
        """
        argv = ["checkpoint", "--image-path", image, "--work-path", work, *flags, self.container_id]
        await self._run(argv, seconds=CHECKPOINT_SECONDS)

    async def restore(
        self, image: str, work: str, streams: Mapping[int, int], pid_file: str, flags: Sequence[str] = ()
    ) -> int:
        """`runc restore` of what `checkpoint` wrote: makes and runs the container; returns the init's pid."""
        argv = ["restore", "--detach", "--no-subreaper", "--bundle", self.bundle, "--pid-file", pid_file]
        argv += ["--image-path", image, "--work-path", work, *flags, self.container_id]
        await self._run(argv, streams, seconds=CHECKPOINT_SECONDS)
        return _read_pid(pid_file)

    async def _run(
        self,
        argv: Sequence[str],
        streams: Mapping[int, int] | None = None,
        seconds: float = COMMAND_SECONDS,
    ) -> None:
        """Runs one runc command. Raises EngineError with the reason from runc's own log when it fails."""
        with self._scratch("log", b"") as log:
            head = [self.binary, "--root", self.root, "--log", log, "--log-format", "json"]
            head += ["--systemd-cgroup"] if self.systemd_cgroup else []
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            try:
                fds = {0: null, 1: null, 2: null, **(streams or {})}
                ended = await self.children.run([*head, *argv], fds=fds, env=ENVIRONMENT, seconds=seconds)
            finally:
                os.close(null)
            if ended.code != 0:
                reason = _last_error(log) or f"exit status {ended.code}"
                raise EngineError(f"runc {argv[0]} failed: {reason}")

    @contextlib.contextmanager
    def _scratch(self, purpose: str, content: bytes) -> Iterator[str]:
        """A file in the bundle for one command (`tempfile` costs half a megabyte of imports)."""
        path = f"{self.bundle}/architect-{purpose}-{next(_serial)}.json"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
            yield path
        finally:
            os.unlink(path)

    def adopt(self, pid: int) -> None:
        """Makes `pid` the init process in runc's state file. Raises EngineError when that file is not as
        expected.
        """
        path = Path(self.root, self.container_id, "state.json")
        try:
            # While runc's start would have it, runc takes the container for one that was never started.
            path.with_name("exec.fifo").unlink(missing_ok=True)
            state: dict[str, Any] = json.loads(path.read_text())
            state["init_process_pid"] = pid
            state["init_process_start"] = start_time(pid)
            own = state["namespace_paths"]
            state["namespace_paths"] = {
                kind: f"/proc/{pid}/ns/{os.path.basename(old)}" for kind, old in own.items()
            }
            temporary = path.with_name("state.json.architect")
            temporary.write_text(json.dumps(state))
            temporary.chmod(0o600)
            temporary.rename(path)
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise EngineError(
                f"cannot tell runc the new process of {self.container_id} in {path}: {error}"
            ) from error


def locate(name: str) -> str:
    """The path of an OCI runtime that containerd's configuration may name without one; "": runc."""
    name = name or "runc"
    if "/" in name:
        return name
    folders = f"{os.environ.get('PATH', '')}:{ENVIRONMENT['PATH']}".split(":")
    candidates = [os.path.join(folder, name) for folder in folders if folder.startswith("/")]
    return next((path for path in candidates if os.access(path, os.X_OK)), f"/usr/sbin/{name}")


def start_time(pid: int) -> int:
    """When process `pid` started, in clock ticks since boot (field 22 of /proc/<pid>/stat, proc(5))."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return int(text[text.rindex(")") + 2 :].split(" ")[19])


def _read_pid(path: str) -> int:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise EngineError(f"runc left no pid in {path}: {error}") from error


def _last_error(path: str) -> str:
    """The message of the last error in a runc JSON log; "" when there is none."""
    message = ""
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
            message = str(entry.get("msg", ""))
    return message
