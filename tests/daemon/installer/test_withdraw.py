"""Before a release is deleted: every node is told, and waited for."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.installer import withdraw
from daemon.installer.errors import Refused


def daemon_set(generation: int, observed: int, wanted: int, updated: int, ready: int) -> dict[str, Any]:
    return {
        "metadata": {"generation": generation},
        "status": {
            "observedGeneration": observed,
            "desiredNumberScheduled": wanted,
            "updatedNumberScheduled": updated,
            "numberReady": ready,
        },
    }


class Api:
    """An API server that shows the DaemonSet in one state after the other."""

    def __init__(self, *states: dict[str, Any]) -> None:
        self.states = list(states)
        self.patches: list[dict[str, Any]] = []

    def call(self, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        if body is not None:
            self.patches.append(body)
            return {}
        if not self.patches:
            installer = {"name": "installer", "image": "node:1", "imagePullPolicy": "Always"}
            return {"spec": {"template": {"spec": {"initContainers": [installer]}}}}
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


def test_it_waits_until_the_change_was_seen_and_every_node_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withdraw, "_LOOK_SECONDS", 0)
    states = [
        daemon_set(2, 1, 3, 3, 3),
        daemon_set(2, 2, 3, 1, 2),
        daemon_set(2, 2, 3, 3, 2),
        daemon_set(2, 2, 3, 3, 3),
    ]
    api = Api(*states)
    withdraw.withdraw(api, 60)
    assert len(api.patches) == 1
    (farewell, _) = api.patches[0]["spec"]["template"]["spec"]["initContainers"]
    assert (farewell["name"], farewell["image"]) == ("farewell", "node:1")
    assert len(api.states) == 1, "every state was looked at"
    assert capsys.readouterr().out.startswith("3 nodes")


def test_nodes_that_do_not_answer_in_time_are_counted() -> None:
    with pytest.raises(Refused, match="2 of 3 nodes"):
        withdraw.withdraw(Api(daemon_set(2, 2, 3, 3, 1)), 0)


def test_a_cluster_without_such_nodes_is_done_at_once() -> None:
    withdraw.withdraw(Api(daemon_set(2, 2, 0, 0, 0)), 60)
