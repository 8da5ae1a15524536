"""Which pods are changed, how, which are refused with which sentence, and what is said about the others."""

from __future__ import annotations

from typing import Any

import pytest

from architect.probes import EXEC_PROBE
from architect.settings import Refused
from tests.webhook.pods import LABEL, Pod, annotation, container, patched, pod
from webhook.asking import Namespace
from webhook.mutation import mutate

RUNC = "runc-architect"


def prepared(given: Pod, namespace: Namespace = Namespace.SILENT) -> Pod:
    """The pod after the patch; a second pass must have nothing to add."""
    after: Pod = patched(given, mutate(given, namespace).patch)
    assert mutate(after, namespace).patch == (), "a second pass changes the pod again"
    return after


def warnings(given: Pod, namespace: Namespace = Namespace.SILENT) -> str:
    return "\n".join(mutate(given, namespace).warnings)


# ---- who asks


@pytest.mark.parametrize(
    ("given", "namespace"),
    [
        pytest.param(pod(label=None), Namespace.SILENT, id="nobody asked"),
        pytest.param(pod(label="false"), Namespace.ASKS, id="the pod opts out of its namespace"),
        pytest.param(pod(label="false"), Namespace.UNCLEAR, id="the pod opts out of an unclear namespace"),
        pytest.param(pod(label="false", runtimeClassName=RUNC), Namespace.SILENT, id="no beats the class"),
        pytest.param(pod(label=None, runtimeClassName="kata"), Namespace.SILENT, id="another runtime class"),
        pytest.param({}, Namespace.SILENT, id="an empty object"),
    ],
)
def test_a_pod_for_which_nobody_asks_is_untouched(given: Pod, namespace: Namespace) -> None:
    mutation = mutate(given, namespace)
    assert (mutation.patch, mutation.warnings) == ((), ())


@pytest.mark.parametrize(
    ("given", "namespace"),
    [
        pytest.param(pod(label="true"), Namespace.SILENT, id="true"),
        pytest.param(pod(label="runc"), Namespace.SILENT, id="runc"),
        pytest.param(pod(label=None), Namespace.ASKS, id="its namespace"),
        pytest.param(pod(label="true"), Namespace.UNCLEAR, id="the pod's label wins"),
        pytest.param(pod(runtimeClassName=RUNC), Namespace.SILENT, id="with the class set already"),
    ],
)
def test_a_pod_that_asks_gets_what_it_needs_and_nothing_else_changes(
    given: Pod, namespace: Namespace
) -> None:
    after = prepared(given, namespace)
    assert after["spec"].pop("runtimeClassName") == RUNC
    assert annotation(after, "managed-containers") == ["app"]
    assert annotation(after, "network-monitor") == {"app": "packets"}
    assert after["spec"]["containers"][0].pop("env") == [{"name": "GODEBUG", "value": "multipathtcp=0"}]
    assert len(after["metadata"].pop("annotations")) == 2
    given["spec"].pop("runtimeClassName", None)
    assert after == given


@pytest.mark.parametrize(
    ("given", "namespace", "says"),
    [
        (pod(label="runsc"), Namespace.SILENT, 'gVisor (runsc) is not in this release; use "runc"'),
        (pod(label="yes"), Namespace.SILENT, '\'yes\' is unknown; "true" and "runc" let a pod sleep'),
        (pod(label=""), Namespace.SILENT, "'' is unknown"),
        (pod(label=None), Namespace.UNCLEAR, "the namespace's label has a value"),
    ],
)
def test_a_label_that_says_neither_yes_nor_no_is_refused(given: Pod, namespace: Namespace, says: str) -> None:
    with pytest.raises(Refused) as refused:
        mutate(given, namespace)
    assert refused.value.key == LABEL
    assert says in str(refused.value)


