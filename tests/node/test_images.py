"""The images as they are shipped: they run where nothing else is, and the node image installs itself."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon import VERSION
from hack.control import await_true, describe, hibernate
from hack.cri import Container, Cri, Pod
from tests.node.asking import get
from tests.node.conftest import managed
from tests.node.test_installer import HOME, Supervised, containerd, dumped_runtimes, etc, serves, uninstall

IMAGES = Path("/opt/shipped/images")
# Whatever the image holds must be importable with the libraries and the part of the standard library in it.
IMPORT_ALL = """
import importlib, os, pkgutil, sys
broken = []
for package in sys.argv[1:]:
    importlib.import_module(package)
for room in os.listdir("/usr/lib/architect"):
    if room in ("packages", "__pycache__") or not os.path.exists(f"/usr/lib/architect/{room}/__init__.py"):
        continue
    for found in pkgutil.walk_packages(importlib.import_module(room).__path__, room + "."):
        if not found.name.endswith((".__main__", ".run")):
            try:
                importlib.import_module(found.name)
            except ImportError as error:
                broken.append(f"{found.name}: {error}")
print("broken:", broken)
"""
# What a node may lack: Architect brings its own.
ABSENT = ("/usr/bin/python3", "/usr/bin/tar", "/usr/bin/gzip", "/opt/architect/criu/criu", "/usr/sbin/criu")

pytestmark = pytest.mark.skipif(not IMAGES.exists(), reason="the box was made without --shipped")
__all__ = ["containerd"]  # the fixture


def reference(kind: str) -> str:
    """Loads an image, as a registry would bring it; its name."""
    archive = IMAGES / f"{kind}.tar"
    argv = ["ctr", "--namespace", "k8s.io", "images", "import", "--no-unpack", str(archive)]
    subprocess.run(argv, check=True, capture_output=True, timeout=100)
    return f"docker.io/local/architect-{kind}:{VERSION}"


def ends_well(container: Container) -> list[str]:
    await_true(lambda: container.status().state == 2, "the container has ended")
    assert container.status().exit_code == 0, "\n".join(container.lines())
    return container.lines()


def runs_well(pod: Pod, name: str, image: str, command: list[str]) -> list[str]:
    """All that an init container printed; kubelet starts it anew when it does not end well.

    Which containerd may say of a container that ended while it was being restarted by it.
    """
    told = []
    for attempt in range(3):
        container = pod.start(name, image, command=command, restarts=attempt)
        await_true(lambda ended=container: serves() and ended.status().state == 2, "the container has ended")  # type: ignore[misc]
        told += container.lines()
        if container.status().exit_code == 0:
            return told
    raise AssertionError("\n".join(told))


@contextmanager
def absent(*paths: str) -> Iterator[None]:
    """Paths of the node hidden."""
    # A stand-in for runc, where a node has one, runs on the node's Python.
    needed = ("/usr/bin/python3",) if os.path.islink("/usr/sbin/runc") else ()
    hidden = [path for path in paths if os.path.lexists(path) and path not in needed]
    for path in hidden:
        os.rename(path, path + ".hidden")
    try:
        yield
    finally:
        for path in hidden:
            os.rename(path + ".hidden", path)


@pytest.mark.parametrize(
    ("kind", "packages"),
    [
        ("node", ["aiohttp", "rich"]),
        ("control", ["aiohttp", "grpc", "kubernetes_asyncio.client", "google.protobuf"]),
    ],
)
def test_everything_in_an_image_can_be_imported(cri: Cri, kind: str, packages: list[str]) -> None:
    with Pod(cri, f"image-{kind}", runtime="") as pod:
        app = pod.start("all", reference(kind), args=["-c", IMPORT_ALL, *packages])
        assert ends_well(app)[-1] == "broken: []"


def test_the_daemon_runs_in_the_node_image(cri: Cri) -> None:
    with Pod(cri, "image-daemon", runtime="") as pod:
        app = pod.start("daemon", reference("node"), command=["architectd"], args=["--version"])
        assert ends_well(app) == [f"architectd {VERSION}"]


def test_the_image_installs_on_a_node_without_python_and_criu_and_a_pod_sleeps_there(
    containerd: Supervised, cri: Cri
) -> None:
    before = etc()
    image = reference("node")
    command = ["python3", "-m", "daemon.installer", "install", "--containerd-restart=signal"]
    with absent(*ABSENT), Pod(cri, "architectd", runtime="", privileged=True, host_pid=True) as pod:
        assert "configured runc-architect" in "".join(runs_well(pod, "installer", image, command))
        findings = json.loads("".join(runs_well(pod, "doctor", image, ["architect", "doctor", "--json"])))
        assert [finding for finding in findings["checks"] if not finding["passed"]] == []
        assert dumped_runtimes()["runc-architect"]["runtime_path"].startswith(f"{HOME}/current/")  # type: ignore[attr-defined]
        with Pod(cri, "first", annotations=managed("app")) as first:
            app = first.start("app", "web", ports=[8080])
            app.await_line("listening")
            assert get(app) == "1"
            hibernate(app)
            assert get(app) == "2"
            shim = describe(first).shim_pid
        await_true(lambda: not Path(f"/proc/{shim}").exists(), "the shim has ended")
        command[3] = "uninstall"
        assert "removed /opt/architect" in "".join(runs_well(pod, "uninstaller", image, command))
    assert etc() == before
    uninstall()
