"""Runtime options in any form: read, or refused in a sentence; a value of the wrong type counts as absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from architect.ttrpc import containerd
from architect.ttrpc.codec import encode
from architect.ttrpc.containerd import Any as Wrapped
from architect.ttrpc.containerd import Options, RuntimeOptions
from architect.ttrpc.rpc import Code, RpcError
from shim.bundle import runtime_options
from tests.ttrpc.samples import messages

KEYS = {
    "NoPivotRoot": "no_pivot_root",
    "NoNewKeyring": "no_new_keyring",
    "ShimCgroup": "shim_cgroup",
    "IoUid": "io_uid",
    "IoGid": "io_gid",
    "BinaryName": "binary_name",
    "Root": "root",
    "SystemdCgroup": "systemd_cgroup",
}
TYPES = st.sampled_from(
    [
        "containerd.runc.v1.Options",
        "runtimeoptions.v1.Options",
        "type.googleapis.com/runtimeoptions.v1.Options",
    ]
)
VALUES = st.sampled_from(
    [
        "true",
        "false",
        "7",
        "-1",
        '"/usr/bin/runc"',
        '"\\u0000"',
        "[1]",
        "{a=1}",
        "1979-05-27",
        "1.5",
        "nan",
        "9" * 5000,
    ]
)
LINES = st.builds("{} = {}".format, st.sampled_from([*KEYS, "Other", "a.b", '""']), VALUES) | st.text(
    max_size=9
)


def toml(lines: list[str]) -> bytes:
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def read(options: Wrapped) -> Options | None:
    """The options, or None when they are refused as they should be."""
    try:
        return runtime_options(options)
    except RpcError as error:
        refusal = error
    assert refusal.code is Code.INVALID_ARGUMENT
    assert refusal.message.startswith("the runtime options") or "not known" in refusal.message
    return None


def well_typed(options: Options | None) -> None:
    if options is not None:
        encode(options)
        assert "\0" not in options.binary_name + options.root
        wrong = [
            name
            for name in KEYS.values()
            if type(getattr(options, name)) is not type(getattr(Options(), name))
        ]
        assert wrong == []


@given(st.builds(Wrapped, TYPES | st.text(max_size=9), st.binary(max_size=60)))
def test_any_bytes_are_options_or_refused(options: Wrapped) -> None:
    well_typed(read(options))


@given(st.lists(LINES, max_size=5).map(toml) | st.binary(max_size=40))
@example(b"a = " + b"[" * 60_000)
@example(b"a = " + b"{b=" * 20_000)
@example(b"[" + b"a." * 30_000 + b"a]")
@example(b"n = " + b"9" * 10_000)
@example(b"IoUid = -1")
@example(b"IoUid = 4294967296")
@example(b"IoUid = true")
@example(b'Root = "\\u0000"')
@example(b"\xff")
@example(b"#" * 100_000)
def test_any_toml_is_options_or_refused(body: bytes) -> None:
    well_typed(read(containerd.pack(RuntimeOptions(config_body=body))))


@given(messages(Options))
def test_runcs_own_options_arrive_as_they_were_sent(options: Options) -> None:
    found = read(containerd.pack(options))
    assert found == options or "\0" in options.binary_name + options.root


@given(
    st.fixed_dictionaries(
        {}, optional={"Root": st.text(), "BinaryName": st.text(), "SystemdCgroup": st.booleans()}
    )
)
def test_the_same_options_as_toml_mean_the_same(wanted: dict[str, Any]) -> None:
    body = "\n".join(f"{key} = {json.dumps(value)}" for key, value in wanted.items()).replace(
        "\x7f", "\\u007f"
    )
    found = read(containerd.pack(RuntimeOptions(config_body=body.encode("utf-8", "backslashreplace"))))
    if found is not None:
        assert found == Options(**{KEYS[key]: value for key, value in wanted.items()})


@pytest.mark.parametrize("path", ["/dev/zero", "/", "/nonexistent", "/a\0b", "\ud800", "relative"])
def test_a_file_that_is_none_is_refused(path: str) -> None:
    options = RuntimeOptions(config_path=path)
    with pytest.raises(RpcError, match="the runtime options"):
        runtime_options(Wrapped("runtimeoptions.v1.Options", encode(options)) if path != "\ud800" else _bad())


def _bad() -> Wrapped:
    return Wrapped("runtimeoptions.v1.Options", b"\x12\x03\xed\xa0\x80")


def test_options_may_stand_in_a_file_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.toml").write_text('Root = "/run/x"\nSystemdCgroup = true\n')
    (tmp_path / "runc.toml").symlink_to("real.toml")
    found = read(containerd.pack(RuntimeOptions(config_path=str(tmp_path / "runc.toml"))))
    assert found == Options(root="/run/x", systemd_cgroup=True)
