#!/usr/bin/env python3
"""The demo's story: a service that nobody uses gives its memory back, and answers as if it had not.

Runs in a box (`make demo`: check.py makes the box and looks for what it left on the host). What it prints was
checked; the first thing that is not true ends it with status 1 and the logs in `out/demo/`.

The trap: MemAvailable is the whole machine's. It is read just before the dump and just after it, and again
over another sleep if others on the machine took what the container gave.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from rich.console import Console
from rich.table import Table

from architect.engine.cgroup import Cgroup
from architect.ttrpc import shim_v1
from architect.ttrpc.client import RpcError
from hack import cri_messages as m
from hack.control import Daemon, await_phase, await_true, status, wake
from hack.cri import Container, Cri, Pod

HEAP_MB = 100
IDLE_SECONDS = 3
SHARE = 0.8
"""Of the container's resident memory, what the node must have back."""
_ANNOTATIONS = {
    "managed-containers": ["app"],
    "scaledown-durations": {"app": f"{IDLE_SECONDS}s"},
    "network-monitor": {"app": "packets"},
}
_STATE = "/var/lib/architect"
_LOGS = ("/var/log/architectd.log", "/var/log/containerd.log", "/var/log/architect")
_SECONDS = 30
_TRIES = 4
_TRY_SECONDS = 3
_IN_MEMORY = ("tmpfs", "ramfs")

console = Console(highlight=False, soft_wrap=True)


class NotTrue(Exception):
    """What the demo promises did not happen; the sentence says what did."""


@dataclass
class Nap:
    """One sleep and wake, for the last table."""

    what: str
    woken_by: str
    asleep: shim_v1.ContainerStatus
    answer_seconds: float
    awake: shim_v1.ContainerStatus


def main() -> int:
    """Tell the story; returns the exit status."""
    began = time.monotonic()
    try:
        with Daemon("--kubernetes=off"), Cri() as cri:
            naps = _story(cri)
    except (NotTrue, AssertionError, OSError, RpcError, grpc.RpcError, subprocess.SubprocessError) as error:
        sentence = error.details() if isinstance(error, grpc.Call) else str(error)
        console.print(f"  [red]✗ {sentence or 'a minute went by and what is awaited here did not happen'}[/]")
        console.print(f"\nThe demo failed. Logs: {_keep_logs()}")
        return 1
    _print_table(naps)
    console.print(f"All of it was checked, in {time.monotonic() - began:.0f} s.")
    return 0


def _story(cri: Cri) -> list[Nap]:
    console.print("[bold]Architect[/]: a container that nobody uses sleeps, and wakes as if it had not.")
    console.print(f"The node: {_node()}; it was made for this demo.")
    naps: list[Nap] = []
    with contextlib.ExitStack() as pods:
        _chapter("A service starts")
        began = time.monotonic()
        web = _start(pods, cri, "web", (8080, "TCP"), {"HEAP_MB": str(HEAP_MB)})
        first, _ = _curl(web)
        cold = time.monotonic() - began
        _say(
            f"web runs in a pod: a counter in memory, {HEAP_MB} MB of heap", f"first answer after {_ms(cold)}"
        )
        kept = _Connection(web)
        answers = [first, _curl(web)[0], kept.get()]
        _check(answers == ["1", "2", "3"], f"three requests were counted {', '.join(answers)}")
        _say("3 requests: 2 by curl, 1 on a connection that stays open", f"counted {', '.join(answers)}")
        started = web.status().started_at

        _chapter(f"Nobody calls for {IDLE_SECONDS} s")
        asleep = _watch_it_sleep(web)
        _check(web.status().started_at == started, "containerd lost sight of the container")
        _check(web.status().state == m.ContainerState.RUNNING, "to containerd the container runs no more")
        _say("to containerd it is still the same running container", "")

        _chapter("curl")
        answer, seconds = _curl(web)
        _check(answer == "4", f"the counter should be 4 and is {answer}")
        naps.append(_awake(Nap("web", "curl", asleep, seconds, asleep), web, "packet"))
        _say("its first packet woke it, and the counter goes on", f"4, after {_ms(seconds)}")

        _chapter("exec")
        udp = _start(pods, cri, "udp", (9000, "UDP"), {})
        _check(_datagram(udp, b"hello")[0] == b"1 hello", "the UDP service does not answer")
        asleep = _await_sleep(web)
        _say("web sleeps again", _ms(asleep.last_sleep_us / 1e6))
        began = time.monotonic()
        result = web.exec("/usr/bin/cat", "/etc/hostname")
        seconds = time.monotonic() - began
        _check(result.stdout == b"web\n", f"exec answered {result.stdout!r} {result.stderr!r}")
        naps.append(_awake(Nap("web", "exec", asleep, seconds, asleep), web, "exec"))
        _say("what kubectl exec does woke it: cat /etc/hostname", f"web, after {_ms(seconds)}")
        answer = kept.get()
        _check(answer == "5", f"the counter should be 5 and is {answer}")
        _say("the connection from before both sleeps still works", answer)

        _chapter("A UDP packet")
        asleep = _await_sleep(udp)
        _say("udp, a second service that nobody calls, sleeps", _ms(asleep.last_sleep_us / 1e6))
        echo, seconds = _datagram(udp, b"hello again")
        _check(echo == b"2 hello again", f"the echo should be '2 hello again' and is {echo!r}")
        naps.append(_awake(Nap("udp", "UDP packet", asleep, seconds, asleep), udp, "packet"))
        _say("one datagram woke it, and was answered", f"{echo.decode()!r}, after {_ms(seconds)}")
    return naps