def test_a_pod_that_names_the_class_by_hand_keeps_its_annotations() -> None:
    given = pod(label=None, runtimeClassName=RUNC, annotations={"managed-containers": ["app"]})
    after = prepared(given)
    assert after["metadata"] == given["metadata"]
    assert after["spec"]["containers"][0]["env"][0]["name"] == "GODEBUG"
    assert "no architect.loopholelabs.io/network-monitor" in warnings(given)


def test_a_pod_that_names_only_the_class_is_told_that_nothing_sleeps() -> None:
    given = pod(label=None, runtimeClassName=RUNC, hostNetwork=True)
    assert prepared(given) == given
    assert "nothing in this pod will sleep" in warnings(given)


def test_the_gvisor_class_is_refused() -> None:
    given = pod(label=None, runtimeClassName="runsc-architect", annotations={"managed-containers": ["app"]})
    with pytest.raises(Refused, match="gVisor"):
        mutate(given)


# ---- what cannot be

UNFIT = [
    pytest.param(pod(hostNetwork=True), "spec.hostNetwork: packets", id="host network"),
    pytest.param(pod(hostPID=True), "spec.hostPID", id="host processes"),
    pytest.param(pod(shareProcessNamespace=True), "spec.shareProcessNamespace", id="shared processes"),
    pytest.param(pod(hostUsers=False), "spec.hostUsers", id="user namespace"),
    pytest.param(pod(os={"name": "windows"}), "spec.os", id="windows"),
    pytest.param(pod(runtimeClassName="kata"), "spec.runtimeClassName: 'kata' is set", id="another class"),
    pytest.param(pod(container(port=None)), "no container declares a TCP or UDP port", id="no ports"),
    pytest.param(pod(container("istio-proxy")), "no container declares", id="only a sidecar"),
    pytest.param(pod(container(tty=True)), "has a terminal", id="a terminal"),
    pytest.param(
        pod(container(securityContext={"privileged": True})), 'container "app" is privileged', id="privileged"
    ),
    pytest.param(
        pod(container(resources={"limits": {"nvidia.com/gpu": "1"}})), "a GPU (nvidia.com/gpu)", id="a GPU"
    ),
    pytest.param(
        pod(container(resources={"claims": [{"name": "x"}]})), "claims devices", id="a claimed device"
    ),
    pytest.param(
        pod(container(tty=True), container("b", 81), annotations={"managed-containers": ["app"]}),
        'managed-containers: container "app" has a terminal',
        id="named by hand",
    ),
]


@pytest.mark.parametrize(("given", "says"), UNFIT)
def test_a_pod_that_cannot_sleep_is_refused_if_it_asked(given: Pod, says: str) -> None:
    with pytest.raises(Refused) as refused:
        mutate(given)
    assert says in str(refused.value)


@pytest.mark.parametrize(("given", "says"), UNFIT)
def test_a_pod_that_cannot_sleep_is_left_alone_if_only_its_namespace_asked(given: Pod, says: str) -> None:
    del given["metadata"]["labels"][LABEL]
    try:
        mutation = mutate(given, Namespace.ASKS)
    finally:
        given["metadata"]["labels"][LABEL] = "true"
    assert mutation.patch == ()
    assert says in mutation.warnings[0]


