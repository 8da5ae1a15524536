"""A container falls asleep when idle and is as if nothing had been when it wakes."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Callable

from hack.control import Daemon, await_phase, await_true, hibernate, status
from tests.node.conftest import Run


def get(address: str, path: str = "/", port: int = 8080) -> str:
    host = f"[{address}]" if ":" in address else address
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=30) as answer:
        return str(answer.read().decode().strip())


def test_an_idle_container_sleeps_and_its_first_packet_wakes_it(
    run: Run, start_daemon: Callable[[], Daemon]
) -> None:
    app = run(idle="1s")
    start_daemon()
    address = app.pod.addresses[0]
    assert [get(address) for _ in range(3)] == ["1", "2", "3"]
    asleep = await_phase(app, "SCALED_DOWN")
    assert asleep.saved_bytes > 0
    assert asleep.image_bytes > 0
    assert get(address) == "4"
    assert status(app).last_wake_cause == "packet"


def test_exec_wakes_without_a_daemon_and_opens_the_gate(run: Run) -> None:
    app = run()
    address = app.pod.addresses[0]
    assert get(address) == "1"
    hibernate(app)
    answer = app.exec("/usr/bin/python3", "-c", "print('hello')")
    assert answer.stdout == b"hello\n"
    assert status(app).last_wake_cause == "exec"
    assert get(address) == "2"


def test_a_packet_wakes_without_a_daemon(run: Run) -> None:
    app = run()
    hibernate(app)
    assert get(app.pod.addresses[0]) == "1"
    assert status(app).last_wake_cause == "packet"


def test_containerd_sees_one_running_container_throughout(run: Run) -> None:
    app = run()
    before = app.status()
    hibernate(app)
    asleep = app.status()
    assert (asleep.state, asleep.started_at) == (before.state, before.started_at)
    get(app.pod.addresses[0], "/log?n=3")
    app.await_line("line 3")
    assert app.status().started_at == before.started_at


def test_the_exit_code_after_a_wake_is_the_applications_own(run: Run) -> None:
    app = run()
    hibernate(app)
    with socket.create_connection((app.pod.addresses[0], 8080), timeout=30) as connection:
        connection.sendall(b"GET /exit?code=7 HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(1)
    await_true(lambda: app.status().exit_code == 7, "the exit code is known")
