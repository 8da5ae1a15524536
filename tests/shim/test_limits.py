from __future__ import annotations

import json

import pytest

from shim.limits import merged, shares, with_shares


@pytest.mark.parametrize(
    ("kept", "least", "applied"),
    [
        pytest.param(
            {"cpu": {"shares": 2, "quota": 1}}, 256, {"cpu": {"shares": 256, "quota": 1}}, id="lower: no"
        ),
        pytest.param({"cpu": {"shares": 512}}, 256, {"cpu": {"shares": 512}}, id="higher: yes"),
        pytest.param({"memory": {"limit": 1}}, 256, {"memory": {"limit": 1}}, id="nothing of CPU"),
        pytest.param({"cpu": {"shares": 0}}, 256, {"cpu": {"shares": 0}}, id="0 is: as it was"),
        pytest.param({"cpu": {"shares": 2}}, 0, {"cpu": {"shares": 2}}, id="nobody knows what it was"),
    ],
)
def test_a_kept_update_never_lowers_the_weight(kept: object, least: int, applied: object) -> None:
    assert json.loads(with_shares(json.dumps(kept).encode(), least)) == applied


def test_updates_that_follow_each_other_are_kept_as_one() -> None:
    first = b'{"cpu": {"shares": 2, "quota": 5}, "memory": {"limit": 1}}'
    both = merged(merged(None, first), b'{"cpu": {"shares": 3}, "pids": {"limit": 7}}')
    assert json.loads(both) == {
        "cpu": {"shares": 3, "quota": 5},
        "memory": {"limit": 1},
        "pids": {"limit": 7},
    }


@pytest.mark.parametrize(
    "odd", [{}, {"linux": 1}, {"linux": {"resources": {"cpu": {"shares": "2"}}}}, {"linux": None}]
)
def test_a_specification_without_shares_has_none(odd: dict[str, object]) -> None:
    assert shares(odd) == 0
