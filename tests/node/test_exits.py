"""How a container ended is told truthfully, after any number of wakes."""

from __future__ import annotations

import os
import socket

import pytest

from hack import cri_messages as m
from hack.control import await_true, hibernate, wake
from tests.node.conftest import Run

MEMORY = 64 << 20
PATIENT = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("listening", flush=True)
signal.sigwait([signal.SIGTERM])
sys.exit(9)
"""


def ask(address: str, path: str) -> None:
    with socket.create_connection((address, 8080), timeout=30) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        connection.recv(1)


@pytest.mark.skipif(
    not any(os.path.exists(f"/sys/fs/cgroup/{name}") for name in ("memory", "memory.stat")),
    reason="this node's cgroups do not count memory",
)
@pytest.mark.parametrize("wakes", [0, 2])
def test_a_container_killed_for_its_memory_says_so(run: Run, wakes: int) -> None:
    limits = m.Resources(cpu_period=100_000, cpu_shares=2, memory_limit_in_bytes=MEMORY, oom_score_adj=1000)
    app = run(resources=limits)
    for _ in range(wakes):
        hibernate(app)
        wake(app)
    ask(app.pod.addresses[0], "/heap?mb=200")
    await_true(lambda: app.status().finished_at > 0, "the container has ended")
    await_true(lambda: app.status().reason == "OOMKilled", "the reason is known")
    assert app.status().exit_code == 137


@pytest.mark.parametrize("code", [0, 7])
def test_an_exit_code_is_the_applications_own_after_many_wakes(run: Run, code: int) -> None:
    app = run()
    for _ in range(3):
        hibernate(app)
        wake(app)
    ask(app.pod.addresses[0], f"/exit?code={code}")
    await_true(lambda: app.status().finished_at > 0, "the container has ended")
    assert app.status().exit_code == code


def test_a_sleeper_that_is_stopped_gets_its_sigterm(run: Run) -> None:
    program = (
        "import signal, sys; print('listening', flush=True); signal.sigwait([signal.SIGTERM]); sys.exit(9)"
    )
    setup = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); "
    app = run("web", command=["/usr/bin/python3", "-c", setup + program])
    hibernate(app)
    app.stop()
    assert app.status().exit_code == 9
