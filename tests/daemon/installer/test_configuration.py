"""What the installer inserts into containerd's configuration, and that only this is ever removed."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.installer.configuration import (
    drop_in,
    empty,
    foreign,
    missing,
    read,
    runtimes,
    tables,
    version,
    with_block,
    with_import,
    without,
)
from daemon.installer.errors import Refused

PATH = "/etc/containerd/conf.d/architect.toml"
SHIM = "/opt/architect/current/bin/containerd-shim-runc-architect-v1"
HANDLERS = {"runc-architect": SHIM}
DUMPED = {
    "plugins": {
        "io.containerd.cri.v1.runtime": {
            "containerd": {
                "runtimes": {
                    "runc": {
                        "runtime_type": "io.containerd.runc.v2",
                        "runtime_path": "",
                        "pod_annotations": ["io.example/*"],
                        "cni_max_conf_num": 0,
                        "sandboxer": "podsandbox",
                        "options": {"BinaryName": "/opt/runc", "SystemdCgroup": True, "IoUid": 0},
                    }
                }
            }
        }
    }
}
LINES = st.sampled_from(
    [
        "# a comment\n",
        "\n",
        'root = "/var/lib/containerd"\n',
        "oom_score = 0\n",
        "[grpc]\n",
        "  gid = 0\n",
        '[plugins."io.containerd.cri.v1.runtime".cni]\n',
        '  bin_dir = "/opt/cni/bin" # ä\n',
    ]
)
FILES = st.builds(
    lambda head, lines, end: head + "".join(lines) + end,
    st.sampled_from(
        [
            "version = 3\n",
            "# mine\nversion=2\n",
            "version = 3 # three\nimports = [\n  '/etc/a.toml',\n]\n",
            "imports = []\nversion = 2\n",
            'version = 2\nimports=["/etc/a/*.toml", "/b.toml"]\n',
        ]
    ),
    st.lists(LINES, max_size=6, unique=True),
    st.sampled_from(["", "# without an end of line"]),
)


def readable(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


@given(FILES)
def test_an_import_is_added_to_any_file_and_taken_out_again_to_the_byte(text: str) -> None:
    before = readable(text)
    if before is None:
        return
    changed = with_import(text, PATH, 3)
    assert readable(changed) == {**before, "imports": [PATH, *before.get("imports", [])]}
    assert without(changed, PATH) == text


@given(FILES)
def test_a_block_is_added_to_any_file_once_and_taken_out_again_to_the_byte(text: str) -> None:
    if readable(text) is None:
        return
    toml = tables(2, DUMPED, HANDLERS)
    changed = with_block(text, toml)
    assert with_block(changed, toml) == changed
    assert missing(tomllib.loads(changed), HANDLERS) == []
    assert without(changed, PATH) == text
    assert without(changed + "# written afterwards\n", PATH) == text + "# written afterwards\n"


@given(st.text())
def test_taking_out_what_was_never_put_in_changes_nothing(text: str) -> None:
    assert without(text, PATH) == text


def test_the_runtime_is_as_the_nodes_own_runc() -> None:
    for form, plugin in ((2, "io.containerd.grpc.v1.cri"), (3, "io.containerd.cri.v1.runtime")):
        config = tomllib.loads(drop_in(form, tables(form, DUMPED, HANDLERS)))
        assert config["version"] == form
        assert config["plugins"][plugin]["containerd"]["runtimes"]["runc-architect"] == {
            "runtime_type": "io.containerd.runc.v2",
            "runtime_path": SHIM,
            "pod_annotations": ["io.example/*", "architect.loopholelabs.io/*"],
            "container_annotations": ["io.kubernetes.container.*"],
            "sandboxer": "podsandbox",
            "options": {"BinaryName": "/opt/runc", "SystemdCgroup": True, "IoUid": 0},
        }


def test_a_node_without_a_runc_of_its_own_gets_a_runtime_with_defaults() -> None:
    found = runtimes(tomllib.loads(tables(3, {}, HANDLERS)))["runc-architect"]
    assert found["runtime_path"] == SHIM


@given(st.dictionaries(st.sampled_from(["BinaryName", "Root"]), st.text()))
def test_any_text_in_an_option_survives(options: dict[str, str]) -> None:
    dumped = {
        "plugins": {
            "io.containerd.cri.v1.runtime": {"containerd": {"runtimes": {"runc": {"options": options}}}}
        }
    }
    found = runtimes(tomllib.loads(tables(3, dumped, HANDLERS)))["runc-architect"]
    assert found["options"] == options


def test_a_runtime_of_that_name_with_another_path_is_missing() -> None:
    assert missing({}, HANDLERS) == ["runc-architect"]
    other = tomllib.loads(tables(3, DUMPED, {"runc-architect": "/usr/bin/other"}))
    assert missing(other, HANDLERS) == ["runc-architect"]


def test_a_new_file_holds_the_version_and_the_import_only() -> None:
    text = with_import("", PATH, 3)
    assert tomllib.loads(text) == {"version": 3, "imports": [PATH]}
    assert without(text, PATH) == empty(3)


def test_imports_that_cannot_be_extended_are_refused_with_what_to_write() -> None:
    text = 'version = 3\n"imports" = ["/a.toml"]\n'
    with pytest.raises(Refused, match=r"add .*architect\.toml"):
        with_import(text, PATH, 3)


def test_files_that_containerd_could_not_extend_are_refused() -> None:
    with pytest.raises(Refused, match="is no TOML"):
        read("version = ", "/etc/containerd/config.toml")
    with pytest.raises(Refused, match="config migrate"):
        version({}, "/etc/containerd/config.toml")


@pytest.mark.parametrize(
    ("config", "program", "refused"),
    [
        ("/etc/containerd/config.toml", "containerd", False),
        ("/var/lib/rancher/k3s/agent/etc/containerd/config.toml", "k3s", True),
        ("/var/lib/rancher/rke2/agent/etc/containerd/config.toml", "containerd", True),
    ],
)
def test_a_containerd_that_is_configured_anew_at_each_start_is_left_alone(
    config: str, program: str, refused: bool
) -> None:
    assert bool(foreign(config, program, ["runc-architect"])) == refused
