"""Tests on a real node: containerd, runc, CRIU and packets, in a box made by hack/node.py (one box for the
run).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import count

import pytest

from hack.control import Daemon
from hack.cri import SLOWNESS, Container, Cri, Pod

PREFIX = "architect.loopholelabs.io/"
MakePod = Callable[..., Pod]
Run = Callable[..., Container]
_STARTED = "" if SLOWNESS == 1 else f"{2 * SLOWNESS:.0f}s"
"""Initial delay where starting an application takes longer than tests are idle: it would sleep before it
listens."""
_names = count(1)


def managed(*names: str, idle: str = "1h", monitor: str = "packets", initial: str = "") -> dict[str, str]:
    """The annotations of a pod whose containers `names` are managed; `monitor` "": no network-monitor."""
    found = {
        PREFIX + "managed-containers": json.dumps(list(names)),
        PREFIX + "scaledown-durations": json.dumps(dict.fromkeys(names, idle)),
    }
    if monitor:
        found[PREFIX + "network-monitor"] = json.dumps(dict.fromkeys(names, monitor))
    if initial:
        found[PREFIX + "initial-scaledown-delays"] = json.dumps(dict.fromkeys(names, initial))
    return found


@pytest.fixture(scope="session")
def cri() -> Iterator[Cri]:
    with Cri() as client:
        yield client


@pytest.fixture
def make_pod(cri: Cri) -> Iterator[MakePod]:
    """Makes pods (arguments of hack.cri.Pod after the name); all are removed after the test."""
    with ExitStack() as stack:

        def make(name: str = "", **wanted: object) -> Pod:
            return stack.enter_context(Pod(cri, name or f"pod-{next(_names)}", **wanted))  # type: ignore[arg-type]

        yield make


@pytest.fixture
def run(make_pod: MakePod) -> Run:
    """Runs one managed container `app` in a pod of its own and returns when it listens."""

    def start(
        image: str = "web",
        *,
        ports: Sequence[int | tuple[int, str]] = (8080,),
        idle: str = "1h",
        monitor: str = "packets",
        initial: str = _STARTED,
        extra: Mapping[str, str] | None = None,
        line: str = "listening",
        **wanted: object,
    ) -> Container:
        notes = {**managed("app", idle=idle, monitor=monitor, initial=initial), **(extra or {})}
        container = make_pod(annotations=notes).start("app", image, ports=ports, **wanted)
        container.await_line(line)
        return container

    return start


@pytest.fixture
def start_daemon() -> Iterator[Callable[[], Daemon]]:
    """Starts a daemon, for tests with short idle times: an application first starts up in peace."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Daemon())


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A running daemon."""
    with Daemon() as running:
        yield running
