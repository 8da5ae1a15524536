"""Whatever a bundle's `config.json` says: it is read, or refused in a sentence, and never anything else.

What was read is then asked for all that a shim ever asks of it, so that nothing breaks later, in a dump.
"""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from architect import settings
from architect.engine import plan
from architect.engine.cgroup import Cgroup
from architect.engine.errors import Refused
from architect.engine.spec import read_spec
from architect.settings import PREFIX
from architect.ttrpc.server import Code, RpcError
from shim.address import Usage
from shim.bundle import Bundle
from shim.post import group_of

CRI = "io.kubernetes.cri."
SPEC: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "process": {"terminal": False, "args": ["/app"], "cwd": "/"},
    "root": {"path": "rootfs", "readonly": True},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "type": "bind", "source": "/node/data", "options": ["rbind", "rprivate"]},
    ],
    "annotations": {
        CRI + "container-type": "container",
        CRI + "sandbox-id": "c0ffee",
        CRI + "sandbox-namespace": "default",
        CRI + "sandbox-name": "web-0",
        CRI + "sandbox-uid": "7b0e",
        CRI + "container-name": "app",
        PREFIX + "managed-containers": '["app"]',
        PREFIX + "scaledown-durations": '{"app":"30s"}',
    },
    "linux": {
        "namespaces": [{"type": "pid"}, {"type": "network", "path": "/var/run/netns/x"}, {"type": "mount"}],
        "resources": {"devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c"}]},
        "maskedPaths": ["/proc/kcore"],
    },
}
TABLE = plan.mount_table(
    "100 99 0:50 / / rw - overlay overlay rw\n"
    "101 100 8:1 /data /data rw - ext4 /dev/vda rw\n"
    "102 100 0:52 /null /proc/kcore rw - tmpfs tmpfs rw\n"
)
CGROUP = Cgroup({"cpu": "/sys/fs/cgroup/cpu/pod/c1"})

WORDS = st.sampled_from(["", "/", "..", "bind", "pid", "network", "rwm", "a\0b", "\ud800", "x" * 300])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document: what holds it, and under which name or number."""
    found = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, below in found:
        yield value, name
        yield from places(below)


@st.composite
def specs(draw: st.DrawFn) -> Any:
    """A spec as containerd writes it, with up to three of its parts taken away or replaced by anything."""
    document = {"": copy.deepcopy(SPEC)}
    for _ in range(draw(st.integers(1, 3))):
        if not (found := list(places(document))):
            break
        holder, name = draw(st.sampled_from(found))
        if isinstance(holder, dict) and draw(st.booleans()):
            holder.pop(name)
        else:
            holder[name] = draw(JSON)
    return document.get("")


def ask_everything(bundle: Bundle) -> None:
    """What a shim asks of a bundle between its creation and the restore of its container."""
    assert all(isinstance(value, str) for value in bundle.annotations.values())
    assert "\0" not in bundle.rootfs + bundle.netns
    (bundle.rootfs + bundle.netns).encode()
    assert isinstance(plan.refusal(bundle.spec, bundle.rootfs), str)
    spaces = plan.namespace_paths(bundle.spec)
    with contextlib.suppress(Refused):  # a mount of which nobody knows where it comes from
        external = plan.external_mounts(bundle.spec, TABLE, CGROUP)
        numbers: Any = {"image_fd": 3, "log_fd": 4}
        plan.dump_options(
            pid=1, root="/r", netns_inode=5, freezer="/f", external=external, watched=[], **numbers
        )
        plan.restore_options(
            root="/r", spaces=spaces, external=external, netns_fd=10, pipes={}, closed=False, **numbers
        )
    settings.pod_identity(bundle.annotations, strict=False)
    with contextlib.suppress(settings.Refused):
        identity = settings.pod_identity(bundle.annotations)
        settings.container_settings(bundle.annotations, identity.container)


def load(text: bytes) -> Bundle | None:
    """The bundle with this config.json; None when it is refused as it should be."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "config.json").write_bytes(text)
        try:
            return Bundle.load("c1", directory)
        except RpcError as error:
            refusal = error
    assert refusal.code is Code.INVALID_ARGUMENT
    assert refusal.message.startswith("container c1: its config.json")
    return None


