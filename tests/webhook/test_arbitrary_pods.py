"""Whatever comes in: an answer or a refusal, and nothing for those who did not ask."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from architect.settings import Refused
from tests.webhook.pods import LABEL, container, patched, pod
from webhook.asking import Namespace
from webhook.mutation import mutate
from webhook.patches import difference

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70_000) | st.text(max_size=4) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("a/~", max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
PORT = st.sampled_from([8080, 29000, "http", "8080", 0, "x", None, 65536, True])
HANDLER = st.fixed_dictionaries(
    {},
    optional={
        "port": PORT,
        "host": st.sampled_from(["", "h"]),
        "path": st.sampled_from(["/", "/app-health/app/livez"]),
        "scheme": st.sampled_from(["HTTP", "HTTPS", ""]),
    },
)
PROBE = st.fixed_dictionaries(
    {},
    optional={
        "httpGet": HANDLER | JSON,
        "tcpSocket": HANDLER,
        "grpc": HANDLER,
        "exec": st.fixed_dictionaries({"command": JSON | st.just(["true"])}),
    },
)
PORTS = st.lists(
    st.fixed_dictionaries(
        {"containerPort": st.sampled_from([8080, 53, 29000, 0, "a"])},
        optional={"protocol": st.sampled_from(["TCP", "UDP", "SCTP"]), "name": st.just("http")},
    ),
    max_size=3,
)
ENV = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["GODEBUG", "A"])},
        optional={"value": st.sampled_from(["", "a=1", "multipathtcp=1"]), "valueFrom": JSON},
    ),
    max_size=3,
)
QUANTITIES = st.dictionaries(st.sampled_from(["cpu", "memory", "amd.com/gpu"]), st.sampled_from(["0", "1"]))
CONTAINER = st.fixed_dictionaries(
    {"name": st.sampled_from(["app", "db", "istio-proxy", ""])},
    optional={
        "ports": PORTS | JSON,
        "env": ENV | JSON,
        "tty": st.booleans(),
        "livenessProbe": PROBE | JSON,
        "readinessProbe": PROBE,
        "startupProbe": PROBE,
        "lifecycle": JSON,
        "resources": st.fixed_dictionaries({}, optional={"limits": QUANTITIES, "requests": QUANTITIES})
        | JSON,
        "securityContext": st.fixed_dictionaries({"privileged": st.booleans()}) | JSON,
        "volumeMounts": JSON,
    },
)
# Names are unique: the API server sees to that.
CONTAINERS = st.lists(CONTAINER, max_size=3, unique_by=lambda each: str(each["name"]))
MAPPINGS = st.lists(
    st.fixed_dictionaries(
        {
            "containerName": st.sampled_from(["app", "db", "x"]),
            "appPort": st.sampled_from([8080, 53]),
            "shadowPort": st.sampled_from([29000, 29001, 8080]),
        },
        optional={"protocol": st.sampled_from(["HTTP", "TCP", "GRPC", "X"])},
    ),
    max_size=2,
).map(lambda mappings: json.dumps({"mappings": mappings}))
ANNOTATIONS = st.dictionaries(
    st.sampled_from(
        [
            "managed-containers",
            "network-monitor",
            "scaledown-durations",
            "health-check-proxy",
            "shadow-ports",
            "x",
        ]
    ),
    st.sampled_from(['["app"]', "[]", '{"app":"packets"}', '{"app":"5s"}', "{}", "[", "null"])
    | MAPPINGS
    | JSON.map(json.dumps),
    max_size=3,
)
LABELS = st.dictionaries(st.just(LABEL), st.sampled_from(["true", "runc", "runsc", "false", "x"]))
PODS = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"labels": LABELS | st.just({LABEL: "true"})}, optional={"annotations": ANNOTATIONS | JSON}
        ),
        "spec": st.fixed_dictionaries(
            {"containers": CONTAINERS | JSON},
            optional={
                "runtimeClassName": st.sampled_from(["", "runc-architect", "runsc-architect", "x"]),
                "hostNetwork": st.booleans(),
                "initContainers": st.lists(CONTAINER, max_size=1) | JSON,
            },
        ),
    }
)
NAMESPACES = st.sampled_from(Namespace)


@given(PODS, NAMESPACES)
@example(pod(container(env="x", ports={})), Namespace.SILENT)
def test_every_pod_is_answered_and_a_second_pass_adds_nothing(of: Any, namespace: Namespace) -> None:
    before = copy.deepcopy(of)
    try:
        mutation = mutate(of, namespace)
    except Refused:
        return
    finally:
        assert of == before
    after = patched(of, mutation.patch)
    assert mutate(after, namespace).patch == ()


@given(st.dictionaries(st.sampled_from(["metadata", "spec", "a"]), JSON), NAMESPACES)
def test_nothing_that_is_no_pod_raises(of: Any, namespace: Namespace) -> None:
    try:
        mutate(of, namespace)
    except Refused:
        return


@given(PODS)
def test_a_pod_that_did_not_ask_is_untouched(of: Any) -> None:
    of["metadata"]["labels"] = {}
    of["spec"].pop("runtimeClassName", None)
    mutation = mutate(of)
    assert (mutation.patch, mutation.warnings) == ((), ())


@given(JSON, JSON)
def test_a_difference_applied_is_the_other_value(old: Any, new: Any) -> None:
    patch = difference(old, new)
    result = patched(old, patch)
    assert json.dumps(result) == json.dumps(new) or result == new
    assert difference(old, old) == []
