"""How probes are pointed at shadow ports."""

from __future__ import annotations

from typing import Any

import pytest

from architect.probes import EXEC_PROBE
from architect.settings import Refused
from tests.webhook.pods import Pod, annotation, container, patched, pod
from webhook.mutation import mutate

NAMED = [{"containerPort": 8080, "name": "http"}, {"containerPort": 8443, "name": "https"}]


def after(given: Pod) -> Pod:
    found: Pod = patched(given, mutate(given).patch)
    return found


def liveness(given: Pod) -> Any:
    return after(given)["spec"]["containers"][0]["livenessProbe"]


def probed(probe: dict[str, Any], **more: Any) -> Pod:
    return pod(container(ports=NAMED, livenessProbe=probe), **more)


def mapping(app: int, shadow: int, protocol: str | None = None, name: str = "app") -> dict[str, Any]:
    found: dict[str, Any] = {"containerName": name, "appPort": app, "shadowPort": shadow}
    return found | ({"protocol": protocol} if protocol else {})


@pytest.mark.parametrize(
    ("probe", "becomes", "leads"),
    [
        pytest.param(
            {"httpGet": {"port": 8080, "path": "/x", "httpHeaders": [{"name": "A", "value": "b"}]}},
            {"httpGet": {"port": 29000, "path": "/x", "httpHeaders": [{"name": "A", "value": "b"}]}},
            mapping(8080, 29000, "HTTP"),
            id="HTTP by number",
        ),
        pytest.param(
            {"httpGet": {"port": "http", "scheme": "HTTP"}, "failureThreshold": 2},
            {"httpGet": {"port": 29000, "scheme": "HTTP"}, "failureThreshold": 2},
            mapping(8080, 29000, "HTTP"),
            id="HTTP by name",
        ),
        pytest.param(
            {"httpGet": {"port": "8080"}},
            {"httpGet": {"port": 29000}},
            mapping(8080, 29000, "HTTP"),
            id="HTTP by digits",
        ),
        pytest.param(
            {"httpGet": {"port": "https", "scheme": "HTTPS"}},
            {"httpGet": {"port": 29000, "scheme": "HTTP"}},
            mapping(8443, 29000, "HTTPS"),
            id="HTTPS",
        ),
        pytest.param(
            {"tcpSocket": {"port": "http"}, "timeoutSeconds": 3},
            {"httpGet": {"path": "/", "port": 29000, "scheme": "HTTP"}, "timeoutSeconds": 3},
            mapping(8080, 29000, "TCP"),
            id="TCP",
        ),
        pytest.param(
            {"grpc": {"port": 8080, "service": "s"}},
            {"grpc": {"port": 29000, "service": "s"}},
            mapping(8080, 29000, "GRPC"),
            id="gRPC",
        ),
        pytest.param(
            {"httpGet": {"port": 9999}},
            {"httpGet": {"port": 29000}},
            mapping(9999, 29000, "HTTP"),
            id="a port that is not declared",
        ),
    ],
)
def test_a_probe_leads_to_a_shadow_port_of_its_protocol(
    probe: dict[str, Any], becomes: dict[str, Any], leads: dict[str, Any]
) -> None:
    given = probed(probe)
    assert liveness(given) == becomes
    assert annotation(after(given), "health-check-proxy") == {"mappings": [leads]}
    assert mutate(given).warnings == ()


def test_an_exec_probe_is_marked_once() -> None:
    given = probed({"exec": {"command": ["sh", "-c", "true"]}})
    assert liveness(given) == {"exec": {"command": [EXEC_PROBE, "sh", "-c", "true"]}}
    assert liveness(after(given)) == liveness(given)
    assert "health-check-proxy" not in str(after(given)["metadata"])


@pytest.mark.parametrize("probe", [{}, {"exec": {}}, {"exec": {"command": []}}, {"periodSeconds": 1}])
def test_a_probe_that_asks_nothing_stays(probe: dict[str, Any]) -> None:
    assert liveness(probed(probe)) == probe


