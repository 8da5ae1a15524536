"""The life of a managed container: its phases, what may follow what, and what a request means in each of
them.

Tables and pure functions; who acts on them is the shim. `StateRecord` is what the shim writes down before
each step and what its successor reads after a crash: the record names the step that was being taken, the
successor finishes or undoes it.

The trap: a record says what was intended. RUNNING after a crash does not mean that anything runs.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from architect.files import make_private_dirs, read_whole, write_whole
from architect.untrusted import Unreadable, Value, parse, shown

__all__ = ["ALLOWED", "Answer", "Entry", "Failure", "ImpossibleTransition", "Operation", "Phase",
           "StateRecord", "Unusable", "answer", "check", "refusal"]  # fmt: skip


class Phase(StrEnum):
    """Where a container is; the values are those of the shim protocol and of the pod's status label."""

    CREATED = "CREATED"
    RUNNING = "RUNNING"
    HIBERNATING = "HIBERNATING"
    SCALED_DOWN = "SCALED_DOWN"
    WAKING = "WAKING"
    LEAVING = "LEAVING"
    ARRIVING = "ARRIVING"
    STOPPED = "STOPPED"


# CREATED -> SCALED_DOWN: it begins in the image of another. HIBERNATING -> RUNNING: something was seen, or
# the dump failed. WAKING -> SCALED_DOWN: the restore failed, the image is kept for another try. WAKING ->
# RUNNING also for a fresh start. SCALED_DOWN -> STOPPED: SIGKILL needs no wake. LEAVING -> SCALED_DOWN: the
# daemon has not taken it. ARRIVING -> RUNNING: nothing came, it starts fresh.
ALLOWED: Final[Mapping[Phase, frozenset[Phase]]] = {
    Phase.CREATED: frozenset({Phase.RUNNING, Phase.SCALED_DOWN, Phase.ARRIVING, Phase.STOPPED}),
    Phase.RUNNING: frozenset({Phase.HIBERNATING, Phase.STOPPED}),
    Phase.HIBERNATING: frozenset({Phase.RUNNING, Phase.SCALED_DOWN, Phase.STOPPED}),
    Phase.SCALED_DOWN: frozenset({Phase.WAKING, Phase.LEAVING, Phase.STOPPED}),
    Phase.WAKING: frozenset({Phase.RUNNING, Phase.SCALED_DOWN, Phase.STOPPED}),
    Phase.LEAVING: frozenset({Phase.SCALED_DOWN, Phase.STOPPED}),
    Phase.ARRIVING: frozenset({Phase.RUNNING, Phase.SCALED_DOWN, Phase.STOPPED}),
    Phase.STOPPED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One step of a container's story: when (wall clock, ns) it entered which phase."""

    at_ns: int
    phase: Phase


class ImpossibleTransition(Exception):
    """A step that the table does not know: a bug. `story` holds the steps that led here, oldest first."""

    def __init__(self, container_id: str, old: Phase, new: Phase, story: Sequence[Entry]) -> None:
        way = " > ".join(entry.phase for entry in story) or "nothing"
        allowed = ", ".join(sorted(ALLOWED[old])) or "nothing"
        super().__init__(
            f"container {container_id or '?'} cannot go {old} > {new}; {allowed} may follow; so far: {way}"
        )
        self.old = old
        self.new = new
        self.story = tuple(story)


def check(old: Phase, new: Phase, *, container_id: str = "", story: Sequence[Entry] = ()) -> None:
    """Raises ImpossibleTransition unless `new` may follow `old`."""
    if new not in ALLOWED[old]:
        raise ImpossibleTransition(container_id, old, new, story)


# ---- what a request means


class Operation(StrEnum):
    """What can be asked of a container. Questions (State, Pids, Stats) are no operations: they are always
    answered.
    """

    START = "start"
    HIBERNATE = "hibernate"
    WAKE = "wake"
    EXEC = "exec"
    KILL = "kill"  # SIGKILL to all of it: nothing of the container needs to run for that
    SIGNAL = "signal"  # any other signal: the program may want to handle it
    UPDATE = "update"
    PAUSE = "pause"
    RESUME = "resume"
    CHECKPOINT = "checkpoint"
    DELETE = "delete"


class Answer(StrEnum):
    """What is done about it."""

    DO = "do"  # at once
    NOTHING = "nothing"  # it is so already: success
    JOIN = "join"  # the same is under way: share its result
    QUEUE = "queue"  # wait for the end of what is under way, then ask again
    CALL_OFF = "call off"  # the sleep under way is called off, then as QUEUE
    CUT_SHORT = "cut short"  # what is under way is broken off at once, whatever becomes of it; then as QUEUE
    WAKE_FIRST = "wake first"  # then do it
    KEEP = "keep"  # until the wake, which does it then
    REFUSE = "refuse"


_DO, _NOTHING, _JOIN, _QUEUE = Answer.DO, Answer.NOTHING, Answer.JOIN, Answer.QUEUE
_OFF, _WAKE, _KEEP, _NO = Answer.CALL_OFF, Answer.WAKE_FIRST, Answer.KEEP, Answer.REFUSE
_CUT = Answer.CUT_SHORT

_COLUMNS: Final = tuple(Phase)
# What containerd's runc shim refuses is refused here too (its
# cmd/containerd-shim-runc-v2/process/*_state.go); asleep counts as running. New limits wait for the
# wake: they would wake every container whose requests Kubernetes lowers because it sleeps.
_ANSWERS: Final[Mapping[Operation, Sequence[Answer]]] = {
    #                     CREATED RUNNING   HIBERNATING SCALED_DOWN WAKING   LEAVING ARRIVING STOPPED
    Operation.START:      (_DO,   _NO,      _NO,        _NO,        _NO,     _NO,    _NO,     _NO),
    Operation.HIBERNATE:  (_NO,   _DO,      _NO,        _NOTHING,   _NO,     _NO,    _NO,     _NO),
    Operation.WAKE:       (_NO,   _NOTHING, _OFF,       _DO,        _JOIN,   _NO,    _JOIN,   _NO),
    Operation.EXEC:       (_DO,   _DO,      _OFF,       _WAKE,      _QUEUE,  _NO,    _JOIN,   _NO),
    Operation.KILL:       (_DO,   _DO,      _CUT,       _DO,        _CUT,    _DO,    _DO,     _NO),
    Operation.SIGNAL:     (_DO,   _DO,      _OFF,       _WAKE,      _QUEUE,  _NO,    _JOIN,   _NO),
    Operation.UPDATE:     (_DO,   _DO,      _QUEUE,     _KEEP,      _QUEUE,  _KEEP,  _DO,     _NO),
    Operation.PAUSE:      (_NO,   _DO,      _OFF,       _WAKE,      _QUEUE,  _NO,    _JOIN,   _NO),
    Operation.RESUME:     (_NO,   _DO,      _NO,        _NO,        _NO,     _NO,    _NO,     _NO),
    Operation.CHECKPOINT: (_NO,   _DO,      _OFF,       _WAKE,      _QUEUE,  _NO,    _JOIN,   _NO),
    Operation.DELETE:     (_DO,   _NO,      _NO,        _NO,        _NO,     _NO,    _NO,     _DO),
}  # fmt: skip

_IS: Final[Mapping[Phase, str]] = {
    Phase.CREATED: "has not been started",
    Phase.RUNNING: "is running",
    Phase.HIBERNATING: "is falling asleep",
    Phase.SCALED_DOWN: "is asleep",
    Phase.WAKING: "is waking up",
    Phase.LEAVING: "is leaving for another node",
    Phase.ARRIVING: "waits for its memory to come from another node",
    Phase.STOPPED: "has ended",
}


def answer(phase: Phase, operation: Operation) -> Answer:
    """What `operation` means for a container in `phase`."""
    return _ANSWERS[operation][_COLUMNS.index(phase)]


def refusal(phase: Phase, operation: Operation) -> str:
    """Why `operation` is refused in `phase`, as a sentence; "" when it is not."""
    return (
        f"{operation} is not possible: the container {_IS[phase]}" if answer(phase, operation) is _NO else ""
    )


# ---- what is written down

VERSION: Final = 1
MAX_RECORD_BYTES: Final = 256 << 10
MAX_STORY: Final = 64
MAX_FAILURES: Final = 16
MAX_REASON: Final = 2048
_MAX_TEXT: Final = 4096


class Unusable(Exception):
    """The state file at `path` cannot be used; `reason` says why. What it described must be found out
    otherwise.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"state file {path}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed operation: when (wall clock, ns), which, and why in one sentence."""

    at_ns: int
    operation: str
    reason: str


@dataclass(slots=True)
class StateRecord:
    """A managed container as it is written to its state file. Times are wall clock in ns, durations in us."""

    container_id: str
    phase: Phase = Phase.CREATED
    generation: int = 0
    """The number of the newest image that was begun; it never goes back."""
    since_ns: int = 0
    """When `phase` was entered."""
    image: str = ""
    """The directory of the image that the container sleeps in, "" while it has none."""
    layer: str = ""
    """The directory of its writable layer (an overlay's upperdir), "" when it has none or none is known."""
    beneath: str = ""
    """A digest of what the writable layer lies on: the layers of its image, as this node has them."""
    pid: int = 0
    started_ns: int = 0
    active_ns: int = 0
    sleeps: int = 0
    wakes: int = 0
    last_sleep_us: int = 0
    last_wake_us: int = 0
    last_wake_cause: str = ""
    saved_bytes: int = 0
    failures: list[Failure] = field(default_factory=list)
    story: list[Entry] = field(default_factory=list)

    def move(self, phase: Phase, at_ns: int) -> None:
        """Enters `phase`. Raises ImpossibleTransition, and ValueError when it would be asleep without an
        image.
        """
        check(self.phase, phase, container_id=self.container_id, story=self.story)
        if phase is Phase.SCALED_DOWN and not self.image:
            raise ValueError(f"container {self.container_id} cannot be asleep without an image")
        self.phase = phase
        self.since_ns = at_ns
        self.story = [*self.story, Entry(at_ns, phase)][-MAX_STORY:]

    def failed(self, operation: str, reason: str, at_ns: int) -> None:
        """Remembers a failure; the oldest are forgotten."""
        self.failures = [*self.failures, Failure(at_ns, operation, reason[:MAX_REASON])][-MAX_FAILURES:]

    def save(self, path: str, *, durable: bool = True) -> None:
        """Writes the record to `path` in one step, making its directory (0700) if need be. Raises OSError.

        `durable`: return only when it would survive the loss of power; `kill -9` it survives in any case.
        """
        make_private_dirs(os.path.dirname(path) or ".")
        body = {"version": VERSION, **dataclasses.asdict(self)}
        body["failures"] = body["failures"][-MAX_FAILURES:]
        body["story"] = body["story"][-MAX_STORY:]
        write_whole(path, json.dumps(body).encode() + b"\n", durable=durable)

    @classmethod
    def load(cls, path: str) -> StateRecord:
        """Reads what `save` wrote. Raises FileNotFoundError when there is none, Unusable for anything
        unexpected.
        """
        try:
            return _record(parse(read_whole(path, MAX_RECORD_BYTES), limit=MAX_RECORD_BYTES))
        except FileNotFoundError:
            raise
        except Unreadable as error:
            raise Unusable(path, str(error)) from error
        except OSError as error:
            raise Unusable(path, error.strerror or str(error)) from error

    @staticmethod
    def remove(path: str) -> None:
        """Removes the state file at `path`, if there is one. Raises OSError."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            return


def _record(value: Value) -> StateRecord:
    """Raises Unreadable. Fields of the same version that are not known are left alone: they came later, with
    defaults.
    """
    version = value.member("version").integer()
    if version != VERSION:
        value.refuse(f"is of version {version}; this program reads version {VERSION}")
    numbers = {name: value.member(name).integer() for name in _NUMBERS}
    record = StateRecord(
        container_id=value.member("container_id").text(limit=_MAX_TEXT),
        phase=_phase(value.member("phase")),
        image=value.member("image").text(limit=_MAX_TEXT),
        layer=_later(value, "layer"),
        beneath=_later(value, "beneath"),
        last_wake_cause=value.member("last_wake_cause").text(limit=_MAX_TEXT),
        failures=[_failure(entry) for entry in value.member("failures").items(limit=MAX_FAILURES)],
        story=[
            Entry(entry.member("at_ns").integer(), _phase(entry.member("phase")))
            for entry in value.member("story").items(limit=MAX_STORY)
        ],
        **numbers,
    )
    if record.phase in (Phase.SCALED_DOWN, Phase.WAKING) and not record.image:
        value.refuse(f"says {record.phase} and names no image")
    return record


_NUMBERS: Final = ("generation", "since_ns", "pid", "started_ns", "active_ns", "sleeps", "wakes",
                   "last_sleep_us", "last_wake_us", "saved_bytes")  # fmt: skip


def _later(value: Value, name: str) -> str:
    """A text that records of earlier releases do not have."""
    return value.member(name).text(limit=_MAX_TEXT) if name in value.mapping() else ""


def _phase(value: Value) -> Phase:
    text = value.text(limit=64)
    if text not in Phase.__members__:
        value.refuse(f"{shown(text)} is no phase")
    return Phase(text)


def _failure(value: Value) -> Failure:
    return Failure(
        at_ns=value.member("at_ns").integer(),
        operation=value.member("operation").text(limit=_MAX_TEXT),
        reason=value.member("reason").text(limit=MAX_REASON),
    )
