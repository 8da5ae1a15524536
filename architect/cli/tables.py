"""How answers look to a person: tables and colours. Imports rich, so it is imported late."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from architect.cli.terminal import printable

if TYPE_CHECKING:
    from architect.cli.doctor import Finding

_WIDE: Final = 4096  # where nobody looks, nothing is cut
_STYLES: Final = {
    "RUNNING": "green",
    "SCALED_DOWN": "blue",
    "HIBERNATING": "cyan",
    "WAKING": "cyan",
    "LEAVING": "cyan",
    "ARRIVING": "cyan",
    "STOPPED": "dim",
}
_MOVES: Final = {"Arrived": "green", "Kept": "yellow", "Lost": "bold red"}
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_NONE: Final = "-"


def show_kept(answer: Mapping[str, Any]) -> None:
    """The table of states that are kept."""
    entries = answer.get("kept", [])
    if not entries:
        _console().print("Nothing is kept on this node.")
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("CONTAINER", "SINCE", "SIZE", "WHERE"):
        table.add_column(heading, no_wrap=True)
    table.add_column("WHY")
    for entry in entries:
        table.add_row(
            _text(entry["name"]),
            ago(entry["saved"] * 1_000_000_000),
            size(entry["bytes"]),
            _text(entry["path"]),
            _text(entry["reason"], "yellow"),
        )
    _console().print(table)


def show_status(answer: Mapping[str, Any]) -> None:
    """The table of all containers."""
    entries = answer.get("containers", [])
    if not entries:
        _console().print("No container runs under Architect on this node.")
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("POD", "CONTAINER", "STATE", "SINCE"):
        table.add_column(heading, no_wrap=True)
    for heading in ("SAVED", "IMAGE", "SLEEPS", "LAST WAKE"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("BY", no_wrap=True)
    table.add_column("NOTE")
    for entry in entries:
        asleep = entry["state"] == "SCALED_DOWN"
        woken = entry["wakes"] and entry["last_wake_us"]
        table.add_row(
            _text(f"{entry['namespace']}/{entry['pod']}"),
            _text(entry["container"]),
            _text(entry["state"] if entry["managed"] else "unmanaged", _STYLES.get(entry["state"], "")),
            ago(entry["since_ns"]),
            size(entry["saved_bytes"]) if asleep else _NONE,
            size(entry["image_bytes"]) if asleep else _NONE,
            str(entry["sleeps"]) if entry["managed"] else _NONE,
            f"{entry['last_wake_us'] / 1000:.0f} ms" if woken else _NONE,
            _text(entry["last_wake_cause"] if woken else _NONE),
            _text(entry["settings_error"] or entry["refusal"], "yellow"),
        )
    _console().print(table)


def show_pods(entries: Sequence[Mapping[str, Any]]) -> None:
    """The table of the managed containers of a cluster's pods."""
    if not entries:
        _console().print("No pod here has a managed container.")
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("NAMESPACE", "POD", "CONTAINER", "STATE", "NODE", "REQUESTS RELEASED"):
        table.add_column(heading, no_wrap=True)
    for entry in entries:
        released = ", ".join(f"{kind} {value}" for kind, value in entry["released"].items())
        table.add_row(
            _text(entry["namespace"]),
            _text(entry["pod"]),
            _text(entry["container"]),
            _text(entry["state"], _STYLES.get(entry["state"], "")),
            _text(entry["node"] or _NONE),
            _text(released or _NONE),
        )
    _console().print(table)


