"""What a pod should say: the pure decisions, by tables and played through with crashes at any point."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.kubernetes.pods import view
from daemon.kubernetes.quantities import NoQuantity, amount
from daemon.kubernetes.wanted import Annotate, Resize, State, Step, keeps_because, next_step, released

CPU = "architect.loopholelabs.io/cpu-requests"
MEMORY = "architect.loopholelabs.io/memory-requests"
LABEL = "status.architect.loopholelabs.io/"
ASLEEP, AWAKE, ENDED, CHANGING = State.SCALED_DOWN, State.RUNNING, State.ENDED, State.CHANGING
Object = dict[str, Any]


def kept(
    name: str = "app", requests: Object | None = None, limits: Object | None = None, **more: Any
) -> Object:
    return {"name": name, "resources": {"requests": requests or {}, "limits": limits or {}}, **more}


def pod(
    *containers: Object, labels: Object | None = None, annotations: Object | None = None, **spec: Any
) -> Object:
    metadata = {"name": "web", "namespace": "default", "uid": "u", "labels": labels or {}}
    metadata["annotations"] = annotations or {}
    return {
        "metadata": metadata,
        "spec": {"containers": list(containers), **spec},
        "status": {"phase": "Running"},
    }


BURSTABLE = kept(requests={"cpu": "250m", "memory": "64Mi"}, limits={"cpu": "1"})
LOWERED = kept(requests={"cpu": "0", "memory": "1"}, limits={"cpu": "1"})
SAID_ASLEEP = {f"{LABEL}app": "SCALED_DOWN"}
SAID_AWAKE = {f"{LABEL}app": "RUNNING"}
KEEPING = {CPU: '{"app":"250m"}', MEMORY: '{"app":"64Mi"}'}


@pytest.mark.parametrize(
    ("found", "state", "step"),
    [
        pytest.param(
            pod(BURSTABLE), AWAKE, Annotate(SAID_AWAKE, {}), id="awake for the first time: the label"
        ),
        pytest.param(pod(BURSTABLE, labels=SAID_AWAKE), AWAKE, None, id="awake and said: nothing"),
        pytest.param(
            pod(BURSTABLE, labels=SAID_AWAKE),
            ASLEEP,
            Annotate(SAID_ASLEEP, KEEPING),
            id="asleep: first the label and the annotations",
        ),
        pytest.param(
            pod(BURSTABLE, labels=SAID_ASLEEP, annotations=KEEPING),
            ASLEEP,
            Resize({"app": {"cpu": "0", "memory": "1"}}, raising=False),
            id="asleep and kept: the requests go",
        ),
        pytest.param(
            pod(LOWERED, labels=SAID_ASLEEP, annotations=KEEPING), ASLEEP, None, id="asleep: all said"
        ),
        pytest.param(
            pod(LOWERED, labels=SAID_ASLEEP, annotations=KEEPING),
            AWAKE,
            Resize({"app": {"cpu": "250m", "memory": "64Mi"}}, raising=True),
            id="awake: first the requests come back",
        ),
        pytest.param(
            pod(BURSTABLE, labels=SAID_ASLEEP, annotations=KEEPING),
            AWAKE,
            Annotate(SAID_AWAKE, {CPU: None, MEMORY: None}),
            id="awake and back: the label, and the annotations go",
        ),
        pytest.param(pod(LOWERED, annotations=KEEPING), CHANGING, None, id="waking: everything stays"),
        pytest.param(
            pod(LOWERED, labels=SAID_ASLEEP, annotations=KEEPING),
            ENDED,
            Resize({"app": {"cpu": "250m", "memory": "64Mi"}}, raising=True),
            id="killed asleep: its requests come back",
        ),
        pytest.param(
            pod(BURSTABLE, labels=SAID_ASLEEP),
            ENDED,
            Annotate({f"{LABEL}app": None}, {}),
            id="ended: it has no state",
        ),
        pytest.param(
            pod(kept(requests={"cpu": "300m", "memory": "1"}, limits={"cpu": "1"}), annotations=KEEPING),
            ASLEEP,
            Annotate(SAID_ASLEEP, {CPU: '{"app":"300m"}'}),
            id="somebody set another request meanwhile: that is kept",
        ),
        pytest.param(
            pod(kept(requests={"cpu": "0"}, limits={"cpu": "100m"}), labels=SAID_ASLEEP, annotations=KEEPING),
            AWAKE,
            Annotate(SAID_ASLEEP | SAID_AWAKE, {CPU: '{"app":"100m"}', MEMORY: None}),
            id="the limit is lower than the request was: no more than the limit",
        ),
        pytest.param(
            pod(kept(requests={"cpu": "1", "memory": "1Gi"}, limits={"cpu": "1", "memory": "1Gi"})),
            ASLEEP,
            Annotate(SAID_ASLEEP, {}),
            id="a Guaranteed pod keeps its requests",
        ),
        pytest.param(
            pod(kept(requests={"cpu": "250m", "memory": "64Mi"}), labels=SAID_ASLEEP, annotations=KEEPING),
            ASLEEP,
            Resize({"app": {"cpu": "0", "memory": "1"}}, raising=False),
            id="without limits the byte of memory keeps the QoS class",
        ),
        pytest.param(
            pod(kept(requests={"cpu": "250m"}), labels=SAID_ASLEEP, annotations={CPU: KEEPING[CPU]}),
            ASLEEP,
            Resize({"app": {"cpu": "1m"}}, raising=False),
            id="without limits and memory a trace of CPU stays",
        ),
        pytest.param(
            pod(
                kept(requests={"cpu": "250m", "memory": "64Mi"}),
                kept("sidecar", requests={"cpu": "10m"}),
                labels=SAID_ASLEEP,
                annotations=KEEPING,
            ),
            ASLEEP,
            Resize({"app": {"cpu": "0", "memory": "1"}}, raising=False),
            id="without limits, but another container goes on asking: all of it goes",
        ),
        pytest.param(pod(kept()), ASLEEP, Annotate(SAID_ASLEEP, {}), id="BestEffort has nothing to give"),
        pytest.param(
            pod(
                kept(
                    requests={"cpu": "250m", "memory": "64Mi"},
                    limits={"cpu": "1"},
                    resizePolicy=[{"resourceName": "memory", "restartPolicy": "RestartContainer"}],
                ),
                labels=SAID_ASLEEP,
                annotations={CPU: KEEPING[CPU]},
            ),
            ASLEEP,
            Resize({"app": {"cpu": "0"}}, raising=False),
            id="what would restart the container stays",
        ),
        pytest.param(
            pod(BURSTABLE, resources={"requests": {"cpu": "1"}}),
            ASLEEP,
            Annotate(SAID_ASLEEP, {}),
            id="a pod with resources of its own keeps them",
        ),
        pytest.param(
            pod(LOWERED, labels=SAID_ASLEEP, annotations={CPU: "{", MEMORY: '{"app":"-1"}'}),
            AWAKE,
            Annotate(SAID_AWAKE, {CPU: None, MEMORY: None}),
            id="annotations that make no sense are removed",
        ),
        pytest.param(
            pod(BURSTABLE, labels={f"{LABEL}other": "RUNNING"}),
            AWAKE,
            Annotate({f"{LABEL}other": None, **SAID_AWAKE}, {}),
            id="the label of a container that the pod does not have goes",
        ),
    ],
)
def test_the_next_step(found: Object, state: State, step: Step | None) -> None:
    assert next_step(view(found), {"app": state}) == step


def test_nothing_is_said_of_a_pod_that_is_over() -> None:
    ended = pod(BURSTABLE)
    ended["status"]["phase"] = "Succeeded"
    assert next_step(view(ended), {"app": ASLEEP}) is None
    leaving = pod(BURSTABLE)
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert next_step(view(leaving), {"app": ASLEEP}) is None


def test_after_a_refusal_the_rest_is_said() -> None:
    asleep = pod(BURSTABLE, labels=SAID_ASLEEP, annotations=KEEPING)
    assert next_step(view(asleep), {"app": ASLEEP}, may_lower=False) == Annotate(
        {}, {CPU: None, MEMORY: None}
    )
    awake = pod(LOWERED, labels=SAID_ASLEEP, annotations=KEEPING)
    assert next_step(view(awake), {"app": AWAKE}, may_raise=False) == Annotate(SAID_AWAKE, {})
    # Kubelet can never do it: the requests come back although it sleeps.
    back = Resize({"app": {"cpu": "250m", "memory": "64Mi"}}, raising=True)
    assert next_step(view(awake), {"app": ASLEEP}, may_lower=False) == back


def test_why_requests_stay_is_said() -> None:
    guaranteed = kept(requests={"cpu": "1", "memory": "1Gi"}, limits={"cpu": "1", "memory": "1Gi"})
    assert "Guaranteed" in keeps_because(view(pod(guaranteed)), "app")
    assert "resources of its own" in keeps_because(
        view(pod(BURSTABLE, resources={"limits": {}, "x": 1})), "app"
    )
    assert keeps_because(view(pod(BURSTABLE)), "app") == ""
    assert keeps_because(view(pod(kept())), "app") == ""
    assert released(view(pod(LOWERED, annotations=KEEPING)), "app") == {"cpu": "250m", "memory": "64Mi"}


# ---- played through

names = st.sampled_from(["a", "b", "c"])
quantity = {
    "cpu": st.sampled_from(["1m", "100m", "1", "2"]),
    "memory": st.sampled_from(["1", "64Mi", "1Gi"]),
}


@st.composite
def containers(draw: st.DrawFn) -> list[Object]:
    found = []
    for name in sorted(draw(st.sets(names, min_size=1))):
        requests, limits = {}, {}
        for resource, values in quantity.items():
            kind = draw(st.sampled_from(["none", "request", "limit", "both", "equal"]))
            if kind in ("request", "both"):
                requests[resource] = draw(values)
            if kind == "equal":
                limits[resource] = requests[resource] = draw(values)
            if kind in ("limit", "both"):
                most = draw(values)
                limits[resource] = max(most, requests.get(resource, most), key=amount)
                requests.setdefault(resource, most)  # as the API server does
        found.append(kept(name, requests, limits))
    return found


def qos(found: Object) -> str:
    """The documented rule, in another way than the code's."""
    every = [entry["resources"] for entry in found["spec"]["containers"]]

    def positive(kind: str) -> bool:
        return any(amount(value) > 0 for each in every for value in each[kind].values())

    if not positive("requests") and not positive("limits"):
        return "BestEffort"
    for resource in ("cpu", "memory"):
        if any(amount(each["limits"].get(resource, "0")) == 0 for each in every):
            return "Burstable"
        total = [
            sum(amount(each[kind].get(resource, "0")) for each in every) for kind in ("requests", "limits")
        ]
        if total[0] != total[1]:
            return "Burstable"
    return "Guaranteed"


