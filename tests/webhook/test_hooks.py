"""What becomes of preStop hooks: those by exec are marked, once, and a request is warned of."""

from __future__ import annotations

from typing import Any

import pytest

from architect.hooks import PRE_STOP
from tests.webhook.pods import Pod, container, patched, pod
from webhook.mutation import mutate


def hooked(hook: Any, **more: Any) -> Pod:
    """A pod with this preStop hook, as it leaves the webhook."""
    given = pod(container(lifecycle={"preStop": hook, **more}))
    return patched(given, mutate(given).patch)  # type: ignore[no-any-return]


def lifecycle(of: Pod) -> Any:
    return of["spec"]["containers"][0]["lifecycle"]


def test_an_exec_hook_is_marked_once() -> None:
    given = hooked({"exec": {"command": ["sh", "-c", "true"]}})
    assert lifecycle(given) == {"preStop": {"exec": {"command": [PRE_STOP, "sh", "-c", "true"]}}}
    assert mutate(given).patch == ()


@pytest.mark.parametrize(
    "hook",
    [
        {},
        {"exec": {}},
        {"exec": {"command": []}},
        {"exec": {"command": "true"}},
        {"sleep": {"seconds": 5}},
        7,
    ],
)
def test_what_is_no_command_stays_without_a_word(hook: Any) -> None:
    given = pod(container(lifecycle={"preStop": hook}))
    found = mutate(given)
    assert lifecycle(patched(given, found.patch)) == {"preStop": hook}
    assert found.warnings == ()


def test_the_hook_after_a_start_is_not_one_before_an_end() -> None:
    after = {"exec": {"command": ["true"]}}
    assert lifecycle(hooked({}, postStart=after))["postStart"] == after


def test_whoever_is_told_to_end_by_a_request_is_warned_that_it_is_made_when_it_moves() -> None:
    given = pod(container(lifecycle={"preStop": {"httpGet": {"port": 8080, "path": "/quit"}}}))
    (warning,) = mutate(given).warnings
    assert (
        'the preStop hook of container "app" is a request, which is made even when the pod moves' in warning
    )


def test_hooks_of_containers_that_do_not_sleep_are_left_alone() -> None:
    beside = container("worker", None, lifecycle={"preStop": {"exec": {"command": ["true"]}}})
    given = pod(container(), beside)
    assert patched(given, mutate(given).patch)["spec"]["containers"][1] == beside