def _start(
    pods: contextlib.ExitStack, cri: Cri, image: str, port: tuple[int, str], env: dict[str, str]
) -> Container:
    notes = {f"architect.loopholelabs.io/{key}": json.dumps(value) for key, value in _ANNOTATIONS.items()}
    pod = pods.enter_context(Pod(cri, image, annotations=notes))
    container = pod.start("app", image, ports=[port], env=env)
    container.await_line("listening")
    return container


def _watch_it_sleep(web: Container) -> shim_v1.ContainerStatus:
    """Waits for a sleep and checks that the memory is gone from the container and back on the node."""
    cgroup = Cgroup.of(web.pid)
    processes = cgroup.pids()
    resident = _resident(processes)
    asleep, freed = _sleep_that_frees(web, round(SHARE * resident))
    _say("it fell asleep, which took", _ms(asleep.last_sleep_us / 1e6))
    left = [pid for pid in processes if os.path.exists(f"/proc/{pid}")]
    _check(not left, f"processes {left} of the sleeping container are still there")
    await_true(lambda: bool(cgroup.pids()), "CRIU waits in the container's cgroup", _SECONDS)
    waiting = _resident(cgroup.pids())
    _check(waiting < (1 - SHARE) * resident, f"asleep, {_mb(waiting)} are resident in its cgroup")
    _say("its memory is gone; a CRIU waits there to restore it", f"{_mb(resident)} → {_mb(waiting)}")
    _say("the node has it back: MemAvailable", f"+{_mb(freed)}")
    disk = _output(["findmnt", "--noheadings", "--output", "FSTYPE", "--target", _image(web)])
    _check(disk not in _IN_MEMORY, f"the image lies on {disk}: that is memory")
    _check(asleep.image_bytes > HEAP_MB << 20, f"the image has only {_mb(asleep.image_bytes)}")
    _say(f"its image lies on disk ({disk}), not on tmpfs", _mb(asleep.image_bytes))
    return asleep


def _sleep_that_frees(web: Container, wanted: int) -> tuple[shim_v1.ContainerStatus, int]:
    """A sleep over which the node's MemAvailable rises by `wanted` bytes or more, and by how many it rose."""
    seen: list[int] = []
    for _ in range(_TRIES):
        if seen:
            wake(web)
        with _patience("nobody calls web ..."):
            await_phase(web, "HIBERNATING", "SCALED_DOWN")
        before = _available()
        asleep = _await_sleep(web)
        with contextlib.suppress(AssertionError):
            await_true(lambda: _available() - before >= wanted, "the node has the memory back", _TRY_SECONDS)  # noqa: B023
        seen.append(_available() - before)
        if seen[-1] >= wanted:
            return asleep, seen[-1]
    changes = ", ".join(_mb(each) for each in seen)
    raise NotTrue(f"MemAvailable should rise by {_mb(wanted)} and rose by {changes}; is the machine busy?")


def _await_sleep(container: Container) -> shim_v1.ContainerStatus:
    with _patience(f"nobody calls {container.pod.name} ..."):
        return await_phase(container, "SCALED_DOWN")


def _awake(nap: Nap, container: Container, cause: str) -> Nap:
    """Completes `nap` once the shim has noted the wake, which is a moment after the first answer."""
    await_true(lambda: status(container).wakes > nap.asleep.wakes, "the shim has noted the wake", _SECONDS)
    nap.awake = status(container)
    _check(nap.awake.last_wake_cause == cause, f"woken by {nap.awake.last_wake_cause}, not by {cause}")
    _check(not nap.awake.failures, f"failures were noted: {nap.awake.failures}")
    return nap


