"""The webhook behind a real API server: whom it refuses, whom it changes, and who never meets it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from hack.api import Api, Object, Refused
from hack.nodes import Node
from tests.e2e import release, sleepers
from tests.e2e.conftest import Kubectl, deployment
from tests.webhook.pods import LABEL, container, pod
from tests.webhook.test_mutation import UNFIT

pytestmark = pytest.mark.usefixtures("architect")
_CLASS = "runc-architect"
_CLASSES = "/apis/node.k8s.io/v1/runtimeclasses"
_WEBHOOK = f"/apis/apps/v1/namespaces/{release.NAMESPACE}/deployments/architect-webhook"
_MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"managed-containers": "["}, "managed-containers: is no JSON"),
    ({"managed-containers": ["db"]}, "managed-containers[0]: the pod has no container 'db'; it has app"),
    ({"network-monitor": {"app": "sometimes"}}, "network-monitor.app: 'sometimes' is no mode"),
    ({"scaledown-durations": {"app": "soon"}}, "scaledown-durations.app: 'soon' is no duration"),
    ({"health-check-proxy": {}}, "health-check-proxy: has no 'mappings'"),
]


@pytest.fixture(scope="module", autouse=True)
def another_class(api: Api) -> Iterator[None]:
    """A runtime class that is somebody else's; without it the API server itself refuses who names it."""
    api.create(_CLASSES, {"metadata": {"name": "kata"}, "handler": "kata"})
    yield
    api.delete(f"{_CLASSES}/kata")


def _try(api: Api, namespace: str, wanted: Object) -> Object:
    """The pod that would be made of it; nothing is."""
    mine = copy.deepcopy(wanted)
    mine["metadata"]["namespace"] = namespace
    for each in mine["spec"]["containers"]:
        each["terminationMessagePolicy"] = "File"
    return api.create(f"/api/v1/namespaces/{namespace}/pods?dryRun=All", mine)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        *UNFIT,
        pytest.param(pod(label="runsc"), "gVisor (runsc) is not in this release", id="gvisor"),
        pytest.param(pod(label="yes"), "'yes' is unknown", id="a label that says nothing"),
        *(
            pytest.param(pod(annotations={"managed-containers": ["app"], **wrong}), says, id=says[:18])
            for wrong, says in _MALFORMED
        ),
    ],
)
def test_what_cannot_sleep_is_refused_in_a_sentence(
    api: Api, namespace: str, given: Object, says: str
) -> None:
    with pytest.raises(Refused) as refused:
        _try(api, namespace, given)
    assert "architect.loopholelabs.io" in str(refused.value)
    assert says in str(refused.value)


def test_a_refused_template_says_why_where_people_look(api: Api, kubectl: Kubectl, namespace: str) -> None:
    kubectl("apply", "-f", "-", stdin=sleepers.sleeping("shell", tty=True))
    (replica_set,) = api.await_list(
        f"/apis/apps/v1/namespaces/{namespace}/replicasets",
        lambda found: found and found[0].get("status", {}).get("conditions"),
    )
    assert "has a terminal" in json.dumps(replica_set["status"]["conditions"])


@pytest.mark.parametrize("runtime", [None, _CLASS])
def test_the_label_or_the_class_is_enough_and_a_dry_run_shows_it(
    api: Api, namespace: str, runtime: str | None
) -> None:
    asks: dict[str, Any] = {"runtimeClassName": runtime} if runtime else {}
    made = _try(api, namespace, pod(label=None if runtime else "true", **asks))
    assert made["spec"]["runtimeClassName"] == _CLASS
    assert {"name": "GODEBUG", "value": "multipathtcp=0"} in made["spec"]["containers"][0].get(
        "env", []
    ) or runtime
    assert made["spec"]["nodeSelector"] == {"architect.loopholelabs.io/node": "true"}


def test_a_namespace_asks_for_all_but_those_who_say_no(api: Api, namespace: str) -> None:
    api.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": {LABEL: "true"}}})
    assert _try(api, namespace, pod(label=None))["spec"]["runtimeClassName"] == _CLASS
    assert "runtimeClassName" not in _try(api, namespace, pod(label="false"))["spec"]
    unfit = _try(api, namespace, pod(container(tty=True), label=None))
    assert "runtimeClassName" not in unfit["spec"], "a namespace asks for whatever comes"


def test_a_webhook_that_is_down_is_missed_only_by_those_who_ask(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    api.patch(_WEBHOOK, {"spec": {"replicas": 0}})
    try:
        api.await_list(
            f"/api/v1/namespaces/{release.NAMESPACE}/pods",
            lambda found: not found,
            labelSelector="app.kubernetes.io/name=architect-webhook",
        )
        kubectl("apply", "-f", "-", stdin=deployment("plain"))
        kubectl("rollout", "status", "deployment/plain", "--timeout=60s")
        with pytest.raises(Refused, match="failed calling webhook"):
            _try(api, namespace, pod())
        kubectl("apply", "-f", "-", stdin=sleepers.sleeping("asks", node=nodes[0]))
    finally:
        api.patch(_WEBHOOK, {"spec": {"replicas": 2}})
        release.await_ready()
    # The ReplicaSet tries again by itself.
    (sleeper,) = sleepers.pods_of(api, namespace, "asks")
    sleeper.await_asleep()