@pytest.mark.parametrize(
    ("annotations", "says"),
    [
        ({"managed-containers": "["}, "managed-containers: is no JSON"),
        ({"managed-containers": ["db"]}, "managed-containers[0]: the pod has no container 'db'; it has app"),
        ({"managed-containers": ["init"]}, '"init" is an init container'),
        ({"network-monitor": {"app": "sometimes"}}, "network-monitor.app: 'sometimes' is no mode"),
        ({"network-monitor": {"db": "packets"}}, "network-monitor.db: the pod has no container"),
        ({"network-monitor": "packets"}, "network-monitor: is no JSON"),
        ({"scaledown-durations": {"app": "soon"}}, "scaledown-durations.app: 'soon' is no duration"),
        ({"health-check-proxy": {}}, "health-check-proxy: has no 'mappings'"),
        (
            {"shadow-ports": {"mappings": [{"containerName": "x", "appPort": 1, "shadowPort": 2}]}},
            "shadow-ports.mappings[0].containerName: the pod has no container 'x'",
        ),
    ],
)
@pytest.mark.parametrize("namespace", [Namespace.SILENT, Namespace.ASKS])
def test_an_annotation_that_makes_no_sense_is_refused_by_its_key(
    annotations: dict[str, Any], says: str, namespace: Namespace
) -> None:
    label = "true" if namespace is Namespace.SILENT else None
    if "managed-containers" not in annotations:
        annotations = annotations | {"managed-containers": ["app"]}
    given = pod(label=label, annotations=annotations, initContainers=[{"name": "init"}])
    with pytest.raises(Refused) as refused:
        mutate(given, namespace)
    assert says in str(refused.value)


def test_annotations_are_read_also_when_the_managed_containers_are_chosen_here() -> None:
    with pytest.raises(Refused, match="'soon' is no duration"):
        mutate(pod(annotations={"scaledown-durations": {"app": "soon"}}))


# ---- defaults


def test_containers_with_ports_are_managed_and_sidecars_are_not() -> None:
    given = pod(
        container("web"),
        container("dns", None, ports=[{"containerPort": 53, "protocol": "UDP"}]),
        container("worker", None),
        container("signals", None, ports=[{"containerPort": 9, "protocol": "SCTP"}]),
        container("istio-proxy", 15090),
        container("linkerd-proxy", 4143),
        container("shell", 2222, tty=True),
        initContainers=[container("proxy", 3128, restartPolicy="Always")],
    )
    after = prepared(given)
    assert annotation(after, "managed-containers") == ["web", "dns"]
    assert annotation(after, "network-monitor") == {"web": "packets", "dns": "packets"}
    assert [each["name"] for each in after["spec"]["containers"] if "env" in each] == ["web", "dns"]
    assert 'container "shell" has a terminal' in warnings(given)


def test_what_is_written_by_hand_stays() -> None:
    annotations = {
        "managed-containers": ["db"],
        "network-monitor": {"db": "connections", "app": "packets"},
        "scaledown-durations": {"db": "5s"},
    }
    given = pod(container(), container("db", 5432), annotations=annotations)
    assert prepared(given)["metadata"] == given["metadata"]


def test_a_missing_mode_is_added_to_those_given() -> None:
    given = pod(container(), container("db", 5432), annotations={"network-monitor": {"db": "connections"}})
    assert annotation(prepared(given), "network-monitor") == {"db": "connections", "app": "packets"}


@pytest.mark.parametrize(
    ("env", "becomes", "says"),
    [
        ([{"name": "A", "value": "b"}], ["b", "multipathtcp=0"], ""),
        ([{"name": "GODEBUG", "value": "gctrace=1"}], ["gctrace=1,multipathtcp=0"], ""),
        ([{"name": "GODEBUG", "value": ""}], ["multipathtcp=0"], ""),
        ([{"name": "GODEBUG"}], ["multipathtcp=0"], ""),
        ([{"name": "GODEBUG", "value": "multipathtcp=0,x=1"}], ["multipathtcp=0,x=1"], ""),
        ([{"name": "GODEBUG", "value": "multipathtcp=1"}], ["multipathtcp=1"], "sets GODEBUG=multipathtcp=1"),
        ([{"name": "GODEBUG", "valueFrom": {"configMapKeyRef": {}}}], [None], "takes GODEBUG from elsewhere"),
    ],
)
def test_multipath_tcp_is_switched_off_beside_what_is_there(
    env: list[Any], becomes: list[str | None], says: str
) -> None:
    given = pod(container(env=env))
    after = prepared(given)["spec"]["containers"][0]["env"]
    assert [each.get("value") for each in after] == becomes
    assert (says in warnings(given)) if says else not warnings(given)


