"""Which containers may go on with each other's memory, and what is said of those that may not."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from shim.likeness import IMAGE_NAME, conditions, difference

SPEC: dict[str, Any] = {
    "process": {"args": ["/app"], "cwd": "/", "user": {"uid": 1}, "env": ["A=1"], "capabilities": {}},
    "root": {"path": "rootfs"},
    "mounts": [{"destination": "/data", "type": "bind", "source": "/volumes/1"}],
    "annotations": {IMAGE_NAME: "docker.io/local/web:1"},
    "linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/proc/7/ns/net"}]},
}


def changed(path: str, value: object) -> dict[str, Any]:
    spec = copy.deepcopy(SPEC)
    *above, last = path.split(".")
    found = spec
    for name in above:
        found = found[name]
    found[last] = value
    return spec


@pytest.mark.parametrize(
    "spec",
    [
        changed("process.env", ["A=2"]),
        changed("mounts", [{"destination": "/data", "type": "bind", "source": "/volumes/2"}]),
        changed("linux.namespaces", [{"type": "network", "path": "/proc/9/ns/net"}, {"type": "pid"}]),
        changed("linux.resources", {"cpu": {"shares": 2}}),
    ],
    ids=["environment", "sources of mounts", "namespaces by path", "limits"],
)
def test_what_memory_does_not_depend_on_may_differ(spec: dict[str, Any]) -> None:
    assert difference(conditions(SPEC), conditions(spec)) == ""


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (changed("process.args", ["/app", "-v"]), "its command is another"),
        (changed("process.cwd", "/tmp"), "its command is another"),
        (changed("process.user", {"uid": 2}), "its user is another"),
        (changed("process.capabilities", {"bounding": ["CAP_KILL"]}), "its privileges are others"),
        (changed("mounts", []), "its mounts are others"),
        (
            changed("root.readonly", True),
            "its root file system is another (writable then, read-only now)",
        ),
        (changed("linux.namespaces", []), "its namespaces are others (pid then, none now)"),
        (
            {**changed("process.args", ["/other"]), "annotations": {IMAGE_NAME: "other:2"}},
            "its image is another (docker.io/local/web:1 then, other:2 now)",
        ),
    ],
)
def test_the_first_difference_is_told(spec: dict[str, Any], sentence: str) -> None:
    assert difference(conditions(SPEC), conditions(spec)) == sentence


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("local/web:1", "docker.io/local/web:1"),
        ("busybox", "docker.io/library/busybox"),
        ("localhost/web:1", "localhost/web:1"),
        ("registry:5000/web", "registry:5000/web"),
        ("sha256:0123", "sha256:0123"),
    ],
)
def test_an_image_is_the_same_by_its_short_name_and_in_full(short: str, full: str) -> None:
    one, other = ({"image": name} for name in (short, full))
    assert difference(one, other) == difference(other, one) == ""
    assert difference(one, {"image": f"{full}.1"})


def test_a_condition_that_is_not_known_here_is_not_met() -> None:
    assert difference({**conditions(SPEC), "phase of the moon": "full"}, conditions(SPEC)) == (
        "its phase of the moon is another (full then, none now)"
    )


def test_an_empty_specification_has_conditions_too() -> None:
    assert difference(conditions({}), conditions({})) == ""
