"""The cluster itself is what a cluster is expected to be, before anything of Architect is in it."""

from __future__ import annotations

import re
import subprocess
import urllib.request
from collections.abc import Callable

import pytest

from hack import services
from hack.api import Api, Object, Refused, has_condition
from hack.nodes import Node
from tests.e2e.conftest import Kubectl, deployment, service

_LIMITS = {
    "requests": {"cpu": "100m", "memory": "50Mi"},
    "limits": {"cpu": "1", "memory": "100Mi"},
}
_PROBE = {"httpGet": {"path": "/pid", "port": 8080}, "periodSeconds": 1}
_MOUNT = """
import ctypes, os
os.mkdir("/run/shared")
exit(ctypes.CDLL(None).mount(b"none", b"/run/shared", b"tmpfs", 0, None))
"""
Web = Callable[..., list[Object]]


@pytest.fixture
def web(api: Api, kubectl: Kubectl, namespace: str) -> Web:
    """Runs the image `web` behind a Service; returns its pods when all are available, sorted by node."""

    def run(replicas: int = 2) -> list[Object]:
        wanted = deployment("web", replicas=replicas, resources=_LIMITS, readinessProbe=_PROBE)
        kubectl("apply", "-f", "-", stdin=wanted)
        kubectl("apply", "-f", "-", stdin=service("web"))
        kubectl("rollout", "status", "deployment/web", "--timeout=60s")
        pods = api.await_list(
            f"/api/v1/namespaces/{namespace}/pods",
            lambda found: len(found) == replicas,
            labelSelector="app=web",
        )
        return sorted(pods, key=lambda pod: str(pod["spec"]["nodeName"]))

    return run


def _app(pod: Object) -> Object:
    """The status of its container."""
    status: Object = pod["status"]["containerStatuses"][0]
    return status


def _fetch(node: Node, url: str) -> str:
    """What `url` answers to the node; kube-proxy may need a moment until it knows the Service."""
    return node.run(
        ["curl", "--silent", "--fail", "--max-time", "10", "--retry", "20", "--retry-all-errors", url]
    )


def test_two_nodes_are_ready(api: Api, nodes: list[Node]) -> None:
    found = {each["metadata"]["name"]: each for each in api.get("/api/v1/nodes")["items"]}
    assert sorted(found) == [each.name for each in nodes]
    assert all(has_condition(each, "Ready") for each in found.values())
    runtimes = [found[each.name]["status"]["nodeInfo"]["containerRuntimeVersion"] for each in nodes]
    assert [re.sub(r"^containerd://(\d).*", r"\1", each) for each in runtimes] == ["2", "1"]


def test_a_service_answers_through_its_cluster_address_from_every_node(
    api: Api, web: Web, namespace: str, nodes: list[Node]
) -> None:
    pods = web(replicas=2)
    assert [pod["spec"]["nodeName"] for pod in pods] == ["node-1", "node-2"]
    address = api.get(f"/api/v1/namespaces/{namespace}/services/web")["spec"]["clusterIP"]
    for node in nodes:
        for pod in pods:
            assert _fetch(node, f"http://{pod['status']['podIP']}:8080/pid") == "1\n"
        assert _fetch(node, f"http://{address}/pid") == "1\n"
    with urllib.request.urlopen(f"http://{address}/pid", timeout=10) as answer:
        assert answer.read() == b"1\n", "beside the control plane too"


def test_exec_logs_and_port_forward_reach_pods_on_both_nodes(
    web: Web, kubectl: Kubectl, namespace: str
) -> None:
    for pod in web(replicas=2):
        name = pod["metadata"]["name"]
        assert kubectl("exec", name, "--", "cat", "/etc/hostname") == f"{name}\n"
        assert kubectl("logs", name) == "listening\n"
        argv = ["kubectl", f"--namespace={namespace}", "port-forward", f"pod/{name}", ":8080"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as forward:
            try:
                assert forward.stdout
                found = re.search(r"127\.0\.0\.1:(\d+)", forward.stdout.readline())
                assert found
                with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/", timeout=10) as answer:
                    assert answer.read() == b"1\n"
            finally:
                forward.terminate()


def test_requests_are_resized_in_place(api: Api, web: Web, namespace: str) -> None:
    for pod in web(replicas=2):
        path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}"
        nothing = {"cpu": "0", "memory": "0"}
        asked = {"containers": [{"name": "app", "resources": {"requests": nothing}}]}
        api.patch(f"{path}/resize", {"spec": asked})
        resized = api.await_object(path, lambda seen: _app(seen)["resources"]["requests"]["cpu"] == "0")
        # kubelet cannot see a memory request in a running container: `resources` keeps telling the old one.
        assert _app(resized)["allocatedResources"] == nothing
        assert _app(resized)["resources"]["limits"] == _LIMITS["limits"]
        assert _app(resized)["restartCount"] == 0


