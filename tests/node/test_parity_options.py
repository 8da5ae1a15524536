"""The runtime's options, in both of containerd's forms, and what a shim tells of its runtime."""

from __future__ import annotations

import json
import subprocess

import pytest

from architect.ttrpc import containerd
from architect.ttrpc.codec import decode, encode
from architect.ttrpc.runtime_info import RuntimeInfo
from tests.node.comparison import Cases, ready
from tests.node.parity import BINARIES, Shim

pytestmark = [pytest.mark.containerd, pytest.mark.root]

CASES = Cases()
case = CASES.case
WHO = ("/bin/sh", "-c", "stat -L -c %u:%g /proc/self/fd/1 /proc/self/fd/2; echo ready; exec sleep 1000")


@case("ours", "asleep")
async def streams_of_somebody(shim: Shim) -> None:
    shim.options = containerd.pack(containerd.Options(io_uid=1234, io_gid=5678, binary_name="runc"))
    await ready(shim, *WHO)
    await shim.doze("c1")
    await shim.exec("c1", "e1", *WHO[:2], "stat -L -c %u:%g /proc/self/fd/1 /proc/self/fd/2")
    await shim.call("Wait", id=shim.full("c1"), exec_id="e1")
    await shim.call("Delete", id=shim.full("c1"), exec_id="e1")


@case()
async def no_pivot_and_no_keyring(shim: Shim) -> None:
    shim.options = containerd.pack(
        containerd.Options(no_pivot_root=True, no_new_keyring=True, root="/run/parity/runc-root")
    )
    await ready(shim)
    await shim.end("c1")


@case()
async def a_runtime_that_is_not_there(shim: Shim) -> None:
    shim.options = containerd.pack(containerd.Options(binary_name="/no/such/runc"))
    await shim.create("c1", "/bin/true")


@pytest.mark.parametrize(("name", "kind"), CASES.runs())
async def test_options_mean_what_they_mean_to_containerds_own_shim(name: str, kind: str) -> None:
    await CASES.compare(name, kind)


TOML = containerd.RuntimeOptions(config_body=b'BinaryName = "/usr/sbin/runc"\n')


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("runc", None),
        ("ours", None),
        ("ours", containerd.Options(binary_name="/usr/sbin/runc")),
        ("ours", TOML),
    ],
)
def test_a_shim_tells_the_features_of_its_runtime(kind: str, options: object) -> None:
    wrapped = containerd.pack(options) if options else None
    question = encode(wrapped) if wrapped else b""
    ended = subprocess.run(
        [BINARIES[kind], "-info"], input=question, capture_output=True, timeout=30, check=False
    )
    if kind == "runc" and b"not defined: -info" in ended.stderr:
        pytest.skip("the shim of containerd 1.7 has no -info")
    assert ended.returncode == 0, ended.stderr
    told = decode(RuntimeInfo, ended.stdout)
    features = subprocess.run(["/usr/sbin/runc", "features"], capture_output=True, timeout=30, check=True)
    assert told.features is not None
    assert told.features.type_url == "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
    known, shown = json.loads(features.stdout), json.loads(told.features.value)
    assert {key: known[key] for key in shown} == shown  # containerd's drops what is newer than itself
    assert told.version is not None
    assert told.version.version
    assert told.options == wrapped
