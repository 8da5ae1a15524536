"""Tests on a real Kubernetes of two nodes, made by hack/cluster.py, one for the whole run.

A test gets a namespace of its own, which is removed after it. What a test stops it starts again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from hack import cluster_up
from hack.api import Api, Object
from hack.nodes import Node
from tests.e2e import release

Kubectl = Callable[..., str]
_names = count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lacking = "" if shutil.which("kubectl") and "KUBECONFIG" in os.environ else "needs hack/cluster.py run"
    for item in items:
        if item.path.parent.name == "e2e":
            item.add_marker(pytest.mark.cluster)
            if lacking:
                item.add_marker(pytest.mark.skip(reason=lacking))
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """What wants the cluster without Architect comes first, what takes it off the nodes last."""
    if item.path.parent.name != "e2e" or "architect" not in getattr(item, "fixturenames", ()):
        return 0
    return 2 if item.path.name == "test_installation.py" else 1


@pytest.fixture(scope="session")
def api() -> Api:
    """The API, as an administrator."""
    return Api()


@pytest.fixture(scope="session")
def nodes() -> list[Node]:
    """Both nodes: Debian forky with containerd 2, trixie with containerd 1.7."""
    return [Node(1), Node(2)]


@dataclasses.dataclass(frozen=True)
class Before:
    """What the nodes were before Architect: their containerd's files, by node and path."""

    files: dict[str, dict[str, str]]


@pytest.fixture(scope="session")
def architect(api: Api, nodes: list[Node]) -> Before:
    """Architect on both nodes, as its chart installs it."""
    before = Before({node.name: release.containerd_files(node) for node in nodes})
    # Tests of the webhook alone have one of this name.
    api.await_gone(f"/api/v1/namespaces/{release.NAMESPACE}")
    release.load_images(nodes)
    release.choose(api, nodes)
    release.install(nodes)
    return before


@pytest.fixture(scope="session")
def migration(architect: Before, nodes: list[Node]) -> None:
    """Both nodes take part in moves."""
    del architect
    release.await_certified(nodes)


@pytest.fixture
def namespace(api: Api) -> Iterator[str]:
    """A namespace for the test."""
    name = f"test-{next(_names)}"
    api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    api.await_object(f"/api/v1/namespaces/{name}/serviceaccounts/default", bool)
    yield name
    api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def kubectl(namespace: str) -> Kubectl:
    """kubectl in the test's namespace: `kubectl("get", "pods", stdin=manifest)` returns what it printed."""

    def run(*arguments: str, stdin: Any = None, timeout: float = 90) -> str:
        given = stdin if isinstance(stdin, str) or stdin is None else json.dumps(stdin)
        done = subprocess.run(
            ["kubectl", f"--namespace={namespace}", *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {arguments} ended with {done.returncode}: {done.stderr}"
        return done.stdout

    return run


def deployment(name: str, image: str = "web", *, replicas: int = 1, **container: Any) -> Object:
    """A Deployment of a test image, its pods spread over the nodes; `container` adds to its one, `app`."""
    labels = {"app": name}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels},
    }
    app = {"name": "app", "image": f"local/{image}:1", "ports": [{"containerPort": 8080}], **container}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "topologySpreadConstraints": [spread],
                    "containers": [app],
                },
            },
        },
    }


def service(name: str, port: int = 8080) -> Object:
    """A Service on port 80 for the pods of the Deployment `name`."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": port}]},
    }


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Keep the cluster's logs when a test failed: the cluster ends with us."""
    if session.testsfailed and "KUBECONFIG" in os.environ:
        cluster_up.keep_logs("/out/cluster")
