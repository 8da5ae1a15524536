"""Architect comes onto nodes, is replaced by a newer one, and goes: what runs there does not notice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hack.api import Api
from hack.nodes import Node
from tests.e2e import release, sleepers
from tests.e2e.conftest import Before, Kubectl
from tests.e2e.sleepers import fetch, never_disturbed, ready_since, sleeping

# An install may have to wait for kubelet, which backs off from what did not start at once.
pytestmark = pytest.mark.timeout(400)

_LEFT = "ls -d /opt/architect /run/architect /var/lib/architect/* /var/log/architect || true"


def test_an_upgrade_leaves_running_and_sleeping_pods_alone(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node], architect: Before
) -> None:
    for name, node, idle in (("asleep", nodes[0], "2s"), ("awake", nodes[1], "1h")):
        kubectl("apply", "-f", "-", stdin=sleeping(name, node=node, idle=idle))
    asleep, awake = (sleepers.pods_of(api, namespace, name)[0] for name in ("asleep", "awake"))
    asleep.await_asleep()
    since = [ready_since(pod.read()) for pod in (asleep, awake)]
    assert fetch(nodes[0], f"http://{awake.address}:8080/") == "1\n"
    containerds = [_containerd(node) for node in nodes]
    release.install(nodes, "logLevel=debug")
    assert [_containerd(node) for node in nodes] == containerds, "it is restarted only when it has to be"
    for pod in (asleep, awake):
        assert fetch(nodes[0], f"http://{pod.address}:8080/") == ("1\n" if pod is asleep else "2\n")
    assert [ready_since(pod.read()) for pod in (asleep, awake)] == since
    assert never_disturbed(asleep.await_asleep())


def _containerd(node: Node) -> str:
    return node.run(["cat", "/run/services/containerd.pid"])


def test_uninstalled_the_node_is_as_before_and_its_pods_run_on(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node], architect: Before
) -> None:
    for name, node in zip(("first", "second"), nodes, strict=True):
        kubectl("apply", "-f", "-", stdin=sleeping(name, node=node))
    pods = [sleepers.pods_of(api, namespace, name)[0] for name in ("first", "second")]
    since = [ready_since(pod.await_asleep()) for pod in pods]
    release.uninstall(api, nodes)
    for pod in pods:
        seen = pod.read()
        assert seen["spec"]["containers"][0]["resources"] == sleepers.LIMITS, "nobody would raise them later"
        assert sleepers.STATUS not in seen["metadata"]["labels"], "nobody would keep it true"
        assert not any("-requests" in key for key in seen["metadata"]["annotations"])
    for pod, node, began in zip(pods, reversed(nodes), since, strict=True):
        assert fetch(node, f"http://{pod.address}:8080/") == "1\n", "its shim wakes it without a daemon"
        seen = pod.await_requests(sleepers.LIMITS["requests"])
        assert never_disturbed(seen)
        assert ready_since(seen) == began
    assert {node.name: release.containerd_files(node) for node in nodes} == architect.files
    kinds = "all,runtimeclass,mutatingwebhookconfiguration,clusterrole,clusterrolebinding"
    ours = "--selector=app.kubernetes.io/part-of=architect"
    left = release.run("kubectl", "get", kinds, "--all-namespaces", ours, "--output=name")
    assert left == ""
    kubectl("delete", "deployment", "--all")
    for pod in pods:
        api.await_gone(pod.path)


@pytest.fixture
def previous(api: Api, nodes: list[Node], architect: Before) -> Iterator[None]:
    """The version before this one on the nodes, which had none. At the end there is none again."""
    if not release.PREVIOUS.exists():
        pytest.skip("git does not know the version before this one: this checkout is shallow")
    assert {node.name: release.containerd_files(node) for node in nodes} == architect.files
    release.load_images(nodes, release.PREVIOUS / "images")
    release.install(nodes, chart=release.PREVIOUS / "chart")
    yield
    release.uninstall(api, nodes)


@pytest.mark.usefixtures("previous")
def test_an_upgrade_from_the_version_before_leaves_pods_alone_and_drives_their_older_shims(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    for name, node, idle in (
        ("asleep", nodes[0], "2s"),
        ("resting", nodes[1], "2s"),
        ("awake", nodes[1], "1h"),
    ):
        kubectl("apply", "-f", "-", stdin=sleeping(name, node=node, idle=idle))
    asleep, resting, awake = (
        sleepers.pods_of(api, namespace, name)[0] for name in ("asleep", "resting", "awake")
    )
    for pod in (asleep, resting):
        pod.await_label("SCALED_DOWN")
    pods = (asleep, resting, awake)
    since = [ready_since(pod.read()) for pod in pods]
    assert fetch(nodes[0], f"http://{awake.address}:8080/") == "1\n"
    before = [_containerd(node) for node in nodes], [release.containerd_files(node) for node in nodes]
    folders = [_folder(node) for node in nodes]

    release.install(nodes)
    after = [_containerd(node) for node in nodes], [release.containerd_files(node) for node in nodes]
    assert after == before, "containerd executes the shim by a link: it need not be told"
    for node, folder in zip(nodes, folders, strict=True):
        assert _folder(node) != folder
        node.run(["test", "-d", folder])  # of those who run from it
    for pod in (asleep, resting):
        assert never_disturbed(pod.await_asleep())

    kubectl("apply", "-f", "-", stdin=sleeping("newer", node=nodes[0]))
    (newer,) = sleepers.pods_of(api, namespace, "newer")
    newer.await_asleep()
    for pod, expected in ((asleep, 1), (resting, 1), (awake, 2), (newer, 1)):
        assert fetch(nodes[0], f"http://{pod.address}:8080/") == f"{expected}\n"
        pod.await_awake()
    awake.hibernate()
    for pod, expected in ((asleep, 2), (resting, 2), (awake, 3)):
        assert never_disturbed(pod.await_asleep())
        assert fetch(nodes[0], f"http://{pod.address}:8080/") == f"{expected}\n"
    assert [ready_since(pod.read()) for pod in pods] == since

    kubectl("delete", "deployment", "--all")
    for pod in (*pods, newer):
        api.await_gone(pod.path)


def _folder(node: Node) -> str:
    """Where the install is that containerd uses."""
    return node.run(["readlink", "-f", "/opt/architect/current"]).strip()


@pytest.fixture
def clean(nodes: list[Node]) -> None:
    """No pod left that needs a shim."""
    release.install(nodes)


@pytest.mark.usefixtures("clean")
def test_uninstalled_from_nodes_without_sleepers_nothing_is_left_but_copies_that_nobody_took(
    api: Api, nodes: list[Node], architect: Before
) -> None:
    copies = "/var/lib/architect/kept"
    for node in nodes:
        node.run(["rm", "-rf", copies])  # those of other tests
        broken_off = "/var/lib/architect/leaving/shop/web-0-0456"
        node.run(["mkdir", "-p", f"{broken_off}/app/parcel"])
        node.run(["touch", f"{broken_off}/pod.json", f"{broken_off}/app/parcel/layer.pack"])
    nodes[1].run(["mkdir", "-p", f"{copies}/shop/web-1-0123/app"])
    nodes[1].run(["touch", f"{copies}/shop/web-1-0123/app/part.json"])
    release.uninstall(api, nodes)
    assert {node.name: release.containerd_files(node) for node in nodes} == architect.files
    for node, left in zip(nodes, ("", f"{copies}\n"), strict=True):
        whole = node.run(["sh", "-c", "find /var/lib/architect || true"])
        assert node.run(["sh", "-c", _LEFT]) == left, f"left on {node.name}: {whole}"
