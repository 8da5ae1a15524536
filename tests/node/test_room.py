"""An exec does not wake a container that the node's memory has no room for."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from hack.control import hibernate, status
from tests.node.asking import explain, get
from tests.node.conftest import Run


@contextlib.contextmanager
def full(at: Path) -> Iterator[None]:
    """Meanwhile the kernel seems to say that the node has 90 MiB left."""
    said = at / "meminfo"
    said.write_text("MemTotal: 1000000 kB\nMemAvailable: 92160 kB\n")
    subprocess.run(["mount", "--bind", said, "/proc/meminfo"], check=True, timeout=10)
    try:
        yield
    finally:
        subprocess.run(["umount", "/proc/meminfo"], check=True, timeout=10)


@pytest.mark.usefixtures("daemon")
def test_an_exec_into_a_sleeper_of_a_full_node_is_refused_in_a_sentence_and_its_memory_kept(
    run: Run, tmp_path: Path
) -> None:
    app = run("web", env={"HEAP_MB": "30"})
    assert get(app) == "1"
    hibernate(app)
    with full(tmp_path):
        with pytest.raises(grpc.RpcError) as refused:
            app.exec("/usr/bin/python3", "-c", "pass", seconds=60)
        assert "MiB of memory and the node has 0 MiB to spare" in (refused.value.details() or "")
        assert status(app).phase == "SCALED_DOWN"
        assert "room" in {failure["operation"] for failure in explain(app)["failures"]}
    assert app.exec("/usr/bin/python3", "-c", "print('hello')").stdout == b"hello\n"
    assert get(app) == "2"
