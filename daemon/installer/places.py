"""`/opt/architect` on a node: one folder per install, never changed, and a link to the newest.

    /opt/architect/<digest>/          interpreter, shim, CRIU, this installer
    /opt/architect/current            -> <digest>; containerd executes shims through it
    /opt/architect/installed.json     what the installer did to the node beyond this folder

A folder appears whole, by a rename, and stays as long as a process runs from it: the shim of a sleeping pod
needs its CRIU for the wake.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Self

from architect.images.layout import PART
from architect.ttrpc.node_v1 import PROMISE, SOCKET
from daemon.installer.errors import Refused

HOME: Final = "/opt/architect"
CURRENT: Final = HOME + "/current"
RECORD: Final = HOME + "/installed.json"
_LIB: Final = "/var/lib/architect"
STATE: Final = ("/run/architect", f"{_LIB}/pods", f"{_LIB}/arriving", "/var/log/architect")
"""What shims and daemon keep elsewhere."""
_COPIES: Final = (f"{_LIB}/leaving", f"{_LIB}/kept")
"""States of pods that have left, and that nobody has taken: somebody's only copies."""
_DIGEST: Final = re.compile(r"[0-9a-f]{12}")
_ZYGOTE: Final = "architect-zygote"[:15]  # as much of a name as the kernel keeps
_RECORD_VERSION: Final = 1


@dataclass(slots=True)
class Record:
    """What was done to the node; written before it is done."""

    version: int = _RECORD_VERSION
    config: str = ""
    """containerd's configuration file, when ours is in it."""
    made: list[str] = field(default_factory=list)
    """Files and folders of containerd's that were not there before."""
    stale: str = ""
    """The containerd (`Containerd.started`) that still runs with the configuration before the last change."""

    @classmethod
    def load(cls) -> Self:
        """The node's record; an empty one where nothing was done."""
        try:
            with open(RECORD, encoding="utf-8") as file:
                found = json.load(file)
        except FileNotFoundError:
            return cls()
        if not isinstance(found, dict) or found.get("version") != _RECORD_VERSION:
            raise Refused(f"{RECORD} was written by another version; use the installer of that version")
        return cls(
            config=str(found.get("config", "")),
            made=[str(path) for path in found.get("made", [])],
            stale=str(found.get("stale", "")),
        )

    def save(self) -> None:
        """Write it down, to survive the machine."""
        write(RECORD, json.dumps(asdict(self), indent=1) + "\n")


def write(path: str, text: str) -> None:
    """Replace a file at once, with the mode that it had."""
    path = os.path.realpath(path)
    mode = os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o644
    fresh = f"{path}.architect-{os.getpid()}"
    with open(fresh, "w", encoding="utf-8", newline="") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, path)


def digests(folder: str) -> list[str]:
    """The installs in a folder."""
    try:
        return sorted(name for name in os.listdir(folder) if _DIGEST.fullmatch(name))
    except FileNotFoundError:
        return []


def copy(source: int, digest: str) -> None:
    """Copy the folder open as `source` to its place, unless it is there; `source` may lie in another root."""
    target = f"{HOME}/{digest}"
    if os.path.isdir(target):
        return
    os.makedirs(HOME, exist_ok=True)
    fresh = f"{HOME}/.{digest}-{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
    for folder, _, names, folder_fd in os.fwalk(".", dir_fd=source):
        os.makedirs(os.path.join(fresh, folder), mode=0o755)
        for name in names:
            _copy_file(folder_fd, name, os.path.join(fresh, folder, name))
    os.sync()  # a folder that is in its place is whole, even after a crash
    os.rename(fresh, target)


def _copy_file(folder: int, name: str, target: str) -> None:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=folder), target)
        return
    reader = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, status.st_mode & 0o777)
    try:
        while os.sendfile(writer, reader, None, 1 << 24):
            pass
        os.fchmod(writer, status.st_mode & 0o777)
    finally:
        os.close(reader)
        os.close(writer)


def point(digest: str) -> None:
    """Make `current` lead to an install; from the next pod on it is used."""
    fresh = f"{CURRENT}-{os.getpid()}"
    os.symlink(digest, fresh)
    os.rename(fresh, CURRENT)


def current() -> str:
    """The digest that `current` leads to, "" when nothing is installed."""
    try:
        return os.path.basename(os.readlink(CURRENT))
    except FileNotFoundError:
        return ""


def processes() -> Iterator[tuple[int, str, bool]]:
    """(pid, digest it runs from, whether it is a zygote) of every process but this one.

    The executables are compared as files: a path from another mount namespace could read differently.
    """
    files = {}
    for digest in digests(HOME):
        for name in ("python3", "criu"):
            status = os.stat(f"{HOME}/{digest}/bin/{name}")
            files[status.st_dev, status.st_ino] = digest
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            status = os.stat(f"/proc/{name}/exe")
            with open(f"/proc/{name}/comm", encoding="utf-8", errors="replace") as file:
                zygote = file.read().strip() == _ZYGOTE
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended, or is a thread of the kernel
        digest = files.get((status.st_dev, status.st_ino), "")
        if digest:
            yield int(name), digest, zygote


def prune(keep: Collection[str]) -> list[str]:
    """Remove the installs that nothing runs from, except `keep`; those that stay for a process' sake.

    Zygotes are ended: they serve no container, and each start of a pod makes one where it finds none.
    """
    used = set()
    for pid, digest, zygote in list(processes()):
        if digest in keep:
            continue
        if zygote:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass  # it was quicker
        else:
            used.add(digest)
    for name in os.listdir(HOME):
        broken_off = name.startswith(".") and _DIGEST.match(name[1:])
        if broken_off or (_DIGEST.fullmatch(name) and name not in used and name not in keep):
            shutil.rmtree(f"{HOME}/{name}")
    return sorted(used)


def promise(*, moves: bool) -> None:
    """Tell shims whether this node is to have a daemon that moves containers: they wait for it to begin."""
    if moves:
        write(PROMISE, "")
        return
    for path in (PROMISE, SOCKET):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def remove_everything() -> list[str]:
    """Remove all files of Architect's from the node; nothing may run any more. Returns the folders that stay,
    because copies are in them that nobody has taken.
    """
    installs = (f"{HOME}/{digest}" for digest in digests(HOME))
    for folder in (*STATE, *installs, *_broken_off()):
        shutil.rmtree(folder, ignore_errors=True)
    for path in (CURRENT, RECORD):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    emptied = [folder for top in _COPIES for folder, _, _ in os.walk(top, topdown=False)]
    for folder in (*emptied, _LIB, HOME):
        with contextlib.suppress(OSError):
            os.rmdir(folder)  # unless somebody keeps something there
    return [folder for folder in _COPIES if os.path.exists(folder)]


def _broken_off() -> list[str]:
    """The pods of `_COPIES`, NAMESPACE/MIGRATION, of which nothing is whole."""
    pods = (pod for folder in _COPIES for pod in Path(folder).glob("*/*"))
    return [str(pod) for pod in pods if not any(pod.glob(f"*/{PART}"))]