def take(found: Object, step: Step) -> Object:
    """What the API server makes of a step: it checks what it checks."""
    after = deepcopy(found)
    if isinstance(step, Annotate):
        for key, changes in (("labels", step.labels), ("annotations", step.annotations)):
            assert isinstance(changes, Mapping)
            merged = after["metadata"][key] | dict(changes)
            after["metadata"][key] = {name: value for name, value in merged.items() if value is not None}
        return after
    by_name = {entry["name"]: entry["resources"] for entry in after["spec"]["containers"]}
    for name, requests in step.requests.items():
        for resource, value in requests.items():
            assert resource in by_name[name]["requests"], "a resize adds no resource"
            limit = by_name[name]["limits"].get(resource)
            assert limit is None or amount(value) <= amount(limit)
            by_name[name]["requests"][resource] = value
    assert qos(after) == qos(found), "the QoS class may not change"
    return after


def requests_of(found: Object) -> Object:
    return {entry["name"]: entry["resources"]["requests"] for entry in found["spec"]["containers"]}


@given(
    containers(),
    st.lists(
        st.tuples(
            st.dictionaries(names, st.sampled_from([ASLEEP, AWAKE, CHANGING, ENDED])), st.integers(0, 6)
        ),
        max_size=8,
    ),
)
def test_whatever_is_interrupted_every_request_comes_back(
    specs: list[Object], story: list[tuple[dict[str, State], int]]
) -> None:
    found = pod(*specs)
    before = deepcopy(requests_of(found))
    everyone = {entry["name"] for entry in specs}
    for states, steps in story:
        for _ in range(steps):  # then the daemon dies
            step = next_step(view(found), states)
            if step is None:
                break
            found = take(found, step)
            for name, requests in requests_of(found).items():  # what was lowered is always kept
                for resource, value in requests.items():
                    original = before[name][resource]
                    saved = json.loads(
                        found["metadata"]["annotations"].get(
                            f"architect.loopholelabs.io/{resource}-requests", "{}"
                        )
                    )
                    assert value == original or saved[name] == original
    for states in (dict.fromkeys(everyone, ASLEEP), dict.fromkeys(everyone, AWAKE)):
        for _ in range(8):
            step = next_step(view(found), states)
            if step is None:
                break
            found = take(found, step)
        assert next_step(view(found), states) is None, "it comes to rest"
        assert found["metadata"]["labels"] == {LABEL + name: state.value for name, state in states.items()}
    assert requests_of(found) == before
    assert found["metadata"]["annotations"] == {}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["metadata", "spec", "status", "labels", "annotations", "containers", "resources", "requests",
             "cpu", "name", "conditions", "type", "reason", "resizePolicy", CPU]
        ),
        inner,
        max_size=4,
    ),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["metadata", "spec", "status"]), anything))
def test_no_pod_is_too_odd_to_be_read(odd: Object) -> None:
    next_step(view(odd), {"app": ASLEEP})


@pytest.mark.parametrize(
    ("text", "value"),
    [("250m", 0.25), ("1.5Gi", 1.5 * 2**30), ("1e3", 1000), ("1E", 10**18), ("1E3", 1000), (".5", 0.5),
     ("0", 0), ("100Ki", 102400), ("5.", 5), ("12e-1", 1.2)],
)  # fmt: skip
def test_quantities_are_read_as_kubernetes_reads_them(text: str, value: float) -> None:
    assert float(amount(text)) == value


@pytest.mark.parametrize("text", ["", "m", "1 ", "1mi", "0x1", "1e", "--1", "1Gi2", "1e9999", "٣"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(NoQuantity):
        amount(text)
