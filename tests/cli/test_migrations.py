"""What people are told of records of migrations."""

from __future__ import annotations

from typing import Any

import pytest

from architect.cli.migrations import moved
from architect.cli.tables import show_migrations

RECORD: dict[str, Any] = {
    "metadata": {"namespace": "default", "name": "web-1-0123"},
    "spec": {
        "pod": {"name": "web-1", "uid": "u-1"},
        "node": "node-1",
        "leftTime": "2026-11-21T17:00:00.000000Z",
        "containers": ["app", "beside"],
    },
    "status": {
        "target": {"name": "web-2", "uid": "u-2", "node": "node-2"},
        "containers": [
            {
                "name": "app",
                "state": "Arrived",
                "asleep": True,
                "since": "2026-11-21T17:00:02.500000Z",
                "sizeBytes": 1 << 20,
                "receivedBytes": 1 << 20,
                "restoreMicroseconds": 70_000,
            },
            {"name": "beside", "state": "Kept", "since": "2026-11-21T17:01:00Z", "reason": "it is too large"},
        ],
    },
}


def test_each_container_of_a_record_is_told_of() -> None:
    app, beside = moved(RECORD)
    assert (app["pod"], app["from"], app["to"], app["replacement"]) == ("web-1", "node-1", "node-2", "web-2")
    assert (app["state"], app["asleep"], app["seconds"], app["bytes"]) == ("Arrived", True, 2.5, 1 << 20)
    assert (beside["state"], beside["seconds"], beside["reason"]) == ("Kept", 60.0, "it is too large")


def test_a_record_that_has_just_begun_says_what_there_is() -> None:
    app, _ = moved({**RECORD, "status": {}})
    assert (app["state"], app["to"], app["seconds"], app["bytes"]) == ("Expected", "", 0.0, 0)


def test_people_see_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    show_migrations(moved(RECORD) + moved({**RECORD, "status": {}}))
    shown = capsys.readouterr().out
    for word in ("web-1", "node-2", "Arrived, asleep", "MiB", "70 ms", "2.5 s", "it is too large"):
        assert word in shown
    show_migrations([])
    assert capsys.readouterr().out == "Nothing here has moved.\n"
