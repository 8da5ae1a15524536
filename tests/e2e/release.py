"""Architect on the test cluster: its images on the nodes, its chart installed, upgraded and deleted.

Everything goes through Helm, as for users. What a user's nodes have and these lack is a supervisor that
starts a containerd again which the installer ended: hack/services.py keeps it meanwhile.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from hack.api import Api
from hack.nodes import Node

NAMESPACE: Final = "architect"
CHART: Final = Path(__file__).parents[2] / "deploy/charts/architect"
PREVIOUS: Final = Path("/opt/previous")
"""The version before: `chart/` and `images/`; not there where git does not know it."""
_IMAGES: Final = Path("/opt/shipped/images")
_SETTINGS: Final = (
    "image.repository=docker.io/local/architect",
    "containerd.restart=signal",
)
_CHOSEN: Final = {"architect.loopholelabs.io/node": "true"}


def load_images(nodes: Sequence[Node], folder: Path = _IMAGES) -> None:
    """Import the images as they are shipped on every node."""

    def load(node: Node, archive: Path) -> None:
        with archive.open("rb") as file:
            node.run(
                ["ctr", "--namespace", "k8s.io", "images", "import", "--no-unpack", "-"],
                stdin=file,
                timeout=300,
            )

    with ThreadPoolExecutor() as pool:
        jobs = [
            pool.submit(load, node, folder / f"{kind}.tar") for node in nodes for kind in ("node", "control")
        ]
        for job in jobs:
            job.result()


def choose(api: Api, nodes: Sequence[Node]) -> None:
    """Label the nodes that are to have Architect."""
    for node in nodes:
        api.patch(f"/api/v1/nodes/{node.name}", {"metadata": {"labels": _CHOSEN}})


def install(nodes: Sequence[Node], *settings: str, chart: Path = CHART) -> None:
    """Install the chart, or upgrade to it, and wait until all of it is ready."""
    given = [f"--set={each}" for each in (*_SETTINGS, *settings)]
    with ExitStack() as kept:
        for node in nodes:
            kept.enter_context(node.keep("containerd"))
        _helm("upgrade", "--install", "--create-namespace", *given, "architect", str(chart))
        await_ready()


def await_ready() -> None:
    """Wait until all of it is rolled out."""
    listed = run("kubectl", f"--namespace={NAMESPACE}", "get", "daemonsets,deployments", "--output=name")
    for each in listed.split():
        run("kubectl", f"--namespace={NAMESPACE}", "rollout", "status", each, "--timeout=120s")


def await_certified(nodes: Sequence[Node], seconds: float = 60) -> None:
    """Wait until the nodes take part in migrations."""
    deadline = time.monotonic() + seconds
    for node in nodes:
        metrics = f"curl --silent --fail http://{node.address}:9644/metrics || true"
        while "\narchitect_migrations_ready 1.0\n" not in node.run(["sh", "-c", metrics]):
            assert time.monotonic() < deadline, f"{node.name} has no certificate"
            time.sleep(0.5)


def uninstall(api: Api, nodes: Sequence[Node]) -> None:
    """Delete the release; returns when its hook has taken everything off the nodes and its pods are gone."""
    with ExitStack() as kept:
        for node in nodes:
            kept.enter_context(node.keep("containerd"))
        _helm("uninstall", "architect")
    api.await_list(f"/api/v1/namespaces/{NAMESPACE}/pods", lambda found: not found)


def containerd_files(node: Node) -> dict[str, str]:
    """What containerd on the node reads as its configuration: content by path."""
    paths = node.run(["find", "/etc/containerd"]).split()
    return {path: node.run(["sh", "-c", f"test -d {path} || cat {path}"]) for path in paths}


def _helm(*arguments: str) -> None:
    run("helm", f"--namespace={NAMESPACE}", *arguments)


def run(*argv: str, timeout: float = 180) -> str:
    """What a command printed; fails the test with what it complained about."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{argv} ended with {done.returncode}: {done.stderr}\n{done.stdout[-2000:]}"
    return done.stdout


def failed(*argv: str, timeout: float = 180) -> str:
    """What a command complained about that is to fail."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode != 0, f"{argv} did not fail: {done.stdout[-2000:]}"
    return done.stderr


def version() -> str:
    """The tag of the images: the chart's version of the program."""
    found = re.search(r'^appVersion: "?([^"\n]+)"?$', (CHART / "Chart.yaml").read_text(), re.MULTILINE)
    assert found
    return found[1]
