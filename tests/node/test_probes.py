"""Probes and scrapers have doors of their own: a sleeper is well, and sleeps on; the awake are asked."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from architect.gate import MARK, netns
from architect.probes import EXEC_PROBE, PROBES, SHADOWS
from architect.ttrpc.client import Code, RpcError
from hack import cri_messages as m
from hack.certificates import Authority
from hack.control import SECONDS, Daemon, await_phase, await_true, hibernate, status, wake
from hack.cri import Container
from tests.node.conftest import Run
from tests.node.probed import SAYS, SERVICE, SERVING
from tests.node.test_packets import hibernate_when_quiet

CHECKOUT = Path(__file__).parents[2]
NONSENSE = (b"\0" * 100, b"GET / HTTP/1.1\r\n" + b"x" * (1 << 17), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
HTTP, HTTPS, TCP, GRPC, SCRAPE, NOBODY, NOBODY_TCP = range(29080, 29087)
"""Shadow ports; behind the last two nothing listens."""
_CYCLES = 4
_KUBELET_SECONDS: Final = 3.0
"""What kubelet would wait for an answer, when one is not to come; others get the whole deadline."""
APP, US = "the application", "Architect"

Ask = Callable[[Container], str]
"""One probe, as kubelet asks it: who has answered that all is well. AssertionError when it has failed."""


@pytest.fixture
def probed(run: Run, tmp_path: Path) -> Callable[..., Container]:
    """Runs tests/node/probed.py in a pod with a door of each kind."""

    def start(**wanted: object) -> Container:
        Authority(str(tmp_path)).issue("app", "/CN=app", ["DNS:app"])
        probes = [
            {"containerName": "app", "appPort": 8080, "shadowPort": HTTP},
            {"containerName": "app", "appPort": 8443, "shadowPort": HTTPS, "protocol": "HTTPS"},
            {"containerName": "app", "appPort": 8080, "shadowPort": TCP, "protocol": "TCP"},
            {"containerName": "app", "appPort": 9090, "shadowPort": GRPC, "protocol": "GRPC"},
            {"containerName": "app", "appPort": 1, "shadowPort": NOBODY},
            {"containerName": "app", "appPort": 1, "shadowPort": NOBODY_TCP, "protocol": "TCP"},
        ]
        scrape = [{"containerName": "app", "appPort": 8080, "shadowPort": SCRAPE}]
        notes = {PROBES: json.dumps({"mappings": probes}), SHADOWS: json.dumps({"mappings": scrape})}
        places = {"/usr": "/usr", "/opt/venv": "/opt/venv", "/src": str(CHECKOUT), "/keys": str(tmp_path)}
        return run(
            "web",
            ports=[8080, 8443, 9090, HTTP, SCRAPE],
            extra=notes,
            command=["/opt/venv/bin/python3", "-B", "/src/tests/node/probed.py"],
            mounts=[m.Mount(inside, outside, readonly=True) for inside, outside in places.items()],
            **wanted,
        )

    return start


def get(
    app: Container, port: int, path: str = "/", *, six: bool = False, seconds: float = SECONDS
) -> tuple[int, str]:
    """Status and body of a page. Raises OSError, http.client.HTTPException."""
    connection = http.client.HTTPConnection(app.pod.addresses[six], port, timeout=seconds)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode().strip()
    finally:
        connection.close()


def by_http(port: int, *, six: bool = False) -> Ask:
    def ask(app: Container) -> str:
        code, body = get(app, port, six=six)
        assert code == 200, body
        return US if body.startswith("asleep: ") else body

    return ask


def by_tcp(app: Container) -> str:
    answer = by_http(TCP)(app)
    return APP if answer == "connected" else answer


def by_grpc(app: Container, seconds: float = SECONDS) -> str:
    with grpc.insecure_channel(f"{app.pod.addresses[0]}:{GRPC}") as channel:
        check: Any = channel.unary_unary(f"/{SERVICE}/Check")
        answer, call = check.with_call(b"", timeout=seconds)
    assert answer == SERVING
    return next((str(value) for key, value in call.trailing_metadata() if key == "from"), US)


def by_exec(app: Container) -> str:
    answer = app.exec(EXEC_PROBE, "/usr/bin/echo", SAYS)
    assert answer.exit_code == 0, answer
    return answer.stdout.decode().strip() or US


KINDS: Final[dict[str, Ask]] = {
    "HTTP": by_http(HTTP),
    "HTTP over IPv6": by_http(HTTP, six=True),
    "HTTPS": by_http(HTTPS),
    "TCP": by_tcp,
    "gRPC": by_grpc,
    "exec": by_exec,
}


@contextmanager
def kubelet(app: Container, period: float = 0.05) -> Iterator[Counter[tuple[str, str]]]:
    """Probes of every kind, again and again; counts who answered which. Any failure is raised at the end."""
    seen: Counter[tuple[str, str]] = Counter()
    over = threading.Event()

    def ask(kind: str) -> None:
        while not over.wait(period):
            seen[kind, KINDS[kind](app)] += 1

    with ThreadPoolExecutor(len(KINDS)) as pool:
        asking = [pool.submit(ask, kind) for kind in KINDS]
        try:
            yield seen
        finally:
            over.set()
    for each in asking:
        each.result()


def await_each(seen: Counter[tuple[str, str]], who: str) -> None:
    """Returns when probes of every kind have been answered by `who` from now on."""
    before = seen.copy()
    await_true(
        lambda: all(seen[kind, who] > before[kind, who] for kind in KINDS),
        f"probes of every kind are answered by {who}",
    )


def test_probes_are_answered_through_sleeps_and_wakes_and_wake_nobody(
    probed: Callable[..., Container],
) -> None:
    app = probed()
    with kubelet(app) as seen:
        for cycle in range(1, _CYCLES + 1):
            await_each(seen, APP)
            hibernate_when_quiet(app)
            await_each(seen, US)
            now = status(app)
            assert (now.phase, now.sleeps, now.wakes) == ("SCALED_DOWN", cycle, cycle - 1)
            wake(app)
        await_each(seen, APP)
    assert {failure.reason for failure in status(app).failures} == set()


@pytest.mark.parametrize("monitor", ["packets", "connections"])
def test_a_container_that_only_probes_ask_falls_asleep(
    probed: Callable[..., Container], start_daemon: Callable[[], Daemon], monitor: str
) -> None:
    app = probed(idle="2s", monitor=monitor)
    start_daemon()
    with kubelet(app) as seen:
        await_phase(app, "SCALED_DOWN")
        await_each(seen, US)
        assert get(app, 8080) == (200, SAYS)
        await_phase(app, "SCALED_DOWN")
    assert status(app).wakes == 1


def test_a_scraper_gets_pages_from_the_awake_and_wakes_nobody(probed: Callable[..., Container]) -> None:
    app = probed()
    assert get(app, SCRAPE) == (200, SAYS)
    hibernate_when_quiet(app)
    code, body = get(app, SCRAPE)
    assert (code, "asleep" in body) == (503, True)
    assert status(app).phase == "SCALED_DOWN"


def test_an_application_that_hangs_fails_its_probes_and_stays_awake(
    probed: Callable[..., Container],
) -> None:
    app = probed()
    os.kill(app.pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        get(app, HTTP, seconds=_KUBELET_SECONDS)
    with pytest.raises(TimeoutError):
        get(app, HTTPS, seconds=_KUBELET_SECONDS)
    with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
        by_grpc(app, seconds=_KUBELET_SECONDS)
    await_true(lambda: "probe" in status(app).refusal, "its probes speak against sleep")
    with pytest.raises(RpcError, match="its last probe got no answer") as refusal:
        hibernate(app)
    assert refusal.value.code is Code.FAILED_PRECONDITION
    os.kill(app.pid, signal.SIGCONT)
    for ask in KINDS.values():
        assert ask(app) == APP
    await_true(lambda: not status(app).refusal, "well again, it may sleep")


@pytest.mark.parametrize("port", [HTTP, HTTPS])
def test_an_answer_that_says_ill_is_passed_on_and_keeps_it_awake(
    probed: Callable[..., Container], port: int
) -> None:
    app = probed()
    assert get(app, port, "/ill") == (500, SAYS)
    await_true(lambda: "500" in status(app).refusal, "what the probe said speaks against sleep")


def test_where_nobody_listens_a_probe_fails(probed: Callable[..., Container]) -> None:
    app = probed()
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        get(app, NOBODY)
    code, body = get(app, NOBODY_TCP)
    assert (code, "could not connect to port 1" in body) == (503, True)


def test_an_exec_probe_that_fails_fails_and_one_that_ends_badly_keeps_it_awake(
    probed: Callable[..., Container],
) -> None:
    app = probed()
    assert app.exec(EXEC_PROBE, "/usr/bin/false").exit_code == 1
    assert "ended with status 1" in status(app).refusal
    with pytest.raises(grpc.RpcError):
        app.exec(EXEC_PROBE, "/no/such/program")


def test_a_probe_under_way_is_answered_before_sleep(probed: Callable[..., Container]) -> None:
    app = probed()
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(get, app, HTTP, "/slow")
        await_true(lambda: _open_to(app, 8080) > 0, "the application has the probe")
        sleep = pool.submit(hibernate_when_quiet, app)  # it gives up on a probe that takes too long
        await_true(lambda: KINDS["HTTP"](app) == US, "falling asleep, others are answered by us")
        assert not sleep.done()
        _inside(app, 8080, "/go")
        assert slow.result(SECONDS) == (200, SAYS)
        assert sleep.result(SECONDS).phase == "SCALED_DOWN"


def test_a_probe_that_gets_no_answer_keeps_it_awake(probed: Callable[..., Container]) -> None:
    app = probed()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(get, app, HTTP, "/slow")
        await_true(lambda: _open_to(app, 8080) > 0, "the application has the probe")
        with pytest.raises(RpcError, match="waits for its answer") as refusal:
            hibernate(app)
        assert refusal.value.code is Code.ABORTED
        assert get(app, 8080, "/go") == (200, SAYS)
        assert slow.result(SECONDS) == (200, SAYS)
    assert hibernate_when_quiet(app).phase == "SCALED_DOWN"


def test_a_connection_kept_in_stock_does_not_keep_it_awake(probed: Callable[..., Container]) -> None:
    app = probed()
    connection = http.client.HTTPConnection(app.pod.addresses[0], SCRAPE, timeout=SECONDS)
    connection.request("GET", "/")
    assert connection.getresponse().read().decode() == SAYS
    assert hibernate_when_quiet(app).phase == "SCALED_DOWN"
    assert connection.sock.recv(1) == b""  # and is ended properly
    connection.close()


def test_of_a_container_that_has_ended_nothing_is_said(probed: Callable[..., Container]) -> None:
    app = probed()
    os.kill(app.pid, signal.SIGKILL)
    await_phase(app, "STOPPED")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        get(app, HTTP)
    with pytest.raises(grpc.RpcError):
        by_grpc(app)


def test_nonsense_and_silence_wake_nobody_and_are_let_go(probed: Callable[..., Container]) -> None:
    app = probed()
    hibernate(app)
    with ExitStack() as stack:
        for port in (HTTP, GRPC, SCRAPE):
            for said in NONSENSE:
                one = stack.enter_context(socket.create_connection((app.pod.addresses[0], port), SECONDS))
                try:
                    one.sendall(said)
                    one.shutdown(socket.SHUT_WR)
                    while one.recv(1 << 16):
                        pass
                except TimeoutError:
                    raise
                except OSError:
                    pass  # reset (ENOTCONN, if before `shutdown`) is as good an end
        silent = [
            stack.enter_context(socket.create_connection((app.pod.addresses[0], HTTP), SECONDS))
            for _ in range(100)
        ]
        assert KINDS["HTTP"](app) == US
        assert all(each.recv(1) == b"" for each in silent[:30])  # who stays longest has to go
    for ask in KINDS.values():
        assert ask(app) == US
    assert status(app).wakes == 0


def _open_to(app: Container, port: int) -> int:
    """Established connections of a container's network namespace with this local port."""
    end = f":{port:04X}"
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{app.pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return sum(row[1].endswith(end) and row[3] == "01" for row in rows)


def _inside(app: Container, port: int, path: str) -> None:
    """Asks the application by a marked connection, as a door would: while its gate is closed, too."""
    with netns.socket_in(app.pod.netns, socket.AF_INET, socket.SOCK_STREAM) as one:
        one.settimeout(SECONDS)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        one.connect(("127.0.0.1", port))
        one.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        deadline = time.monotonic() + SECONDS
        while one.recv(1 << 16) and time.monotonic() < deadline:
            pass
