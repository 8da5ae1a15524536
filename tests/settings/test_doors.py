"""The annotations that give probes and scrapers a door of their own."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.probes import PROBES, SHADOWS, Door, Protocol, doors
from architect.settings import Refused


def mapping(container: str = "app", app: object = 8080, shadow: object = 29080, **more: str) -> object:
    return {"containerName": container, "appPort": app, "shadowPort": shadow, **more}


def written(*mappings: object) -> str:
    return json.dumps({"mappings": list(mappings)})


def test_a_pod_without_annotations_has_no_doors() -> None:
    assert doors({}) == ()


def test_a_probe_is_spoken_to_in_http_unless_it_says_otherwise() -> None:
    found = doors({PROBES: written(mapping(), mapping(app=8443, shadow=29081, protocol="HTTPS"))})
    assert found == (
        Door("app", 8080, 29080, Protocol.HTTP, True),
        Door("app", 8443, 29081, Protocol.HTTPS, True),
    )


def test_a_scraper_is_not_a_probe() -> None:
    assert doors({SHADOWS: written(mapping())}) == (Door("app", 8080, 29080, Protocol.HTTP, False),)


@pytest.mark.parametrize(
    ("annotations", "sentence"),
    [
        ({PROBES: "[]"}, "is a list where an object belongs"),
        ({PROBES: "{}"}, "has no 'mappings'"),
        ({PROBES: written(mapping(app=0))}, "appPort: 0 is not within 1 and 65535"),
        ({PROBES: written(mapping(shadow="9"))}, "shadowPort: is a string"),
        ({PROBES: written(mapping(protocol="SMTP"))}, "is no protocol; HTTP, HTTPS, TCP, GRPC are"),
        ({PROBES: written(mapping(container="other"))}, "the pod has no container 'other'; it has app"),
        ({PROBES: written(mapping()), SHADOWS: written(mapping(app=9090))}, "shadow port 29080 is taken"),
        ({SHADOWS: written(mapping(shadow=8080))}, "shadow port 8080 is also an application's port"),
    ],
)
def test_what_cannot_be_is_refused_with_the_place(annotations: dict[str, str], sentence: str) -> None:
    with pytest.raises(Refused) as refusal:
        doors(annotations, known={"app"})
    assert sentence in str(refusal.value)
    assert refusal.value.key in annotations


@given(st.dictionaries(st.sampled_from([PROBES, SHADOWS]), st.text() | st.binary().map(repr)))
def test_whatever_is_written_is_doors_or_a_refusal(annotations: dict[str, str]) -> None:
    try:
        found = doors(annotations)
    except Refused:
        return
    assert len({door.shadow_port for door in found}) == len(found)
