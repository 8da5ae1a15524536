from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.arguments import Settings, address, parse

ROOT = Path(__file__).parents[2]


def test_without_arguments_there_are_defaults_that_serve() -> None:
    settings = parse([])
    assert settings.run_dir == "/run/architect"
    assert settings.metrics_address == ("127.0.0.1", 9644)
    assert settings.restore_limit >= 2


def test_arguments_are_read() -> None:
    argv = ["--run-dir", "/x", "--metrics-address", "[::1]:0", "--kubernetes=off", "--restore-limit", "7"]
    assert parse([*argv, "--log-level", "debug"]) == Settings("/x", ("::1", 0), 7, "debug")


def test_what_leaves_the_node_is_limited_where_that_is_wanted() -> None:
    argv = ["--kubernetes=on", "--node-name=n", "--control-plane=tcp://10.0.0.1:1337"]
    for more, limit in ([], 0), (["--transfer-limit=125000000"], 125_000_000):
        settings = parse([*argv, "--transfer-address=[::]:9646", *more])
        assert settings.migration is not None
        assert settings.migration.bytes_per_second == limit


@pytest.mark.parametrize(
    "argv",
    [
        ["--kubernetes=on"],
        ["--transfer-limit", "-1"],
        ["--restore-limit", "0"],
        ["--restore-limit", "many"],
        ["--metrics-address", "9644"],
        ["--metrics-address", "::1:9644"],
        ["--metrics-address", "host:70000"],
        ["--metrics-address", ":1"],
        ["extra"],
    ],
)
def test_arguments_without_sense_end_with_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(argv)
    assert ended.value.code == 2
    assert "usage: architectd" in capsys.readouterr().err


def test_an_address_is_a_host_and_a_port() -> None:
    assert address("10.0.0.1:80") == ("10.0.0.1", 80)


def test_the_program_serves_logs_json_and_ends_at_sigterm(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "daemon", "--run-dir", str(tmp_path), "--metrics-address", "127.0.0.1:0"]
    with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stderr is not None
            first = json.loads(daemon.stderr.readline())
            assert (first["message"], first["level"], first["run_dir"]) == (
                "the daemon serves",
                "INFO",
                str(tmp_path),
            )
            assert os.path.exists(tmp_path / "architectd.sock")
            second = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
            assert second.returncode == 1
            assert "another architectd" in json.loads(second.stderr.splitlines()[-1])["reason"]
            daemon.send_signal(signal.SIGTERM)
            rest = daemon.stderr.read().splitlines()
            assert daemon.wait(timeout=60) == 0
        finally:
            daemon.kill()
    assert json.loads(rest[-1])["message"].startswith("the daemon has ended")