# ---- advice


def test_a_pod_in_order_is_prepared_without_a_word() -> None:
    assert warnings(pod()) == ""
    dns = container(ports=[{"containerPort": 53}, {"containerPort": 53, "protocol": "UDP"}])
    assert warnings(pod(dns, annotations={"network-monitor": {"app": "connections"}})) == ""


@pytest.mark.parametrize(
    ("given", "says"),
    [
        pytest.param(pod(owner="Job"), "a Job does not finish while its pod sleeps", id="a job"),
        pytest.param(
            pod(container(resources={"requests": {"cpu": "1"}})),
            "its QoS class (Burstable) may not change; set limits",
            id="requests without limits",
        ),
        pytest.param(
            pod(
                container(
                    resources={
                        "requests": {"cpu": "1", "memory": "1Gi"},
                        "limits": {"cpu": "1", "memory": "1Gi"},
                    }
                )
            ),
            "its QoS class (Guaranteed) may not change; set requests below limits",
            id="guaranteed",
        ),
        pytest.param(
            pod(container(port=None), annotations={"managed-containers": ["app"]}),
            "it declares no ports",
            id="no ports",
        ),
        pytest.param(
            pod(
                container("app", None, ports=[{"containerPort": 53, "protocol": "UDP"}]),
                annotations={"network-monitor": {"app": "connections"}},
            ),
            '"connections" sees TCP only',
            id="connections without TCP",
        ),
        pytest.param(
            pod(container(securityContext={"readOnlyRootFilesystem": True})),
            "only if its image has a /tmp",
            id="a read-only root",
        ),
        pytest.param(
            pod(annotations={"scaledown-duration": {"app": "5s"}}),
            "'architect.loopholelabs.io/scaledown-duration' is not known",
            id="a misspelt annotation",
        ),
        pytest.param(
            pod(annotations={"managed-containers": []}), "managed-containers is empty", id="nothing managed"
        ),
        pytest.param(
            pod(
                container(
                    "app",
                    None,
                    ports=[{"containerPort": 8080}, {"containerPort": 9080}],
                ),
                annotations={
                    "shadow-ports": {
                        "mappings": [{"containerName": "app", "appPort": 8080, "shadowPort": 9080}]
                    }
                },
            ),
            "declares the shadow port 9080",
            id="a declared shadow port",
        ),
    ],
)
def test_what_is_unwise_is_said(given: Pod, says: str) -> None:
    prepared(given)
    assert says in warnings(given)


@pytest.mark.parametrize(
    "resources",
    [
        {},
        {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}},
        {"limits": {"memory": "1Gi"}, "requests": {"memory": "1Mi"}},
        {"requests": {"cpu": "0"}},
    ],
)
def test_requests_that_can_be_released_are_not_worth_a_word(resources: dict[str, Any]) -> None:
    assert warnings(pod(container(resources=resources))) == ""


def test_a_mount_on_tmp_is_enough_for_a_read_only_root() -> None:
    of = container(securityContext={"readOnlyRootFilesystem": True}, volumeMounts=[{"mountPath": "/tmp/"}])
    assert warnings(pod(of)) == ""


# ---- probes: the details are in test_doors.py


def test_all_probes_of_managed_containers_lead_to_the_shim() -> None:
    given = pod(
        container(
            livenessProbe={"httpGet": {"port": 8080, "path": "/live"}, "periodSeconds": 1},
            readinessProbe={"exec": {"command": ["true"]}},
        ),
        container("worker", None, livenessProbe={"exec": {"command": ["true"]}}),
    )
    after = prepared(given)["spec"]["containers"]
    assert after[0]["livenessProbe"] == {"httpGet": {"port": 29000, "path": "/live"}, "periodSeconds": 1}
    assert after[0]["readinessProbe"]["exec"]["command"] == [EXEC_PROBE, "true"]
    assert after[1] == given["spec"]["containers"][1]
