"""The cgroup of one container, on hosts with cgroup v1 hierarchies or the unified v2 one.

Read here: where it is, who is in it, what it uses. Done here: freezing, thawing, killing, entering.
Creating and removing it stays with runc, which made it; limits too.

Trap: `/proc/<pid>/cgroup` names paths from the root of the reader's cgroup namespace, a mount may show only a
subtree of the hierarchy. The two are joined through `/proc/self/mountinfo`, never by gluing strings.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from architect.engine.errors import EngineError

FREEZE_SECONDS: Final = 10.0
_THAWED: Final = "THAWED"
_FROZEN: Final = "FROZEN"


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted cgroup hierarchy of this host: its controllers ("" for v2), mount point and mounted
    subtree.
    """

    controllers: frozenset[str]
    mountpoint: str
    root: str


def hierarchies(mountinfo: str) -> list[Hierarchy]:
    """The cgroup mounts in the text of a `mountinfo` file (proc(5)); v2 has the controller name ""."""
    found: list[Hierarchy] = []
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if not separator or len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            found.append(Hierarchy(frozenset({""}), _unescape(fields[4]), _unescape(fields[3])))
        elif kind[0] == "cgroup":
            names = {option.removeprefix("name=") for option in kind[2].split(",")} - {"rw", "ro", "xattr"}
            found.append(Hierarchy(frozenset(names), _unescape(fields[4]), _unescape(fields[3])))
    return found


def _unescape(path: str) -> str:
    """Undoes the octal escapes of mountinfo (space, tab, newline, backslash)."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, char)
    return path


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The directories of one cgroup: controller name to directory; on a v2 host one entry named ""."""

    paths: Mapping[str, str]

    @property
    def unified(self) -> bool:
        """Whether this is a v2 cgroup."""
        return "" in self.paths

    @classmethod
    def of(cls, pid: int) -> Cgroup:
        """The cgroup that process `pid` is in now. Raises EngineError when it is gone or none is mounted."""
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
            mounts = hierarchies(Path("/proc/self/mountinfo").read_text())
        except OSError as error:
            raise EngineError(f"cannot read the cgroup of process {pid}: {error}") from error
        unified = _is_v2("/sys/fs/cgroup", mounts)
        paths: dict[str, str] = {}
        for line in lines:
            _, names, path = line.split(":", 2)
            for controller in names.split(","):
                name = controller.removeprefix("name=")
                if unified != (name == ""):
                    continue
                directory = _directory(name, path, mounts)
                if directory is not None:
                    paths[name] = directory
        if not paths:
            raise EngineError(f"process {pid} is in no cgroup that is mounted here")
        return cls(paths)

    @property
    def freezer(self) -> str:
        """The directory whose freezer stops this cgroup."""
        path = self.paths.get("" if self.unified else "freezer")
        if path is None:
            raise EngineError("this host has no freezer cgroup mounted at /sys/fs/cgroup/freezer")
        return path

    def pids(self) -> list[int]:
        """Every process in this cgroup and below it, as seen from our pid namespace."""
        found: list[int] = []
        for directory, _, _ in os.walk(self.freezer if "freezer" in self.paths else self._any()):
            try:
                text = Path(directory, "cgroup.procs").read_text()
            except OSError:
                continue  # a cgroup that was removed while we walked has no processes
            found.extend(int(line) for line in text.split())
        return sorted({pid for pid in found if pid > 0})

    def _any(self) -> str:
        return next(iter(self.paths.values()))

    def enter(self) -> None:
        """Moves the calling process into this cgroup; used by a child between fork and exec."""
        for directory in self.paths.values():
            with open(f"{directory}/cgroup.procs", "w", encoding="ascii") as procs:
                procs.write("0")

    async def freeze(self) -> None:
        """Stops every process of this cgroup and returns when all have stopped.

        Frozen before CRIU comes, the container spares the dump CRIU's own 100 ms poll of the v1 freezer.
        Raises EngineError (and thaws) when a process cannot be stopped within FREEZE_SECONDS.
        """
        self._set_frozen(True)
        try:
            async with asyncio.timeout(FREEZE_SECONDS):
                # The v1 freezer has no notification, and a v2 freeze is over in microseconds: look, yield,
                # look.
                delay = 0.0
                while not self.frozen():
                    if delay and not self.pids():
                        raise EngineError("its processes have ended")
                    await asyncio.sleep(delay)
                    delay = min(delay + 0.0005, 0.01)
        except TimeoutError:
            self.thaw()
            raise EngineError(
                f"a process did not stop within {FREEZE_SECONDS:.0f} s (in disk sleep?)"
            ) from None
        except asyncio.CancelledError:
            self.thaw()
            raise

    def thaw(self) -> None:
        """Lets the processes run on; thawing what is not frozen is no error."""
        self._set_frozen(False)

    def frozen(self) -> bool:
        """Whether every process of this cgroup has stopped."""
        if self.unified:
            return "frozen 1" in Path(self.freezer, "cgroup.events").read_text()
        return Path(self.freezer, "freezer.state").read_text().strip() == _FROZEN

    def _set_frozen(self, frozen: bool) -> None:
        name = "cgroup.freeze" if self.unified else "freezer.state"
        value = ("1" if frozen else "0") if self.unified else (_FROZEN if frozen else _THAWED)
        try:
            Path(self.freezer, name).write_text(value)
        except FileNotFoundError:
            if frozen:
                raise EngineError(f"the cgroup {self.freezer} is gone") from None
        except OSError as error:
            raise EngineError(f"cannot write {value} to {self.freezer}/{name}: {error}") from error

    def kill(self, spare: Iterable[int] = ()) -> None:
        """Sends SIGKILL to every process here except `spare`, and thaws so that they die."""
        keep = set(spare)
        for pid in self.pids():
            if pid not in keep:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self.thaw()


def _is_v2(mountpoint: str, mounts: list[Hierarchy]) -> bool:
    """Whether the topmost mount at `mountpoint` is the unified hierarchy (a hybrid host has it elsewhere)."""
    for mount in reversed(mounts):
        if mount.mountpoint == mountpoint:
            return "" in mount.controllers
    return False


def _directory(controller: str, path: str, mounts: list[Hierarchy]) -> str | None:
    """The directory of cgroup `path` under the mount that shows it, or None."""
    for mount in mounts:
        if controller not in mount.controllers:
            continue
        if mount.root == "/":
            return os.path.normpath(f"{mount.mountpoint}/{path}")
        if path == mount.root or path.startswith(mount.root + "/"):
            return os.path.normpath(f"{mount.mountpoint}/{path[len(mount.root) :]}")
    return None


def resident_bytes(pids: Iterable[int]) -> int:
    """Anonymous and shared memory that `pids` hold resident, in bytes (RssAnon + RssShmem of proc(5))."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue  # ended while we looked: it holds nothing
        for line in text.splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total
