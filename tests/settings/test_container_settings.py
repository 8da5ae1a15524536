"""Annotations become settings, or a refusal that names the place."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.settings import (
    PREFIX,
    ContainerSettings,
    Monitor,
    PodIdentity,
    Port,
    Refused,
    container_settings,
    pod_identity,
)

PORTS = "io.kubernetes.container.ports"
MANAGED, DURATIONS, DELAYS, MONITOR = (
    PREFIX + key
    for key in ("managed-containers", "scaledown-durations", "initial-scaledown-delays", "network-monitor")
)
SECOND = 10**9


def managed(**extra: str) -> dict[str, str]:
    """Annotations under which `app` and `db` are managed, and `extra` by key with _ for -."""
    return {
        MANAGED: '["app","db"]',
        **{PREFIX + key.replace("_", "-"): value for key, value in extra.items()},
    }


def test_a_container_without_annotations_is_not_managed() -> None:
    assert container_settings({}, "app") is None


def test_a_container_that_is_not_listed_is_not_managed_whatever_else_is_said() -> None:
    assert container_settings(managed(scaledown_durations="{nonsense"), "sidecar") is None


def test_a_listed_container_has_the_documented_defaults() -> None:
    assert container_settings(managed(), "app") == ContainerSettings(60 * SECOND, 0, Monitor.NONE, ())


def test_every_annotation_reaches_the_settings_of_its_container() -> None:
    annotations = managed(
        scaledown_durations='{"app":"30s","db":"1m30s"}',
        initial_scaledown_delays='{"db":"90s"}',
        network_monitor='{"app":"packets","db":"connections"}',
    )
    annotations[PORTS] = '[{"name":"pg","containerPort":5432,"protocol":"TCP"}]'
    assert container_settings(annotations, "db", known=["app", "db"]) == ContainerSettings(
        idle_ns=90 * SECOND,
        initial_delay_ns=90 * SECOND,
        monitor=Monitor.CONNECTIONS,
        ports=(Port(5432, "TCP"),),
    )


def test_a_scaledown_duration_of_zero_means_never() -> None:
    settings = container_settings(managed(scaledown_durations='{"app":"0s"}'), "app")
    assert settings is not None
    assert settings.idle_ns == 0


def test_an_initial_delay_over_a_day_is_cut_to_a_day() -> None:
    settings = container_settings(managed(initial_scaledown_delays='{"app":"100h"}'), "app")
    assert settings is not None
    assert settings.initial_delay_ns == 24 * 3600 * SECOND


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        pytest.param("[]", [], id="none"),
        pytest.param("null", [], id="an empty slice as Go writes it"),
        pytest.param('[{"containerPort":80}]', [(80, "TCP")], id="TCP is the default"),
        pytest.param('[{"containerPort":53,"protocol":"UDP","hostPort":53}]', [(53, "UDP")], id="UDP"),
        pytest.param('[{"containerPort":9,"protocol":"SCTP"}]', [], id="SCTP is left out"),
        pytest.param('[{"containerPort":80},{"containerPort":80}]', [(80, "TCP")], id="the same twice"),
    ],
)
def test_declared_ports_come_from_what_kubelet_wrote(text: str, ports: list[tuple[int, str]]) -> None:
    settings = container_settings({**managed(), PORTS: text}, "app")
    assert settings is not None
    assert [tuple(port) for port in settings.ports] == ports


REFUSALS = [
    pytest.param(MANAGED, "app", "is no JSON", id="a bare word"),
    pytest.param(MANAGED, "", "is no JSON", id="empty"),
    pytest.param(MANAGED, '"app"', "is a string where a list belongs", id="a string"),
    pytest.param(MANAGED, "null", "is null where a list belongs", id="null"),
    pytest.param(MANAGED, '["app",1]', "[1]: is a number where a string belongs", id="a number in the list"),
    pytest.param(MANAGED, '["app","app"]', "[1]: names container 'app' twice", id="a name twice"),
    pytest.param(MANAGED, '["app","Up"]', "[1]: 'Up' is no container name", id="capitals"),
    pytest.param(MANAGED, '["app","../x"]', "[1]: '../x' is no container name", id="a path"),
    pytest.param(MANAGED, '["app","a\\ud800"]', "is no container name", id="half a surrogate pair"),
    pytest.param(
        MANAGED, '["app","web"]', "[1]: the pod has no container 'web'; it has app, db", id="unknown"
    ),
    pytest.param(MANAGED, "[" * 20000, "is nested deeper than", id="nested deeply"),
    pytest.param(MANAGED, '["app"' + " " * 70000 + "]", "65536 are allowed", id="larger than 64 KiB"),
    pytest.param(
        MANAGED, json.dumps(["app", *(f"c{n}" for n in range(300))]), "256 are allowed", id="very many"
    ),
    pytest.param(DURATIONS, '["30s"]', "is a list where an object belongs", id="a list of durations"),
    pytest.param(DURATIONS, '{"app":30}', ".app: is a number where a string belongs", id="a bare number"),
    pytest.param(DURATIONS, '{"app":"30"}', ".app: '30' is no duration", id="no unit"),
    pytest.param(DURATIONS, '{"app":""}', ".app: is empty", id="an empty duration"),
    pytest.param(DURATIONS, '{"app":"-5s"}', ".app: '-5s' is negative", id="negative"),
    pytest.param(DURATIONS, '{"app":"900000h"}', "is more than ten years", id="absurd"),
    pytest.param(DURATIONS, '{"app":"1s","app":"2s"}', "names 'app' twice", id="a member twice"),
    pytest.param(
        DURATIONS, '{"app":"1s","web":"2s"}', ".web: the pod has no container 'web'", id="another's name"
    ),
    pytest.param(DURATIONS, '{"app":NaN}', "holds NaN", id="NaN"),
    pytest.param(DURATIONS, '{"app":' + "9" * 5000 + "}", "is no JSON", id="a number without end"),
    pytest.param(DURATIONS, '{"app":"1s"} x', "is no JSON", id="something after the end"),
    pytest.param(DELAYS, '{"db":"soon"}', ".db: 'soon' is no duration", id="a word as delay"),
    pytest.param(DELAYS, '{"app":"1000000h"}', "is more than ten years", id="an absurd delay is not cut"),
    pytest.param(MONITOR, "connections", "is no JSON", id="the mode without its container"),
    pytest.param(MONITOR, '{"app":"bytes"}', ".app: 'bytes' is no mode", id="an unknown mode"),
    pytest.param(MONITOR, '{"app":""}', ".app: '' is no mode", id="an empty mode"),
    pytest.param(MONITOR, '{"db":true}', ".db: is a boolean where a string belongs", id="a boolean mode"),
    pytest.param(
        PORTS, '[{"containerPort":0}]', "[0].containerPort: 0 is not within 1 and 65535", id="port 0"
    ),
    pytest.param(PORTS, '[{"containerPort":true}]', "is a boolean where", id="a boolean port"),
    pytest.param(PORTS, '[{"hostPort":1}]', "[0]: has no 'containerPort'", id="no port in the port"),
]


@pytest.mark.parametrize(("key", "value", "sentence"), REFUSALS)
def test_what_cannot_be_is_refused_with_the_key_and_the_place(key: str, value: str, sentence: str) -> None:
    with pytest.raises(Refused) as refused:
        container_settings({**managed(), key: value}, "app", known=["app", "db"])
    assert refused.value.key == key
    assert str(refused.value).startswith(key)
    assert sentence in str(refused.value)
    assert len(str(refused.value)) < 400
    str(refused.value).encode("ascii")  # no terminal or log chokes on it


def test_a_mistake_for_one_container_is_refused_for_the_other_too() -> None:
    with pytest.raises(Refused):
        container_settings(managed(network_monitor='{"db":"bytes"}'), "app")


def test_names_are_not_checked_by_who_does_not_know_them() -> None:
    assert container_settings(managed(scaledown_durations='{"web":"2s"}'), "app") is not None


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["app", "packets", "1s"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("app"), inner),
)
VALUES = st.text() | JSON.map(json.dumps) | st.just('["app"]')


@given(st.fixed_dictionaries(dict.fromkeys((MANAGED, DURATIONS, DELAYS, MONITOR, PORTS), VALUES)))
def test_any_annotations_give_settings_or_a_refusal_and_nothing_else(annotations: Mapping[str, str]) -> None:
    try:
        settings = container_settings(annotations, "app")
    except Refused as refused:
        settings = None
        annotations[refused.key]
    assert settings is None or (
        settings.idle_ns >= 0 and 0 <= settings.initial_delay_ns <= 24 * 3600 * SECOND
    )


CRI = "io.kubernetes.cri."
CONTAINER = {
    CRI + "container-type": "container",
    CRI + "sandbox-id": "c0ffee",
    CRI + "sandbox-namespace": "shop",
    CRI + "sandbox-name": "cart-7d9f",
    CRI + "sandbox-uid": "0b54-11",
    CRI + "container-name": "app",
}


def test_the_pod_is_known_by_what_the_cri_plugin_says() -> None:
    assert pod_identity(CONTAINER) == PodIdentity("c0ffee", "shop", "cart-7d9f", "0b54-11", "app")


def test_a_sandbox_has_no_container_name() -> None:
    assert pod_identity({**CONTAINER, CRI + "container-type": "sandbox"}).container == ""


def test_a_container_that_the_cri_plugin_did_not_make_has_no_identity() -> None:
    assert pod_identity({}) == PodIdentity()


@pytest.mark.parametrize("value", ["", "..", "a/b", "/etc", "a\0b", "a\n", "x" * 300, "\u00e9"])
@pytest.mark.parametrize("name", ["sandbox-uid", "container-name", "sandbox-id"])
def test_a_name_that_is_no_path_component_is_refused_and_never_returned(name: str, value: str) -> None:
    annotations = {**CONTAINER, CRI + name: value}
    with pytest.raises(Refused) as refused:
        pod_identity(annotations)
    assert refused.value.key == CRI + name
    assert value not in vars_of(pod_identity(annotations, strict=False)) or value == ""


def vars_of(identity: PodIdentity) -> list[str]:
    return [
        identity.sandbox_id,
        identity.pod_namespace,
        identity.pod_name,
        identity.pod_uid,
        identity.container,
    ]


def test_a_container_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(Refused):
        pod_identity({**CONTAINER, CRI + "container-type": "vm"})