@given(specs())
@example(None)
@example({**SPEC, "linux": None})
@example({**SPEC, "process": [], "root": "rootfs", "mounts": {}, "annotations": ["x"]})
@example({**SPEC, "root": {"path": "a\0b"}})
@example({**SPEC, "root": {"path": "\ud800"}})
@example({**SPEC, "linux": {"namespaces": [None, {"path": "/x"}, {"type": ["pid"]}]}})
@example({**SPEC, "linux": {"namespaces": None, "resources": {"devices": [0]}, "maskedPaths": [[]]}})
@example({**SPEC, "mounts": [{"type": "bind"}, {"destination": 1, "options": "rbind"}, {"options": [{}]}]})
def test_any_spec_is_read_or_refused_and_what_was_read_answers_every_question(spec: Any) -> None:
    if bundle := load(json.dumps(spec).encode()):
        ask_everything(bundle)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 200_000)
@example(b'{"linux":' * 100_000)
@example(b"9" * 10_000)
@example(b"\xff\xfe{}")
@example(b'"\xed\xa0\x80"')
@example(b'{"annotations":{"a":"1","a":"2"}}')
def test_any_bytes_in_a_config_are_read_or_refused(text: bytes) -> None:
    if bundle := load(text):
        ask_everything(bundle)


def test_an_ordinary_spec_is_read_as_it_is() -> None:
    assert read_spec(json.dumps(SPEC)) == SPEC
    bundle = load(json.dumps(SPEC).encode())
    assert bundle is not None
    ask_everything(bundle)


def test_what_is_null_counts_as_absent() -> None:
    written_by_go = {**SPEC, "mounts": None, "annotations": None, "linux": {"namespaces": None}}
    assert read_spec(json.dumps(written_by_go)) == {
        "ociVersion": "1.2.0",
        "process": SPEC["process"],
        "root": SPEC["root"],
        "linux": {},
    }


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"linux": []}, "linux: is a list where an object belongs"),
        ({"linux": {"namespaces": [{"type": "pid"}, {}]}}, "linux.namespaces[1]: has no 'type'"),
        ({"root": {"path": "a\0b"}}, "root.path: holds a NUL"),
        ({"mounts": [{"destination": 7}]}, "mounts[0].destination: is a number where a string belongs"),
    ],
)
def test_a_refusal_names_the_place(part: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refused) as refused:
        read_spec(json.dumps({**SPEC, **part}))
    assert str(refused.value) == f"its config.json does not read: {sentence}"


@given(specs() | JSON, st.sampled_from(["c1", "", "../x", ".", "a b", "a\0"]) | st.text(max_size=5))
@example([], "c1")
@example({"annotations": []}, "c1")
@example({"annotations": {CRI + "sandbox-id": {"x": 1}}}, "c1")
def test_whose_pod_a_bundle_belongs_to_is_known_or_refused(spec: Any, container_id: str) -> None:
    try:
        group = group_of(json.dumps(spec), container_id)
    except Usage:
        return
    assert group
    assert "/" not in group
    assert not group.startswith(".")
    group.encode()


@pytest.mark.parametrize("text", ["[" * 200_000, "", "nonsense", "9" * 10_000])
def test_a_config_that_is_no_json_is_refused_by_start(text: str) -> None:
    with pytest.raises(Usage):
        group_of(text, "c1")


@given(st.dictionaries(st.sampled_from(sorted(SPEC["annotations"])), WORDS | st.text(max_size=5)))
def test_who_a_container_is_never_leaves_its_directory(annotations: dict[str, str]) -> None:
    found = settings.pod_identity(annotations, strict=False)
    names = (found.sandbox_id, found.pod_namespace, found.pod_name, found.pod_uid, found.container)
    assert not any(set(name) & {"/", "\0"} or name in {".", ".."} for name in names)
    try:
        strict = settings.pod_identity(annotations)
    except settings.Refused:
        return
    assert strict == found
    assert strict.pod_uid or strict == settings.PodIdentity()
