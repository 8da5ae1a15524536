"""The Helm chart: what it renders with its defaults and with every switch, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from architect.migration.methods import AUDIENCE
from controlplane.arguments import parse
from daemon.containers import Containers
from daemon.metrics import Metrics

CHART = Path(__file__).parents[2] / "deploy" / "charts" / "architect"
DASHBOARD = CHART / "dashboards" / "architect.json"
SWITCHES = {
    "namespace.create": "true",
    "webhook.certManager.enabled": "true",
    "metrics.serviceMonitor.enabled": "true",
    "metrics.dashboard.enabled": "true",
    "containerd.configure": "false",
    "migration.enabled": "false",
}
Object = dict[str, Any]

needs_helm = pytest.mark.skipif(not shutil.which("helm"), reason="needs helm")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["helm", *arguments], capture_output=True, text=True, timeout=60, check=False)


def render(**values: str) -> list[Object]:
    settings = [argument for key, value in values.items() for argument in ("--set", f"{key}={value}")]
    done = helm("template", "architect", str(CHART), "--namespace=architect", *settings)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def named(objects: list[Object], kind: str, name: str) -> Object:
    found = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def containers(pods: Object) -> list[Object]:
    spec = pods["spec"]["template"]["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def rights(objects: list[Object]) -> dict[tuple[str, str], list[tuple[str, str, str]]]:
    """(kind, role) to (resources, names, verbs), each joined by commas."""
    return {
        (each["kind"], each["metadata"]["name"]): [
            (",".join(rule["resources"]), ",".join(rule.get("resourceNames", [])), ",".join(rule["verbs"]))
            for rule in each["rules"]
        ]
        for each in objects
        if each["kind"] in ("Role", "ClusterRole")
    }


@needs_helm
@pytest.mark.parametrize("switch", ["", *SWITCHES, "all"])
def test_the_chart_passes_helm_lint_with_each_of_its_switches(switch: str) -> None:
    chosen = SWITCHES if switch == "all" else {switch: SWITCHES[switch]} if switch else {}
    settings = [argument for key, value in chosen.items() for argument in ("--set", f"{key}={value}")]
    done = helm("lint", "--strict", str(CHART), *settings)
    assert done.returncode == 0, done.stdout
    objects = render(**chosen)
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(names) == len(set(names)), "an object is there twice"
    for each in objects:
        assert each["apiVersion"]
        assert "app.kubernetes.io/name" in each["metadata"]["labels"]


@needs_helm
def test_without_switches_there_is_what_every_cluster_has_and_nothing_that_needs_an_operator() -> None:
    objects = render()
    kinds = {each["kind"] for each in objects}
    assert not kinds & {"Namespace", "ServiceMonitor", "PodMonitor", "Certificate", "Issuer"}
    held = [each["metadata"]["name"] for each in objects if each["kind"] == "ConfigMap"]
    assert held == ["architect-migration"], "whom nodes trust; no dashboard"
    daemon = named(objects, "DaemonSet", "architectd")["spec"]["template"]["spec"]
    assert daemon["nodeSelector"]["architect.loopholelabs.io/node"] == "true"
    assert (daemon["hostPID"], daemon["hostNetwork"]) == (True, True)
    scheduling = named(objects, "RuntimeClass", "runc-architect")["scheduling"]
    assert scheduling["nodeSelector"] == {"architect.loopholelabs.io/node": "true"}
    webhook = named(objects, "Deployment", "architect-webhook")
    assert webhook["spec"]["replicas"] == 2
    assert "podAntiAffinity" in webhook["spec"]["template"]["spec"]["affinity"]
    assert named(objects, "PodDisruptionBudget", "architect-webhook")["spec"]["minAvailable"] == 1


@needs_helm
def test_everything_is_in_the_release_namespace_or_in_one_that_allows_privileged_pods() -> None:
    for values, namespace in (
        ({}, "architect"),
        ({"namespace.create": "true", "namespace.name": "idle"}, "idle"),
    ):
        objects = render(**values)
        found = {each["metadata"]["namespace"] for each in objects if "namespace" in each["metadata"]}
        assert found == {namespace}
        args = containers(named(objects, "Deployment", "architect-webhook"))[0]["args"]
        assert f"--namespace={namespace}" in args
        for each in objects:
            for subject in each.get("subjects", []):
                assert subject["namespace"] == namespace
        if values:
            labels = named(objects, "Namespace", namespace)["metadata"]["labels"]
            assert labels["pod-security.kubernetes.io/enforce"] == "privileged"


@needs_helm
def test_each_program_has_exactly_the_rights_it_needs() -> None:
    node = ("ClusterRole", "architectd")
    expected = {
        node: [
            ("pods", "", "get,list,watch,patch"),
            ("pods/resize", "", "patch"),
            ("events", "", "create,patch"),
            ("nodes", "", "get"),
        ],
        ("Role", "architect-webhook"): [
            ("secrets", "architect-webhook-certificates", "get,watch,patch"),
        ],
        ("ClusterRole", "architect-webhook"): [
            ("mutatingwebhookconfigurations", "architect-webhook", "get,watch,patch")
        ],
        ("Role", "architect-uninstaller"): [("daemonsets", "architectd", "get,patch")],
        ("ClusterRole", "architect-operator"): [("pods", "", "get,list,watch")],
        ("Role", "architect-operator"): [("pods/exec", "", "get,create")],
    }
    assert rights(render(**{"migration.enabled": "false"})) == expected
    evicts = [("migrations", "", "get,list,watch,patch"), ("pods/eviction", "", "create")]
    expected |= {
        ("ClusterRole", "architect-operator"): [("pods", "", "get,list,watch"), *evicts],
        ("Role", "architectd"): [("configmaps", "architect-migration", "list,watch")],
        ("Role", "architect-controlplane"): [
            ("secrets,configmaps", "architect-migration", "get,patch"),
            ("leases", "architect-controlplane", "get,patch"),
        ],
        ("ClusterRole", "architect-controlplane"): [
            ("pods", "", "get,list,watch"),
            ("namespaces", "", "get"),
            ("deployments,replicasets,statefulsets", "", "get"),
            ("jobs", "", "get"),
            ("events", "", "create"),
            ("migrations", "", "get,list,watch,create,patch,delete"),
            ("migrations/status", "", "patch"),
            ("tokenreviews", "", "create"),
        ],
    }
    assert rights(render()) == expected
    given = rights(render(**{"webhook.certManager.enabled": "true"}))
    assert given == {role: rules for role, rules in expected.items() if role[1] != "architect-webhook"}


@needs_helm
def test_only_the_node_pods_are_privileged() -> None:
    objects = render()
    for each in objects:
        if each["kind"] not in ("DaemonSet", "Deployment", "Job"):
            continue
        for container in containers(each):
            security = container["securityContext"]
            if each["kind"] == "DaemonSet":
                assert security["privileged"] is True
            else:
                assert security == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }
                assert each["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True


@needs_helm
def test_images_tag_and_pull_policy_are_the_same_everywhere() -> None:
    values = {"image.repository": "localhost:5000/a", "image.tag": "v7", "image.pullPolicy": "Never"}
    found = {
        (container["image"], container["imagePullPolicy"])
        for each in render(**values)
        if each["kind"] in ("DaemonSet", "Deployment", "Job")
        for container in containers(each)
    }
    assert found == {("localhost:5000/a-node:v7", "Never"), ("localhost:5000/a-control:v7", "Never")}


@needs_helm
def test_the_installer_is_told_of_containerd() -> None:
    values = {
        "containerd.restart": "never",
        "containerd.socket": "/run/c.sock",
        "containerd.configure": "false",
    }
    wanted = ["--containerd-socket=/run/c.sock", "--containerd-restart=never", "--leave-containerd"]
    for enabled, moves in (("true", ["--moves"]), ("false", [])):
        rendered = render(**values, **{"migration.enabled": enabled})
        installer = containers(named(rendered, "DaemonSet", "architectd"))[0]
        assert installer["args"] == [*wanted, *moves]


@needs_helm
def test_the_webhooks_configuration_is_the_one_that_the_webhook_itself_knows() -> None:
    original = pytest.importorskip("webhook.configuration").configuration(
        "architect-webhook", service="architect-webhook", namespace="architect"
    )
    rendered = named(render(), "MutatingWebhookConfiguration", "architect-webhook")
    assert rendered["webhooks"] == original["webhooks"]


@needs_helm
def test_a_pod_that_did_not_ask_is_never_asked_about() -> None:
    configuration = named(render(), "MutatingWebhookConfiguration", "architect-webhook")
    label = "architect.loopholelabs.io/hibernate"
    for webhook in configuration["webhooks"]:
        exempt = webhook["namespaceSelector"]["matchExpressions"][0]
        assert exempt["values"] == ["architect", "kube-system"]
        pods = webhook["objectSelector"]["matchExpressions"]
        namespaces = webhook["namespaceSelector"]["matchExpressions"][1:]
        asked_by_pod = {"key": label, "operator": "Exists"} in pods
        asked_by_namespace = any(each["key"] == label for each in namespaces)
        assert asked_by_pod or asked_by_namespace or webhook["matchConditions"]


@needs_helm
@pytest.mark.parametrize(
    "wrong",
    [
        "logLevel=loud",
        "image.pullPolicy=Sometimes",
        "image.repository=",
        "webhook.replicas=0",
        "webhook.replicas=two",
        "migration.replicas=0",
        "containerd.restart=always",
        "containerd.socket=run/c.sock",
        "metrics.port=70000",
        "metrics.dashboard.enabled=maybe",
        "resources.requests.memory=lots",
        "namespace.name=Not_A_Name",
        "nodeSelectors.a=b",
        "webhook.certmanager=true",
    ],
)
def test_wrong_and_unknown_values_are_refused_by_name(wrong: str) -> None:
    done = helm("template", "architect", str(CHART), "--set", wrong)
    assert done.returncode != 0
    key = wrong.partition("=")[0]
    assert key.rpartition(".")[2] in done.stderr


def test_each_value_is_described_in_the_schema_and_each_schema_entry_has_a_default() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(values) | {"global"} == set(schema["properties"])
    for key in ("image", "namespace", "containerd", "webhook", "migration", "metrics"):
        assert set(values[key]) == set(schema["properties"][key]["properties"])


@needs_helm
def test_with_migration_there_is_a_control_plane_and_nodes_can_prove_who_they_are() -> None:
    objects = render()
    resource = named(objects, "CustomResourceDefinition", "migrations.architect.loopholelabs.io")
    assert resource["spec"] == yaml.safe_load((CHART / "resources" / "migrations.yaml").read_text())["spec"]
    assert resource["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    settings = parse(containers(named(objects, "Deployment", "architect-controlplane"))[0]["args"])
    for kind, name in (
        ("Secret", settings.secret),
        ("ConfigMap", settings.secret),
        ("Lease", settings.lease),
    ):
        assert named(objects, kind, name)["metadata"]["namespace"] == settings.namespace
    service = named(objects, "Service", settings.service)
    assert {each["port"] for each in service["spec"]["ports"]} == {
        settings.port,
        settings.certify_port,
        settings.health_port,
    }
    daemon = named(objects, "DaemonSet", "architectd")["spec"]["template"]["spec"]
    assert daemon["serviceAccountName"] == settings.node_account
    tokens = [
        source["serviceAccountToken"]["audience"]
        for volume in daemon["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        if "serviceAccountToken" in source
    ]
    assert tokens == [AUDIENCE]


@needs_helm
def test_what_leaves_a_node_can_be_limited() -> None:
    daemon = named(render(**{"migration.bytesPerSecond": "125000000"}), "DaemonSet", "architectd")
    (given,) = [each for each in containers(daemon) if each["name"] == "architectd"]
    assert "--transfer-limit=125000000" in given["args"]


def test_the_chart_is_of_the_products_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (CHART.parents[2] / "pyproject.toml").read_text()
    assert f'\nversion = "{chart["version"]}"\n' in project
    assert chart["version"] == chart["appVersion"]


def test_the_dashboard_asks_only_for_metrics_that_the_daemon_exports() -> None:
    exported = set()
    for family in Metrics(Containers()).registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        exported |= {family.name + suffix for suffix in suffixes}
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [each["definition"] for each in dashboard["templating"]["list"] if "definition" in each]
    assert len(queries) > 20
    asked = {name for query in queries for name in re.findall(r"\barchitect_\w+", query)}
    assert asked
    assert asked - exported == set()
    places = [tuple(panel["gridPos"][key] for key in "xy") for panel in dashboard["panels"]]
    assert len(places) == len(set(places))
