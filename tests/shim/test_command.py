"""The shim's command line, and what it may import and cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from architect.ttrpc import containerd
from architect.ttrpc.codec import decode
from shim.address import Usage, socket_path
from shim.command import parse
from shim.offline import remember_deleted
from shim.post import read

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "shim" / "containerd-shim-runc-architect-v1"
FOREIGN = {
    "aiohttp",
    "click",
    "google",
    "grpc",
    "kubernetes_asyncio",
    "prometheus_client",
    "pyroute2",
    "rich",
    "yaml",
}

SLOW = {
    "asyncio",
    "subprocess",
    "dataclasses",
    "logging",
    "pathlib",
    "ctypes",
    "typing",
    "re",
    "json",
    "socket",
    "enum",
}
"""What takes longer to import than containerd should wait for a shim's command."""


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(["-namespace", "k8s.io", "-id", "a", "start"], id="as containerd writes them"),
        pytest.param(["--namespace=k8s.io", "--id=a", "start"], id="with equals signs"),
    ],
)
def test_flags_are_read_in_both_of_gos_forms(argv: list[str]) -> None:
    assert parse(argv) == ({"namespace": "k8s.io", "id": "a"}, "start")


@pytest.mark.parametrize("argv", [["-unknown", "x"], ["-id"], ["start", "delete"]])
def test_a_command_line_that_is_none_is_refused(argv: list[str]) -> None:
    with pytest.raises(Usage):
        parse(argv)


def test_sockets_fit_whatever_the_id() -> None:
    assert len(socket_path("k8s.io", "f" * 64)) <= 107
    assert len(socket_path("k8s.io", "f" * 128)) <= 107
    assert socket_path("k8s.io", "f" * 128) != socket_path("k8s.io", "e" * 128)


@pytest.mark.parametrize(
    ("flags", "config"),
    [
        pytest.param({"id": "../x"}, "{}", id="an id that is a path"),
        pytest.param({"namespace": ""}, "{}", id="no namespace"),
    ],
)
def test_a_hostile_command_line_is_refused_before_anything_is_made(
    tmp_path: Path, flags: dict[str, str], config: str
) -> None:
    (tmp_path / "config.json").write_text(config)
    given = {"namespace": "k8s.io", "id": "a", **flags}
    words = [word for name, value in given.items() for word in (f"-{name}", value)]
    argv = [sys.executable, "-IS", str(PROGRAM), *words, "start"]
    ended = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "is no id" in ended.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "config.json"]


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(
            '{"annotations": {"io.kubernetes.cri.sandbox-id": "../../etc/x"}}', id="an id that is a path"
        ),
        pytest.param('{"annotations": {"io.kubernetes.cri.sandbox-id": ["x"]}}', id="an id that is no text"),
        pytest.param('{"annotations": [1]}', id="annotations that are none"),
        pytest.param("[" * 100_000, id="nested without end"),
        pytest.param("no JSON", id="no JSON"),
    ],
)
def test_a_hostile_bundle_is_refused_with_a_sentence(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(Usage, match=r"is no id|is no OCI spec"):
        read("\0".join(("k8s.io", "a", str(tmp_path), "", "")).encode())


def test_containers_of_one_pod_share_a_post(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}')
    first, second = (read("\0".join(("k8s.io", name, str(tmp_path), "", "")).encode()) for name in ("a", "b"))
    assert first == second
    assert first.group == "pod"


@pytest.mark.parametrize("container_id", ["../x", "", "a b"])
def test_a_hostile_id_is_refused_by_delete_in_a_sentence(tmp_path: Path, container_id: str) -> None:
    argv = [sys.executable, "-IS", str(PROGRAM), "-namespace", "k8s.io", f"-id={container_id}", "delete"]
    ended = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "is no container id" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_delete_says_what_the_shim_has_left_and_imports_next_to_nothing(tmp_path: Path) -> None:
    remember_deleted(str(tmp_path))
    python = [sys.executable, "-IS", "-X", "importtime"]
    argv = [*python, str(PROGRAM), "-namespace", "k8s.io", "-id", "a", "delete"]
    ended = subprocess.run(argv, cwd=tmp_path, capture_output=True, timeout=30, check=True)
    answer = decode(containerd.DeleteResponse, ended.stdout)
    assert (answer.pid, answer.exit_status) == (0, 137)
    assert b" shim.address" in ended.stderr
    assert not [name for name in SLOW if f" {name}\n".encode() in ended.stderr]


def _modules(statement: str) -> set[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {statement}; print(' '.join(sys.modules))"
    argv = [sys.executable, "-IS", "-c", code]
    return set(subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout.split())


def test_starting_a_shim_imports_next_to_nothing() -> None:
    loaded = _modules("import shim.command")
    assert not loaded & SLOW


def test_the_serving_shim_imports_the_standard_library_only_and_no_tls() -> None:
    loaded = {name.partition(".")[0] for name in _modules("import shim.zygote")}
    own = {"architect", "shim", "__main__"}
    assert not loaded & FOREIGN
    assert loaded - own <= set(sys.stdlib_module_names) | {"_distutils_hack", "sitecustomize"}
    assert "_ssl" not in loaded