@pytest.mark.parametrize(
    ("probe", "says"),
    [
        ({"httpGet": {"port": 8080, "host": "example.org"}}, "it names a host"),
        ({"tcpSocket": {"port": 8080, "host": "10.0.0.1"}}, "it names a host"),
        ({"httpGet": {"port": "metrics"}}, "the container has no port 'metrics'"),
        ({"httpGet": {"port": 5432}}, 'port 5432 is container "db"\'s'),
        ({"httpGet": {"port": 15020, "path": "/app-health/app/livez"}}, "Istio answers it"),
    ],
)
def test_a_probe_that_asks_another_stays_and_that_is_said(probe: dict[str, Any], says: str) -> None:
    given = pod(container(ports=NAMED, livenessProbe=probe), container("db", 5432))
    assert liveness(given) == probe
    (warning,) = mutate(given).warnings
    assert warning.startswith('the livenessProbe of container "app" is left as it is')
    assert says in warning


def test_probes_of_one_port_and_protocol_share_a_door_and_others_have_their_own() -> None:
    given = pod(
        container(
            ports=NAMED,
            startupProbe={"httpGet": {"port": "http", "path": "/started"}},
            livenessProbe={"httpGet": {"port": 8080}},
            readinessProbe={"tcpSocket": {"port": 8080}},
        ),
        container("other", 7000, livenessProbe={"httpGet": {"port": 7000}}),
    )
    assert annotation(after(given), "health-check-proxy")["mappings"] == [
        mapping(8080, 29000, "HTTP"),
        mapping(8080, 29001, "TCP"),
        mapping(7000, 29002, "HTTP", "other"),
    ]
    first = after(given)["spec"]["containers"][0]
    assert first["startupProbe"]["httpGet"]["port"] == first["livenessProbe"]["httpGet"]["port"] == 29000


def test_a_shadow_port_is_none_that_the_pod_uses() -> None:
    given = pod(
        container(
            ports=[{"containerPort": 29000}],
            livenessProbe={"httpGet": {"port": 29001}},
            lifecycle={"preStop": {"httpGet": {"port": 29002}}},
        ),
        container("sidecar", 29003, readinessProbe={"tcpSocket": {"port": 29004}}),
        annotations={
            "managed-containers": ["app"],
            "shadow-ports": {"mappings": [mapping(29000, 29005)]},
        },
        initContainers=[container("init", 29006)],
    )
    assert liveness(given)["httpGet"]["port"] == 29007


def test_a_mapping_by_hand_is_kept_and_used() -> None:
    own = {"mappings": [mapping(8080, 9080), mapping(8443, 9443, "HTTPS")]}
    annotations = {"managed-containers": ["app"], "health-check-proxy": own}
    given = pod(
        container(
            ports=NAMED,
            livenessProbe={"httpGet": {"port": 9080}},  # as the mapping's author was told to write it
            readinessProbe={"httpGet": {"port": "http"}},
            startupProbe={"tcpSocket": {"port": 8080}},
        ),
        annotations=annotations,
    )
    changed = after(given)["spec"]["containers"][0]
    assert changed["livenessProbe"] == {"httpGet": {"port": 9080}}
    assert changed["readinessProbe"] == {"httpGet": {"port": 9080}}
    assert changed["startupProbe"]["httpGet"]["port"] == 29000
    mappings = annotation(after(given), "health-check-proxy")["mappings"]
    assert mappings == [*own["mappings"], mapping(8080, 29000, "TCP")]


def test_a_pod_that_uses_every_port_is_refused() -> None:
    ports = [{"containerPort": number} for number in range(29000, 65536)]
    with pytest.raises(Refused, match="no port from 29000 on is free"):
        mutate(pod(container(ports=ports, livenessProbe={"httpGet": {"port": 29000}})))


def test_requests_of_lifecycle_hooks_lead_to_the_application() -> None:
    hooks = {"preStop": {"httpGet": {"port": 8080}}, "postStart": {"httpGet": {"port": 8080}}}
    given = pod(container(lifecycle=hooks, livenessProbe={"httpGet": {"port": 8080}}))
    assert after(given)["spec"]["containers"][0]["lifecycle"] == hooks
