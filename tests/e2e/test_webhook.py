"""The webhook before a real API server: who is changed, who is refused, who never notices that it is down.

Only objects are looked at: whether a prepared pod sleeps is for others to show.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from hack.api import Api, Object, Refused
from hack.nodes import CONTROL_PLANE
from tests.e2e.conftest import Kubectl
from webhook.asking import LABEL
from webhook.configuration import configuration

PREFIX = LABEL.removesuffix("hibernate")
PORT = 8443
HOME = "architect"
NAME = "architect-webhook"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
CLASSES = "/apis/node.k8s.io/v1/runtimeclasses"
WHERE = {"architect.loopholelabs.io/node": "true"}


class Webhook:
    """The program, beside the API server as its Service says."""

    def __init__(self, port: int = PORT) -> None:
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [sys.executable, "-m", "webhook", f"--port={self._port}", "--self-signed"]
        os.makedirs("/out", exist_ok=True)
        with open(f"/out/webhook-{self._port}.log", "ab") as log:
            self._process = subprocess.Popen([*argv, f"--kubeconfig={os.environ['KUBECONFIG']}"], stderr=log)

    def await_ready(self) -> None:
        trusting = ssl._create_unverified_context()
        deadline = time.monotonic() + 60
        while True:
            try:
                url = f"https://{CONTROL_PLANE}:{self._port}/readyz"
                with urllib.request.urlopen(url, context=trusting, timeout=10) as answer:
                    assert answer.status == 200
                    return
            except OSError as error:
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                assert self._process
                assert self._process.poll() is None, "the webhook has ended"
                assert time.monotonic() < deadline, "the webhook is not ready within a minute"
                time.sleep(0.05)  # before it listens there is nobody to tell

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self._process
        self._process.send_signal(number)
        return self._process.wait(60)


@pytest.fixture(scope="module")
def webhook(api: Api) -> Iterator[Webhook]:
    """The webhook, trusted by the API server; an empty namespace of its own; the runtime class."""
    api.create("/api/v1/namespaces", {"metadata": {"name": HOME}})
    scheduling = {"nodeSelector": WHERE}
    api.create(CLASSES, {"metadata": {"name": "runc-architect"}, "handler": "runc", "scheduling": scheduling})
    service = {"metadata": {"name": NAME}, "spec": {"ports": [{"port": 443, "targetPort": PORT}]}}
    api.create(f"/api/v1/namespaces/{HOME}/services", service)
    api.create(f"/apis/discovery.k8s.io/v1/namespaces/{HOME}/endpointslices", _endpoint())
    api.create(CONFIGURATIONS, configuration(NAME, service=NAME, namespace=HOME))
    found = Webhook()
    found.start()
    try:
        found.await_ready()
        _await_admission(api)
        yield found
    finally:
        found.stop()
        api.delete(f"{CONFIGURATIONS}/{NAME}")
        api.delete(f"{CLASSES}/runc-architect")
        api.delete(f"/api/v1/namespaces/{HOME}")


def _endpoint() -> Object:
    return {
        "metadata": {"name": NAME, "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": PORT}],
        "endpoints": [{"addresses": [CONTROL_PLANE], "conditions": {"ready": True}}],
    }


def _await_admission(api: Api) -> None:
    """Waits until the API server has noticed configuration and Service: it says nowhere that it has."""
    deadline = time.monotonic() + 60
    while True:
        try:
            found = api.create("/api/v1/namespaces/default/pods?dryRun=All", pod("x"))
            if found["spec"].get("runtimeClassName"):
                return
            last = "the pod was not changed"
        except Refused as error:
            last = str(error)
        assert time.monotonic() < deadline, last
        time.sleep(0.05)


def pod(name: str, label: str | None = "true", annotations: Any = None, **spec: Any) -> Object:
    probe = {"httpGet": {"path": "/pid", "port": 8080}}
    app = {
        "name": "app",
        "image": "local/web:1",
        "ports": [{"containerPort": 8080}],
        "livenessProbe": probe,
        "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "100m"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {LABEL: label} if label is not None else {},
            "annotations": {f"{PREFIX}{key}": value for key, value in (annotations or {}).items()},
        },
        "spec": {"containers": [app], **spec},
    }


def create(api: Api, namespace: str, given: Object, query: str = "") -> Object:
    return api.create(f"/api/v1/namespaces/{namespace}/pods{query}", given)


def prepared(found: Object) -> bool:
    return bool(found["spec"].get("runtimeClassName") == "runc-architect")


@pytest.mark.usefixtures("webhook")
def test_a_label_is_enough(api: Api, namespace: str) -> None:
    found = create(api, namespace, pod("labelled"))
    assert prepared(found)
    annotations = found["metadata"]["annotations"]
    assert json.loads(annotations[f"{PREFIX}managed-containers"]) == ["app"]
    (app,) = found["spec"]["containers"]
    (door,) = json.loads(annotations[f"{PREFIX}health-check-proxy"])["mappings"]
    assert door["appPort"] == 8080
    assert app["livenessProbe"]["httpGet"]["port"] == door["shadowPort"]
    assert {"name": "GODEBUG", "value": "multipathtcp=0"} in app["env"]
    assert found["spec"]["nodeSelector"] == WHERE, "what the runtime class asks of the scheduler was not seen"


@pytest.mark.usefixtures("webhook")
def test_a_pod_without_a_label_is_as_it_was(api: Api, namespace: str) -> None:
    found = create(api, namespace, pod("plain", label=None))
    assert not prepared(found)
    assert "annotations" not in found["metadata"]
    assert found["spec"]["containers"][0]["livenessProbe"]["httpGet"]["port"] == 8080


@pytest.mark.usefixtures("webhook")
def test_a_namespace_asks_for_its_pods_and_a_pod_may_opt_out(api: Api, namespace: str) -> None:
    api.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": {LABEL: "runc"}}}, "merge")
    assert prepared(create(api, namespace, pod("asked-for", label=None)))
    assert not prepared(create(api, namespace, pod("opted-out", label="false")))
    assert not prepared(create(api, namespace, pod("unfit", label=None, hostNetwork=True)))
    api.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": {LABEL: "maybe"}}}, "merge")
    with pytest.raises(Refused, match="the namespace's label has a value"):
        create(api, namespace, pod("unclear", label=None))
    assert prepared(create(api, namespace, pod("own-label")))


@pytest.mark.usefixtures("webhook")
def test_the_class_named_by_hand_is_heard(api: Api, namespace: str) -> None:
    annotations = {"managed-containers": '["app"]'}
    found = create(
        api, namespace, pod("by-hand", label=None, annotations=annotations, runtimeClassName="runc-architect")
    )
    assert f"{PREFIX}network-monitor" not in found["metadata"]["annotations"]
    assert found["spec"]["containers"][0]["livenessProbe"]["httpGet"]["port"] != 8080


@pytest.mark.usefixtures("webhook")
@pytest.mark.parametrize(
    ("given", "says"),
    [
        (pod("x", label="yes"), f"{LABEL}: 'yes' is unknown"),
        (pod("x", label="runsc"), "gVisor"),
        (pod("x", hostNetwork=True), "spec.hostNetwork: packets"),
        (pod("x", annotations={"managed-containers": '["db"]'}), "the pod has no container 'db'; it has app"),
        (pod("x", annotations={"network-monitor": "packets"}), "network-monitor: is no JSON"),
    ],
)
def test_a_refusal_reaches_whoever_creates_the_pod(
    api: Api, namespace: str, given: Object, says: str
) -> None:
    with pytest.raises(Refused) as refused:
        create(api, namespace, given)
    assert says in str(refused.value)
    assert refused.value.status == 422


@pytest.mark.usefixtures("webhook")
def test_warnings_reach_a_person_at_kubectl(namespace: str) -> None:
    given = pod("warned", annotations={"scaledown-duration": "5s"})
    argv = ["kubectl", f"--namespace={namespace}", "apply", "-f", "-"]
    done = subprocess.run(
        argv, input=json.dumps(given), capture_output=True, text=True, timeout=60, check=True
    )
    assert "Warning: architect: the annotation" in done.stderr


@pytest.mark.usefixtures("webhook")
def test_a_dry_run_shows_the_result_and_leaves_nothing(api: Api, namespace: str) -> None:
    assert prepared(create(api, namespace, pod("dry"), "?dryRun=All"))
    assert api.get(f"/api/v1/namespaces/{namespace}/pods")["items"] == []


@pytest.mark.usefixtures("webhook")
@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "Job"])
def test_the_pods_of_a_controller_are_prepared(api: Api, namespace: str, kubectl: Kubectl, kind: str) -> None:
    like = pod("x")
    template: Object = {
        "metadata": {"labels": {**like["metadata"]["labels"], "app": "x"}},
        "spec": like["spec"],
    }
    spec: Object = {"template": template}
    if kind == "Job":
        template["spec"]["restartPolicy"] = "Never"
    else:
        spec["selector"] = {"matchLabels": {"app": "x"}}
    version = "batch/v1" if kind == "Job" else "apps/v1"
    given = {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    kubectl(
        "apply",
        "-f",
        "-",
        stdin=given,
    )
    (found,) = api.await_list(f"/api/v1/namespaces/{namespace}/pods", bool, labelSelector="app=x")
    assert prepared(found)


def test_a_second_webhook_shows_the_same_certificate(api: Api, webhook: Webhook) -> None:
    secret = f"/api/v1/namespaces/{HOME}/secrets/architect-webhook-certificates"
    before = api.get(secret)["metadata"]["resourceVersion"]
    other = Webhook(PORT + 1)
    other.start()
    try:
        other.await_ready()
        shown = {ssl.get_server_certificate((CONTROL_PLANE, port)) for port in (PORT, PORT + 1)}
    finally:
        other.stop()
    assert len(shown) == 1
    assert api.get(secret)["metadata"]["resourceVersion"] == before


def test_a_configuration_that_was_applied_anew_is_trusted_again(api: Api, webhook: Webhook) -> None:
    api.delete(f"{CONFIGURATIONS}/{NAME}")
    api.create(CONFIGURATIONS, configuration(NAME, service=NAME, namespace=HOME))
    api.await_object(
        f"{CONFIGURATIONS}/{NAME}",
        lambda found: all(each["clientConfig"].get("caBundle") for each in found["webhooks"]),
    )
    _await_admission(api)


def test_a_webhook_that_is_down_is_missed_only_by_those_who_asked(
    api: Api, namespace: str, webhook: Webhook
) -> None:
    webhook.stop(signal.SIGKILL)
    try:
        create(api, namespace, pod("plain", label=None))
        create(api, namespace, pod("opted-out", label="false"))
        create(api, "kube-system", pod("system", label="true"), "?dryRun=All")
        create(api, HOME, pod("own", label="true"), "?dryRun=All")
        with pytest.raises(Refused, match="failed calling webhook"):
            create(api, namespace, pod("labelled"))
        with pytest.raises(Refused, match="failed calling webhook"):
            create(api, namespace, pod("by-class", label=None, runtimeClassName="runc-architect"))
    finally:
        webhook.start()
        webhook.await_ready()
    _await_admission(api)
    create(api, namespace, pod("labelled"))
