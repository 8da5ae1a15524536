"""Installing and uninstalling on this node, in an order that may be broken off anywhere and begun again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from daemon.installer import configuration, places
from daemon.installer.containerd import CONFIG, Containerd
from daemon.installer.errors import Refused

HANDLERS: Final = {"runc-architect": f"{places.CURRENT}/bin/containerd-shim-runc-architect-v1"}
_OLDEST: Final = (1, 7)
_DROP_IN: Final = "conf.d/architect.toml"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the node's owner decides."""

    socket: str
    restart: str
    """"auto" (by systemd), "signal" or "never"."""
    configure: bool = True
    """False: containerd's configuration is somebody else's business."""
    moves: bool = False
    """Pods move between nodes."""


def install(digest: str, wishes: Wishes) -> Iterator[str]:
    """Make the install `digest`, which is in its place, the one that containerd uses; tells what was done.

    Running pods keep the shim they have. Raises Refused.
    """
    _try_out(digest)
    places.promise(moves=wishes.moves)
    before = places.current()
    if before != digest:
        places.point(digest)
        yield f"installed {places.HOME}/{digest}" + (f" beside {before}" if before else "")
    if wishes.configure:
        yield from _configure(Containerd.find(wishes.socket))
        yield from _restart(wishes)
    used = places.prune({digest})
    if used:
        yield f"kept for pods that run from them: {', '.join(used)}"


def _try_out(digest: str) -> None:
    criu = f"{places.HOME}/{digest}/bin/criu"
    try:
        done = subprocess.run([criu, "--version"], capture_output=True, timeout=30, check=False, text=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"{criu} does not run on this node: {error}") from None
    if done.returncode:
        raise Refused(f"{criu} does not run on this node: {done.stderr.strip()}")


def _configure(containerd: Containerd) -> Iterator[str]:
    """Add our runtimes to containerd's configuration, unless they are there."""
    path = containerd.config
    reason = configuration.foreign(path, os.path.basename(containerd.program), list(HANDLERS))
    if reason:
        raise Refused(reason)
    found = containerd.version()
    if found < _OLDEST:
        raise Refused(f"this node has containerd {found[0]}.{found[1]}; 1.7 or newer is needed")
    text = _text(path)
    newest = 2 if found[0] == 1 else 3
    form = configuration.version(configuration.read(text, path), path) if text else newest
    toml = configuration.tables(form, containerd.dump(), HANDLERS)
    if found[0] == 1:
        theirs = configuration.runtimes(configuration.read(configuration.without(text, ""), path))
        if taken := sorted(theirs.keys() & HANDLERS):
            raise Refused(f"{path} defines the runtimes {', '.join(taken)} already: remove them from it")
        wanted = {path: configuration.with_block(text or configuration.empty(form), toml)}
    else:
        wanted = {_drop_in(path): configuration.drop_in(form, toml)}
    if all(_text(each) == content for each, content in wanted.items()) and _is_in_force(containerd):
        return
    with _all_or_nothing(containerd) as change:
        for each, content in wanted.items():
            change(each, content)
        if not _is_in_force(containerd) and found[0] > 1:
            change(path, configuration.with_import(text, _drop_in(path), form))
        if absent := configuration.missing(containerd.dump(), HANDLERS):
            raise Refused(f"another file that {path} imports overrides the runtimes {', '.join(absent)}")
    yield f"configured {', '.join(HANDLERS)} in {', '.join(wanted)}"


def _is_in_force(containerd: Containerd) -> bool:
    return not configuration.missing(containerd.dump(), HANDLERS)


@contextmanager
def _all_or_nothing(containerd: Containerd) -> Iterator[_Change]:
    """Changes files, written down first; when something is refused, all is as it was."""
    change = _Change(containerd)
    try:
        yield change
    except Refused:
        change.undo()
        raise


class _Change:
    def __init__(self, containerd: Containerd) -> None:
        before = places.Record.load()
        self._undone = places.Record(config=before.config, made=list(before.made), stale=before.stale)
        self._record = before
        self._record.config = containerd.config
        self._record.stale = before.stale or containerd.started
        self._before: dict[str, str] = {}
        self._made: list[str] = []

    def __call__(self, path: str, text: str) -> None:
        self._before.setdefault(path, _text(path))
        folder = os.path.dirname(path)
        made = [each for each in (os.path.dirname(folder), folder, path) if not os.path.exists(each)]
        self._made += made
        self._record.made += made
        self._record.save()
        os.makedirs(folder, exist_ok=True)
        places.write(path, text)

    def undo(self) -> None:
        for path, text in self._before.items():
            if path not in self._made:
                places.write(path, text)
        for path in reversed(self._made):
            _remove(path)
        self._undone.save()


def _restart(wishes: Wishes) -> Iterator[str]:
    """Restart containerd if it still runs with the configuration before our change."""
    record = places.Record.load()
    containerd = Containerd.find(wishes.socket)
    if record.stale == containerd.started:
        if wishes.restart == "never":
            yield f"containerd (pid {containerd.pid}) has yet to be restarted, by you"
            return
        containerd.restart(wishes.restart, wishes.socket)
        yield "restarted containerd"
    if record.stale:
        record.stale = ""
        record.save()


def uninstall(wishes: Wishes) -> Iterator[str]:
    """Take everything off the node that no running pod needs; tells what was done. Raises Refused."""
    if not places.current():
        yield f"nothing is installed in {places.HOME}"
        return
    places.promise(moves=False)
    record = places.Record.load()
    if record.config:
        yield from _unconfigure(record, wishes)
    used = places.prune(())
    if used:
        yield (
            f"pods still run from {', '.join(used)}: they go on sleeping and waking. Their shims, and the"
            " state of those asleep, stay until the next uninstall"
        )
        return
    copies = places.remove_everything()
    yield f"removed {places.HOME} and {', '.join(places.STATE)}"
    if copies:
        yield f"copies of containers that have left and that nobody has taken stay in {', '.join(copies)}"


def _unconfigure(record: places.Record, wishes: Wishes) -> Iterator[str]:
    path = record.config
    text = _text(path)
    rest = configuration.without(text, _drop_in(path))
    only_ours = path in record.made and rest in [configuration.empty(form) for form in (2, 3)]
    with suppress(Refused):  # it does not run, and reads what it finds when it does
        record.stale = record.stale or Containerd.find(wishes.socket).started
        record.save()
    if only_ours:
        _remove(path)
    elif rest != text:
        places.write(path, rest)
    _remove(_drop_in(path))
    for each in reversed(record.made):
        if os.path.isdir(each):
            _remove(each)
    yield f"removed {', '.join(HANDLERS)} from {path}"
    if record.stale:
        yield from _restart(wishes)
    record.config, record.made = "", []
    record.stale = places.Record.load().stale
    record.save()


def _drop_in(config: str) -> str:
    return f"{os.path.dirname(config or CONFIG)}/{_DROP_IN}"


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise Refused(f"{path} is no UTF-8, which TOML must be") from None


def _remove(path: str) -> None:
    """Remove a file, or a folder with nothing in it."""
    with suppress(FileNotFoundError, OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            os.rmdir(path)
        else:
            os.unlink(path)
