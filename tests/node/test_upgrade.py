"""A release is installed beside an older one: what that one serves goes on, driven by the newer daemon."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hack.control import Daemon, await_phase, await_true, describe, status, wake
from hack.cri import Container, Pod
from tests.node.asking import explain, get, images_of
from tests.node.conftest import MakePod, managed
from tests.node.test_failures import containerd_serves, restart_containerd
from tests.node.test_packets import hibernate_when_quiet

SOURCE = Path(__file__).parents[2]
PROGRAM = "containerd-shim-runc-architect-v1"
NAMED = Path("/opt/architect/bin", PROGRAM)
"""What containerd is configured to start."""
OLD = Path("/opt/architect/0123456789abcdef")
Install = Callable[[Path], None]


@pytest.fixture
def install() -> Iterator[Install]:
    """Makes new pods be served from a tree, in one step, as an installer would; at the end the checkout's."""

    def switch(tree: Path) -> None:
        link = NAMED.with_suffix(".new")
        link.symlink_to(tree / "shim" / PROGRAM)
        link.rename(NAMED)

    yield switch
    switch(SOURCE)
    shutil.rmtree(OLD, ignore_errors=True)


def make_older_release() -> None:
    """The same code with another version, in a directory of its own."""
    for room in ("architect", "shim"):
        shutil.copytree(SOURCE / room, OLD / room, ignore=shutil.ignore_patterns("__pycache__"))
    address = OLD / "shim" / "address.py"
    address.write_text(address.read_text().replace('VERSION = "', 'VERSION = "0.0.1-before-'))


def served_from(pod: Pod) -> str:
    """The program of the shim that serves a pod."""
    return Path(f"/proc/{describe(pod).shim_pid}/cmdline").read_text().split("\0")[2]


def start(pod: Pod, name: str = "app", port: int = 8080) -> Container:
    app = pod.start(name, "web", ports=[port], env={"PORT": str(port)})
    app.await_line("listening")
    return app


def test_shims_of_an_older_release_go_on_and_are_driven_by_the_newer_daemon(
    make_pod: MakePod, install: Install
) -> None:
    make_older_release()
    install(OLD)
    old = start(make_pod(annotations=managed("app", idle="1s")))
    assert served_from(old.pod) == str(OLD / "shim" / PROGRAM)
    assert get(old) == "1"
    hibernate_when_quiet(old)
    shim = describe(old.pod).shim_pid

    install(SOURCE)  # while it sleeps
    restart_containerd()
    await_true(containerd_serves, "containerd serves")
    new = start(make_pod(annotations=managed("app", idle="1s")))
    assert served_from(new.pod) == str(SOURCE / "shim" / PROGRAM)
    with Daemon():
        assert get(old) == "2"
        for app in (old, new):
            await_phase(app, "SCALED_DOWN")
            await_true(lambda app=app: explain(app).get("state") == "SCALED_DOWN", "it knows")  # type: ignore[misc]
        assert [get(old), get(new)] == ["3", "1"]
        assert old.exec("/usr/bin/python3", "-c", "print(1)").stdout == b"1\n"
    assert describe(old.pod).shim_pid == shim
    old.stop()
    assert old.status().exit_code == 0
    old.pod.remove()
    await_true(lambda: not Path(f"/proc/{shim}").exists(), "the old shim has ended with its pod")


def test_a_shim_whose_files_are_gone_still_wakes_its_containers(make_pod: MakePod, install: Install) -> None:
    make_older_release()
    install(OLD)
    app = start(make_pod(annotations=managed("app")))
    assert get(app) == "1"
    hibernate_when_quiet(app)
    install(SOURCE)
    shutil.rmtree(OLD)  # as no installer should
    assert wake(app).wakes == 1
    assert get(app) == "2"
    hibernate_when_quiet(app)
    assert app.exec("/usr/bin/python3", "-c", "print(1)").stdout == b"1\n"
    assert (get(app), status(app).failures) == ("3", [])
    app.remove()
    assert images_of(app) == []
    app.pod.remove()
    assert not os.path.lexists(OLD)
