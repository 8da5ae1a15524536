"""How long things take: wakes, sleeps, bare restores, starts, execs, calls.

What is compared is measured in turns, so that a slower minute of the machine is everybody's.
"""

from __future__ import annotations

import socket
from typing import Final

from architect.ttrpc import codec, containerd, frames, rpc
from hack.bench_figures import Figures
from hack.bench_pods import ARCHITECT, RUNC, Sleeper, make_pod, start
from hack.bench_restore import BareRestore
from hack.bench_transfer import transfer
from hack.control import SECONDS, Daemon, shim_socket
from hack.cri import Cri, Pod

_TURNS: Final = 30
_WAKES_A_TURN: Final = 2
_WAKES_200MB: Final = 12
_STARTS: Final = 40
_EXECS: Final = 120  # a change of cgroup takes one grace period or two: few samples show either
_CALLS: Final = 2000


def times(cri: Cri, figures: Figures) -> None:
    """Everything that is measured with a clock."""
    with Daemon():
        _small(cri, figures)
        _large(cri, figures)
        _starts(cri, figures)
        _execs(cri, figures)
        _calls(cri, figures)
    transfer(figures)


def _small(cri: Cri, figures: Figures) -> None:
    with make_pod(cri, ARCHITECT) as pod:
        app = start(pod, "small")
        app.await_line("listening")
        with Sleeper(app) as sleeper:
            sleeper.hibernate()
            bare = BareRestore(sleeper)
            bare.once()  # the first reads runc and CRIU from the disk
            _wake(sleeper)
            for _ in range(_TURNS):
                for _ in range(_WAKES_A_TURN):
                    figures.add("hibernate", "ms", sleeper.hibernate())
                    figures.add("wake_first_byte", "ms", _wake(sleeper))
                # One per sleep, as with wakes: right after another's removal it would be slower.
                sleeper.hibernate()
                sleeper.await_durable()
                whole, part = bare.once()
                figures.add("bare_restore", "ms", whole)
                figures.add("bare_restore_criu", "ms", part)
                _wake(sleeper)


def _large(cri: Cri, figures: Figures) -> None:
    with make_pod(cri, ARCHITECT) as pod:
        app = start(pod, "web", {"HEAP_MB": "200"})
        app.await_line("listening")
        with Sleeper(app) as sleeper:
            for _ in range(_WAKES_200MB):
                figures.add("hibernate_200mb", "ms", sleeper.hibernate())
                figures.add("wake_first_byte_200mb", "ms", _wake(sleeper))


def _wake(sleeper: Sleeper) -> float:
    sleeper.await_durable()
    took = sleeper.first_byte()
    sleeper.await_settled()
    return took


def _starts(cri: Cri, figures: Figures) -> None:
    names = {ARCHITECT: "pod_start", RUNC: "pod_start_runc"}
    for turn in range(_STARTS + 1):
        for runtime, name in names.items():
            into = figures if turn else Figures()  # the first of each reads its files from the disk
            pod: Pod | None = None
            try:
                with into.timed(name):
                    pod = make_pod(cri, runtime)
                    start(pod, "small")
            finally:
                if pod is not None:
                    pod.remove()


def _execs(cri: Cri, figures: Figures) -> None:
    with make_pod(cri, ARCHITECT) as ours, make_pod(cri, RUNC) as theirs:
        apps = {"exec": start(ours, "web"), "exec_runc": start(theirs, "web")}
        for turn in range(_EXECS + 1):
            for name, app in apps.items():
                with (figures if turn else Figures()).timed(name):
                    app.exec("/usr/bin/true")


def _calls(cri: Cri, figures: Figures) -> None:
    """Task.State, the way containerd calls it; the client is as cheap as can be: it is not what counts."""
    with make_pod(cri, ARCHITECT) as pod:
        app = start(pod, "small")
        request = rpc.Request(
            service=containerd.TASK_V3,
            method="State",
            payload=codec.encode(containerd.StateRequest(id=app.id)),
            timeout_nano=int(SECONDS * 1e9),
        )
        payload = codec.encode(request)
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(SECONDS)
            line.connect(shim_socket(pod))
            for number in range(_CALLS):
                frame = frames.pack(2 * number + 1, frames.REQUEST, frames.REMOTE_CLOSED, payload)
                with figures.timed("task_call", unit="us"):
                    line.sendall(frame)
                    answer = line.recv(1 << 16)
                found = codec.decode(rpc.Response, frames.FrameParser().feed(answer)[0].payload)
                if rpc.error_of(found.status) is not None:
                    raise RuntimeError(f"State answered {found.status}")
