"""What a node pays for pods that do nothing: memory of the shims, memory and CPU time of the daemon.

The last pods stay until the node ends: that removes them faster than containerd could.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from hack.bench_daemon import Door
from hack.bench_figures import Figures
from hack.bench_pods import ARCHITECT, RUNC, Sleeper, make_pod, start
from hack.bench_processes import cpu_seconds, pss_of_all, rss
from hack.control import API, Daemon, await_true
from hack.cri import Container, Cri

_PODS: Final = 50
_CONTAINERS: Final = 200
_AT_A_TIME: Final = 2
_WATCHED_SECONDS: Final = 30.0
_OURS: Final = ("architect-shim", "architect-zygot")  # the kernel keeps 15 bytes of a name
_WAITING: Final = ("criu",)
_RUNCS: Final = ("containerd-shim",)


def costs(cri: Cri, figures: Figures) -> None:
    """Everything that is measured by what it takes."""
    theirs = _start_all(cri, RUNC, _PODS)
    figures.add("runc_shim_pss", "MiB/pod", pss_of_all(_RUNCS) / _PODS)
    _in_turns(lambda each: each.pod.remove(), theirs)
    ours = _start_all(cri, ARCHITECT, _PODS)
    figures.add("shim_pss_awake", "MiB/pod", pss_of_all(_OURS) / _PODS)
    _hibernate(ours)
    figures.add("shim_pss_asleep", "MiB/pod", pss_of_all(_OURS) / _PODS)
    figures.add("waiting_criu_pss", "MiB/pod", pss_of_all(_WAITING) / _PODS)
    _in_turns(_wake, ours)
    ours += _start_all(cri, ARCHITECT, _CONTAINERS - _PODS)
    with Daemon() as daemon:
        _watch(daemon, "RUNNING", "daemon_cpu_200_idle", figures)
        _hibernate(ours)
        _watch(daemon, "SCALED_DOWN", "daemon_cpu_200_sleepers", figures)
        figures.add("daemon_rss", "MiB", rss(daemon.pid))


def _start_all(cri: Cri, runtime: str, count: int) -> list[Container]:
    def one(_: int) -> Container:
        return start(make_pod(cri, runtime), "small")

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        started = list(pool.map(one, range(count)))
    for container in started:
        container.await_line("listening")
    return started


def _in_turns(work: Callable[[Container], None], containers: Sequence[Container]) -> None:
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        list(pool.map(work, containers))


def _hibernate(containers: Sequence[Container]) -> None:
    for container in containers:
        with Sleeper(container) as sleeper:
            sleeper.hibernate()


def _wake(container: Container) -> None:
    with Sleeper(container) as sleeper:
        sleeper.wake()
        sleeper.await_settled()


def _watch(daemon: Daemon, phase: str, name: str, figures: Figures) -> None:
    """CPU seconds per minute of a daemon that has nothing to do, once it knows of everything."""
    door = Door(API)
    await_true(lambda: door.followed(phase) == _CONTAINERS, f"the daemon follows {_CONTAINERS} containers")
    began, before = time.monotonic(), cpu_seconds(daemon.pid)
    time.sleep(_WATCHED_SECONDS)
    used, passed = cpu_seconds(daemon.pid) - before, time.monotonic() - began
    if door.followed(phase) != _CONTAINERS:
        raise RuntimeError(f"not all {_CONTAINERS} containers were {phase} throughout")
    figures.add(name, "s/min", used * 60 / passed)