def show_migrations(entries: Sequence[Mapping[str, Any]]) -> None:
    """The table of containers that move, or have moved."""
    if not entries:
        _console().print("Nothing here has moved.")
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("NAMESPACE", "POD", "CONTAINER", "FROM", "TO", "STATE", "LEFT"):
        table.add_column(heading, no_wrap=True)
    for heading in ("SIZE", "FROZEN", "RESTORED IN", "IN ALL"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("WHY NOT")
    for entry in entries:
        state = entry["state"] + (", asleep" if entry["asleep"] else "")
        table.add_row(
            _text(entry["namespace"]),
            _text(entry["pod"]),
            _text(entry["container"]),
            _text(entry["from"]),
            _text(entry["to"] or _NONE),
            _text(state, _MOVES.get(entry["state"], "cyan")),
            ago(int(entry["left"] * 1e9)),
            size(entry["bytes"]) if entry["bytes"] else _NONE,
            _milliseconds(entry["freeze_us"]),
            _milliseconds(entry["restore_us"]),
            f"{entry['seconds']:.1f} s" if entry["seconds"] else _NONE,
            _text(entry["reason"], "yellow"),
        )
    _console().print(table)


def _milliseconds(microseconds: int) -> str:
    return f"{microseconds / 1000:.0f} ms" if microseconds else _NONE


def show_explanation(answer: Mapping[str, Any]) -> None:
    """All there is to say about one container."""
    console = _console()
    console.print(
        _text(f"{answer['namespace']}/{answer['pod']}/{answer['container']}", "bold"),
        _text(answer["id"][:12]),
    )
    for sentence in answer["sentences"]:
        console.print(_text(f"  {sentence}"))
    settings = answer["settings"]
    ports = ", ".join(f"{port['number']}/{port['protocol']}" for port in settings["ports"]) or "none"
    facts = {
        "state": f"{answer['state']}, {ago(answer['since_ns'])}",
        "sleeps after": _duration(settings["idle_ns"]) if settings["idle_ns"] else "never",
        "initial delay": _duration(settings["initial_delay_ns"]),
        "network monitor": f"{settings['network_monitor'] or 'none'}, ports {ports}",
        "sleeps, wakes": f"{answer['sleeps']}, {answer['wakes']}",
    }
    if answer["managed"]:
        for name, fact in facts.items():
            console.print(_text(f"  {name + ':':<17}{fact}"))
    if answer["failures"]:
        console.print(_text("  last failures:"))
        for failure in answer["failures"][-5:]:
            console.print(
                _text(f"    {ago(failure['at_ns'])}, {failure['operation']}: {failure['reason']}", "yellow")
            )


def show_outcome(answer: Mapping[str, Any]) -> None:
    """What a sleep or a wake came to."""
    name = f"{answer['namespace']}/{answer['pod']}/{answer['container']}"
    if answer["state"] == "SCALED_DOWN":
        took = f"{answer['last_sleep_us'] / 1000:.0f} ms"
        said = f"{name} sleeps: {size(answer['saved_bytes'])} of memory saved, fell asleep in {took}."
    elif answer["state"] == "RUNNING" and answer["wakes"]:
        said = f"{name} runs; its last wake took {answer['last_wake_us'] / 1000:.0f} ms."
    else:
        said = f"{name} is {answer['state']}."
    _console().print(_text(said))


def show_findings(findings: Sequence[Finding]) -> None:
    """What the doctor found: a line each, and the cure below a failure."""
    console = _console()
    for finding in findings:
        mark = Text("pass  ", "green") if finding.passed else Text("FAIL  ", "bold red")
        console.print(mark + _text(f"{finding.check}: {finding.detail}"))
        if not finding.passed:
            console.print(_text(f"      cure: {finding.cure}"))


def ago(moment_ns: int) -> str:
    """How long ago a wall-clock moment was."""
    if moment_ns <= 0:
        return _NONE
    return f"{_duration(max(0, time.time_ns() - moment_ns))} ago"


def _duration(span_ns: int) -> str:
    seconds = span_ns / 1e9
    if seconds < 120:
        return f"{seconds:.1f}".removesuffix(".0") + "s" if seconds < 10 else f"{seconds:.0f}s"
    if seconds < 7200:
        return f"{seconds / 60:.0f}m"
    return f"{seconds / 3600:.0f}h" if seconds < 172_800 else f"{seconds / 86_400:.0f}d"


def size(count: float) -> str:
    """A number of bytes, in the unit that a person would choose."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}"
        count /= 1024
    raise AssertionError


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style)


def _console() -> Console:
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=_WIDE)