def test_a_pod_may_use_the_api_as_far_as_its_account_may(
    api: Api, web: Web, kubectl: Kubectl, namespace: str
) -> None:
    (pod,) = web(replicas=1)
    name = pod["metadata"]["name"]
    reach = (
        "import os, socket;"
        "socket.create_connection((os.environ['KUBERNETES_SERVICE_HOST'],"
        " int(os.environ['KUBERNETES_SERVICE_PORT'])), 10)"
    )
    kubectl("exec", name, "--", "/usr/bin/python3", "-c", reach)
    token = kubectl("exec", name, "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token")
    account = Api(token=token)
    with pytest.raises(Refused) as refused:
        account.get(f"/api/v1/namespaces/{namespace}/pods")
    assert refused.value.status == 403
    kubectl("create", "rolebinding", "view", "--clusterrole=view", f"--serviceaccount={namespace}:default")
    api.await_object(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings/view", bool)
    assert account.get(f"/api/v1/namespaces/{namespace}/pods")["items"]


def test_a_privileged_daemonset_sees_and_shares_its_node(
    kubectl: Kubectl, api: Api, namespace: str, nodes: list[Node]
) -> None:
    places = {
        "run": "/run",
        "state": "/var/lib/architect",
        "programs": "/opt/architect",
        "settings": "/etc/containerd",
    }
    spec = deployment("agent")["spec"]["template"]["spec"]
    app = {
        "name": "app",
        "image": "local/web:1",
        "securityContext": {"privileged": True},
        "volumeMounts": [
            {"name": name, "mountPath": path, "mountPropagation": "Bidirectional"}
            for name, path in places.items()
        ],
    }
    volumes = [
        {"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
        for name, path in places.items()
    ]
    pod = {**spec, "hostNetwork": True, "hostPID": True, "containers": [app], "volumes": volumes}
    del pod["topologySpreadConstraints"]
    labels = {"app": "agent"}
    template = {"metadata": {"labels": labels}, "spec": pod}
    body = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
            "spec": {"selector": {"matchLabels": labels}, "template": template}}  # fmt: skip
    kubectl("apply", "-f", "-", stdin=body)
    kubectl("rollout", "status", "daemonset/agent", "--timeout=60s")
    pods = {
        each["spec"]["nodeName"]: each for each in api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    }
    assert sorted(pods) == [each.name for each in nodes]
    for node in nodes:
        found = pods[node.name]
        assert found["status"]["podIP"] == node.address
        kubectl("exec", found["metadata"]["name"], "--", "/usr/bin/python3", "-c", _MOUNT)
        assert "/run/shared" in node.run(["cat", "/proc/self/mounts"]), "a mount of the pod's is the node's"
        node.run(["umount", "/run/shared"])
        node.run(["rmdir", "/run/shared"])


def test_services_that_are_killed_run_again_when_started(
    api: Api, web: Web, nodes: list[Node], kubectl: Kubectl
) -> None:
    web(replicas=2)
    for node in nodes:
        node.kill("kubelet", "containerd")
    services.kill("kube-apiserver")
    services.start("kube-apiserver")
    api.await_ready()
    for node in nodes:
        node.start("containerd", "kubelet")
    kubectl("scale", "deployment/web", "--replicas=4")
    kubectl("rollout", "status", "deployment/web", "--timeout=60s")


def test_a_node_that_lost_power_comes_back_with_its_disk(
    api: Api, web: Web, nodes: list[Node], namespace: str
) -> None:
    pods = web(replicas=2)
    node, name = nodes[1], pods[1]["metadata"]["name"]
    before = api.get(f"/api/v1/nodes/{node.name}")["status"]["nodeInfo"]
    node.run(["touch", "/etc/mark", "/var/lib/architect/mark", "/run/mark"])
    node.power_off()
    node.power_on(nodes)
    after = api.await_object(
        f"/api/v1/nodes/{node.name}", lambda seen: seen["status"]["nodeInfo"]["bootID"] != before["bootID"]
    )
    assert after["status"]["nodeInfo"]["machineID"] == before["machineID"]
    left = node.run(["sh", "-c", "ls /etc/mark /var/lib/architect/mark /run/mark || true"])
    assert left == "/etc/mark\n/var/lib/architect/mark\n"
    node.run(["rm", "/etc/mark", "/var/lib/architect/mark"])
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    restarted = api.await_object(
        path, lambda seen: _app(seen)["restartCount"] and has_condition(seen, "Ready")
    )
    address = restarted["status"]["podIP"]
    assert _fetch(nodes[0], f"http://{address}:8080/pid") == "1\n"
