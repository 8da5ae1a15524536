"""A real Prometheus reads what the chart's ServiceMonitors name, and answers what its dashboard asks."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from os import environ
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from hack.api import Api, Object
from hack.nodes import Node
from tests.e2e import release, sleepers
from tests.e2e.conftest import Kubectl
from tests.e2e.sleepers import fetch, sleeping

pytestmark = pytest.mark.usefixtures("architect")
_ADDRESS: Final = "127.0.0.1:9090"
# What Grafana puts in their place.
_VARIABLES: Final = {"$node": ".*", "$__rate_interval": "1m"}


@pytest.fixture(scope="module")
def monitoring() -> list[Object]:
    """What the chart has for Prometheus and Grafana."""
    switches = [f"--set=metrics.{each}.enabled=true" for each in ("serviceMonitor", "dashboard")]
    one = "--show-only=templates/monitoring.yaml"
    text = release.run(
        "helm",
        "template",
        "architect",
        str(release.CHART),
        f"--namespace={release.NAMESPACE}",
        *switches,
        one,
    )
    return [each for each in yaml.safe_load_all(text) if each]


@pytest.fixture
def prometheus(monitoring: list[Object], tmp_path: Path) -> Iterator[list[str]]:
    """A Prometheus that has read all of its targets; the job of each."""
    jobs = [_scraped(each) for each in monitoring if each["kind"] == "ServiceMonitor"]
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    with (
        (tmp_path / "log").open("w+") as log,
        subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path}/data",
                f"--web.listen-address={_ADDRESS}",
            ],
            stdout=log,
            stderr=log,
        ) as running,
    ):
        try:
            _await(lambda: _up(len(jobs)), lambda: (tmp_path / "log").read_text()[-4000:])
            yield [target["labels"]["job"] for target in _ask("targets")["activeTargets"]]
        finally:
            running.terminate()


def _scraped(monitor: Object) -> Object:
    """The job that the Prometheus operator makes of a ServiceMonitor with one endpoint."""
    (endpoint,) = monitor["spec"]["endpoints"]
    service, port = "__meta_kubernetes_service_label_", "__meta_kubernetes_endpointslice_port_name"
    keep = [
        {
            "source_labels": [service + re.sub(r"\W", "_", label)],
            "regex": re.escape(value),
            "action": "keep",
        }
        for label, value in monitor["spec"]["selector"]["matchLabels"].items()
    ]
    keep.append({"source_labels": [port], "regex": endpoint["port"], "action": "keep"})
    given = [
        {re.sub("([A-Z])", lambda found: f"_{found[1].lower()}", key): value for key, value in each.items()}
        for each in endpoint.get("relabelings", [])
    ]
    places = {"names": [monitor["metadata"]["namespace"]]}
    insecure = endpoint.get("tlsConfig", {}).get("insecureSkipVerify", False)
    return {
        "job_name": monitor["metadata"]["name"],
        "scheme": endpoint.get("scheme", "http"),
        "tls_config": {"insecure_skip_verify": insecure},
        "kubernetes_sd_configs": [
            {"role": "endpointslice", "kubeconfig_file": environ["KUBECONFIG"], "namespaces": places}
        ],
        "relabel_configs": [*keep, *given],
    }


def _ask(path: str, **query: str) -> Any:
    url = f"http://{_ADDRESS}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.loads(answer.read())["data"]


def _values(query: str) -> list[float]:
    """What a query answers now, without what is no number."""
    for variable, value in _VARIABLES.items():
        query = query.replace(variable, value)
    found = [float(each["value"][1]) for each in _ask("query", query=query)["result"]]
    return [each for each in found if not math.isnan(each)]


def _up(jobs: int) -> bool:
    try:
        targets = _ask("targets")["activeTargets"]
    except OSError:
        return False  # it does not listen yet
    known = {target["labels"]["job"] for target in targets}
    return len(known) == jobs and all(target["health"] == "up" for target in targets)


def _await(condition: Any, said: Any) -> None:
    """Prometheus tells nobody."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, said()
        time.sleep(0.5)


def test_prometheus_reads_every_process_and_each_query_of_the_dashboard_has_an_answer(
    monitoring: list[Object],
    prometheus: list[str],
    api: Api,
    kubectl: Kubectl,
    namespace: str,
    nodes: list[Node],
) -> None:
    processes = ("architect-controlplane", "architect-webhook", "architectd")
    assert sorted(prometheus) == [name for name in processes for _ in range(2)]
    (held,) = (each["data"]["architect.json"] for each in monitoring if each["kind"] == "ConfigMap")
    dashboard = json.loads(held)
    (variable,) = (each for each in dashboard["templating"]["list"] if each["type"] == "query")
    asked, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
    assert _ask(f"label/{label}/values", **{"match[]": asked}) == [node.name for node in nodes]

    kubectl("apply", "-f", "-", stdin=sleeping("web", node=nodes[0]))
    kubectl("apply", "-f", "-", stdin=sleeping("asleep", node=nodes[1]))
    pods = [sleepers.pods_of(api, namespace, name)[0] for name in ("web", "asleep")]
    for pod in pods:
        pod.await_asleep()
    woken = _values('sum(architect_wakes_total{node="node-1",cause="packet"})')
    fetch(nodes[1], f"http://{pods[0].address}:8080/")
    _await(
        lambda: _values('sum(architect_wakes_total{node="node-1",cause="packet"})') > woken,
        lambda: "the wake is not counted",
    )
    panels = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
    assert len(panels) > 20
    empty: list[str] = []

    def answered() -> bool:
        empty[:] = [f"{title}: {query}" for title, query in panels.items() if not _values(query)]
        return not empty

    _await(answered, lambda: f"no answer to {empty}")
    assert _values(panels["Asleep A"]) >= [1.0]
    assert _values(panels["Memory given back A"]) > [1e6]
    assert _values(panels["Disk taken A"]) > [1e6]
    assert [0.0] < _values(panels["Wake, median A"]) < [10.0]
    assert _values('sum(architect_webhook_reviews_total{outcome="prepared"})') > [0.0]