class _Connection:
    """One HTTP connection that stays open."""

    def __init__(self, container: Container) -> None:
        self._connection = http.client.HTTPConnection(container.pod.addresses[0], 8080, timeout=_SECONDS)
        self._connection.connect()
        self._first = self._connection.sock

    def get(self) -> str:
        self._connection.request("GET", "/")
        text = self._connection.getresponse().read().decode().strip()
        _check(self._connection.sock is self._first, "the connection was closed and made again")
        return text


def _curl(container: Container) -> tuple[str, float]:
    """The body of the service's page, and the seconds until curl had it."""
    url = f"http://{container.pod.addresses[0]}:8080/"
    text = _output(["curl", "--silent", "--show-error", "--fail", "--max-time", str(_SECONDS),
                    "--write-out", "%{time_total}", url])  # fmt: skip
    body, _, seconds = text.rpartition("\n")
    return body.strip(), float(seconds)


def _datagram(container: Container, data: bytes) -> tuple[bytes, float]:
    """The answer to one datagram, which is sent once, and the seconds it took."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as endpoint:
        endpoint.settimeout(_SECONDS)
        endpoint.connect((container.pod.addresses[0], 9000))
        began = time.monotonic()
        endpoint.send(data)
        return endpoint.recv(65536), time.monotonic() - began


def _image(container: Container) -> str:
    """Where the container's image is."""
    return f"{_STATE}/pods/{container.pod.uid}/{container.name}"


def _resident(pids: Sequence[int]) -> int:
    """VmRSS of `pids`, in bytes; one that has ended has none."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += _kilobytes(f"/proc/{pid}/status", "VmRSS:")
    return total << 10


def _available() -> int:
    return _kilobytes("/proc/meminfo", "MemAvailable:") << 10


def _kilobytes(path: str, key: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    return 0  # a zombie has no memory to tell of


def _node() -> str:
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
    tools = {
        "containerd": _output(["containerd", "--version"]).split()[2].lstrip("v").partition("+")[0],
        "runc": _output(["runc", "--version"]).split()[2].partition("+")[0],
        "CRIU": _output(["/opt/architect/criu/criu", "--version"]).split()[1],
    }
    versions = ", ".join(f"{tool} {version}" for tool, version in tools.items())
    return f"{system}, Linux {os.uname().release}, {versions}"


def _output(argv: Sequence[str]) -> str:
    result = subprocess.run(argv, capture_output=True, text=True, timeout=2 * _SECONDS, check=False)
    _check(result.returncode == 0, f"{argv[0]} ended with {result.returncode}: {result.stderr.strip()}")
    return result.stdout.strip()


def _check(true: bool, otherwise: str) -> None:
    if not true:
        raise NotTrue(otherwise)


def _chapter(title: str) -> None:
    console.print(f"\n[bold]{title}[/]")


def _say(sentence: str, figure: str) -> None:
    console.print(f"  [green]✓[/] {sentence:<58} [bold cyan]{figure}[/]".rstrip())


def _patience(sentence: str) -> contextlib.AbstractContextManager[object]:
    return console.status(sentence) if console.is_terminal else contextlib.nullcontext()


def _print_table(naps: Sequence[Nap]) -> None:
    console.print("\n[bold]What it took[/]")
    table = Table(header_style="dim", box=None)
    columns: dict[str, Callable[[Nap], str]] = {
        "service": lambda nap: nap.what,
        "fell asleep in": lambda nap: _ms(nap.asleep.last_sleep_us / 1e6),
        "memory given back": lambda nap: _mb(nap.asleep.saved_bytes),
        "image on disk": lambda nap: _mb(nap.asleep.image_bytes),
        "woken by": lambda nap: nap.woken_by,
        "awake after": lambda nap: _ms(nap.awake.last_wake_us / 1e6),
        "answered after": lambda nap: _ms(nap.answer_seconds),
    }
    for title in columns:
        table.add_column(title, justify="left" if title in ("service", "woken by") else "right", no_wrap=True)
    for nap in naps:
        table.add_row(*(figure(nap) for figure in columns.values()))
    Console(highlight=False, width=max(console.width, 110)).print(table)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def _keep_logs() -> str:
    out = f"{os.environ['ARCHITECT_OUT']}/demo"
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    for path in _LOGS:
        copy = shutil.copytree if os.path.isdir(path) else shutil.copy
        with contextlib.suppress(FileNotFoundError):
            copy(path, f"{out}/{os.path.basename(path)}")
    return "out/demo/ of the checkout"


if __name__ == "__main__":
    sys.exit(main())
