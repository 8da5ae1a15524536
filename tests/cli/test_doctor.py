from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from architect.cli import doctor
from architect.cli.commands import cli
from architect.cli.doctor import (
    Ran,
    check_cgroups,
    check_containerd,
    check_criu,
    check_disk,
    check_kernel,
    check_packets,
    check_root,
    check_runc,
    run,
)
from architect.gate import GateError
from architect.gate.nftables import Means


def says(output: str, status: int = 0) -> doctor.Run:
    """Any program, when run, says this."""

    def program(argv: Sequence[str]) -> Ran:
        return Ran(status, output)

    return program


@pytest.mark.parametrize(
    ("version", "kernel", "passed"),
    [
        ("4.2.1", "6.18.0-cloud", True),
        ("4.2", "6.16.0", True),
        ("4.1.1", "6.16.0", False),
        ("4.1.1", "6.12.9+deb13", True),
        ("3.17.1", "6.1.0", False),
        ("10.0", "7.0", True),
        ("4.2", "6.18-rc1", True),
        ("4.1", "6.9", True),
    ],
)
def test_a_criu_that_cannot_dump_sockets_on_this_kernel_fails(
    version: str, kernel: str, passed: bool
) -> None:
    finding = check_criu("/criu", kernel, says(f"Version: {version}\nGitID: v1\n"))
    assert finding.passed is passed
    assert version in finding.detail
    assert passed or "install CRIU" in finding.cure


def test_no_criu_or_a_strange_one_fails() -> None:
    assert not check_criu("", "6.18", says("")).passed
    assert not check_criu("/criu", "6.18", says("segmentation fault", 139)).passed
    assert not check_criu("/criu", "6.18", says("hello")).passed
    assert not check_kernel("", says("")).passed
    assert check_kernel("/criu", says("Looks good.")).passed
    failed = check_kernel("/criu", says("Warn\nError: no CONFIG_CHECKPOINT_RESTORE\n", 1))
    assert (failed.passed, failed.detail) == (False, "Error: no CONFIG_CHECKPOINT_RESTORE")


def test_packets_are_held_one_way_or_the_other_or_not() -> None:
    assert "queue expression" in check_packets(lambda: Means((1,), native_queue=True, last=True)).detail
    assert "xtables" in check_packets(lambda: Means((1,), native_queue=False, last=False)).detail

    def fail() -> Means:
        raise GateError("looking for a way to hold packets", errno.EOPNOTSUPP)

    assert not check_packets(fail).passed


def test_root_and_runc() -> None:
    assert check_root(0).passed
    assert not check_root(1000).passed
    assert check_runc(says("runc version 1.3.6\ncommit: x\n")).detail == "runc version 1.3.6"
    assert not check_runc(says("runc: No such file or directory", 127)).passed


GOOD = """
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc-architect]
runtime_type = "io.containerd.runc.v2"
runtime_path = "{shim}"
pod_annotations = ["architect.loopholelabs.io/*"]
container_annotations = ["io.kubernetes.container.*"]
"""


@pytest.fixture
def shim(tmp_path: Path) -> str:
    path = tmp_path / "containerd-shim-runc-architect-v1"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param("", "", "", id="all is well"),
        pytest.param("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "", id="containerd 1.7"),
        pytest.param("runc-architect]", "runc-other]", "no runtime runc-architect", id="no such runtime"),
        pytest.param(
            "shim-runc-architect-v1", "shim-runc-v2", "is of type io.containerd.runc.v2", id="another shim"
        ),
        pytest.param(
            'runtime_path = "', 'runtime_path = "/nowhere', "cannot be run", id="the shim is not there"
        ),
        pytest.param(
            '"architect.loopholelabs.io/*"', "", "managed-containers", id="pod annotations do not arrive"
        ),
        pytest.param(
            "io.kubernetes.container.*", "io.other.*", "io.kubernetes.container.ports", id="nor the ports"
        ),
        pytest.param("[plugins", "[[plugins", "no TOML", id="broken"),
        pytest.param("plugins.", "plugs.", "no runtime", id="no plugins"),
    ],
)
def test_what_containerd_must_know(shim: str, old: str, new: str, expected: str) -> None:
    config = GOOD.format(shim=shim).replace(old, new) if old else GOOD.format(shim=shim)
    finding = check_containerd(says(config))
    assert finding.passed is (expected == "")
    assert expected in finding.detail
    assert finding.passed or finding.cure


def test_no_containerd_fails() -> None:
    assert not check_containerd(says("containerd: No such file or directory", 127)).passed
    assert not check_containerd(says("")).passed


def test_cgroups_of_either_version_will_do(tmp_path: Path) -> None:
    assert not check_cgroups(str(tmp_path)).passed
    (tmp_path / "freezer").mkdir()
    assert check_cgroups(str(tmp_path)).passed
    (tmp_path / "cgroup.controllers").touch()
    assert check_cgroups(str(tmp_path)).detail == "version 2"


MOUNTS = """\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 0:5 / /var/lib rw shared:3 - xfs /dev/sdb rw
3 1 0:6 / /var/lib/architect\\040more rw - tmpfs tmpfs rw
nonsense
4 1 0:7 / /memory rw - tmpfs tmpfs rw
5 1 0:8 / /over rw - tmpfs tmpfs rw
6 5 0:9 / /over rw - btrfs /dev/sdc rw
"""


@pytest.mark.parametrize(
    ("path", "passed", "kind"),
    [
        ("/var/lib/architect", True, "xfs"),
        ("/var/lib/architect more", False, "tmpfs"),
        ("/memory/x", False, "tmpfs"),
        ("/memoryless", True, "ext4"),
        ("/over/x", True, "btrfs"),
    ],
)
def test_images_must_not_lie_in_memory(path: str, passed: bool, kind: str) -> None:
    finding = check_disk(path, MOUNTS)
    assert (finding.passed, f"on {kind} " in finding.detail) == (passed, True)


def test_a_program_that_is_not_there_is_no_adventure() -> None:
    assert run(["/nowhere/at-all"]) == Ran(127, "/nowhere/at-all: No such file or directory")
    assert run(["sh", "-c", "echo out; echo err >&2; exit 3"]) == Ran(3, "out\nerr\n")


@pytest.mark.root
def test_doctor_shows_each_check_with_its_cure_and_ends_with_1_if_one_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("architect.cli.doctor._PATH", "/nowhere")
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 1
    lines = result.output.splitlines()
    failed = next(number for number, line in enumerate(lines) if line.startswith("FAIL  runc"))
    assert lines[failed + 1].strip().startswith("cure: ")
    assert "pass  root: running as root" in lines
    answer = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)
    assert answer["passed"] is False
    assert answer["checks"][0]["check"] == "root"


@pytest.mark.root
def test_from_a_pod_the_nodes_file_systems_are_examined() -> None:
    hide = 'mount -t tmpfs none /usr/sbin && exec "$0" -m architect.cli doctor --json'
    argv = ["unshare", "--mount", "sh", "-c", hide, sys.executable]
    seen = subprocess.run(argv, cwd=Path(__file__).parents[2], capture_output=True, check=False, timeout=60)
    checks = {check["check"]: check for check in json.loads(seen.stdout)["checks"]}
    there = run(["runc", "--version"])
    assert checks["runc"]["detail"] == there.output.splitlines()[0]
    assert checks["runc"]["passed"] is (there.status == 0)
