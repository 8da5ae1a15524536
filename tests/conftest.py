"""What holds for every test: nothing is left behind, and what the machine lacks is said.

A test that leaves a descriptor or a child process fails for it. Tests with fixtures that live longer than one
test (module, session) are let off, since theirs are meant to stay.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Generator

import hypothesis
import pytest

# No deadline: no test may depend on how fast a machine is. No database and no chance: a run depends on the
# code alone. `pytest --hypothesis-profile=hunt` is for people who look for what nobody has found yet.
hypothesis.settings.register_profile(
    "project", deadline=None, database=None, derandomize=True, print_blob=True
)
hypothesis.settings.register_profile(
    "hunt", hypothesis.settings.get_profile("project"), derandomize=False, max_examples=1000
)
hypothesis.settings.load_profile("project")

_BEFORE = pytest.StashKey[tuple[dict[int, str], set[int]]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lacking = {
        "root": "needs root" if os.geteuid() else "",
        "criu": "" if shutil.which("criu") and shutil.which("runc") else "needs criu and runc",
        "containerd": "" if shutil.which("containerd") else "needs containerd",
    }
    for item in items:
        for marker, reason in lacking.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    item.stash[_BEFORE] = _descriptors(), _children()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    result = yield
    before = item.stash.get(_BEFORE, None)
    if before is None or _has_long_lived_fixtures(item):
        return result
    if _descriptors().keys() - before[0].keys():
        gc.collect()  # what only waits for the collector is no leak
    descriptors = {fd: to for fd, to in _descriptors().items() if fd not in before[0]}
    children = _children() - before[1]
    if descriptors or children:
        pytest.fail(
            f"left behind: descriptors {descriptors}, child processes {sorted(children)}", pytrace=False
        )
    return result


def _has_long_lived_fixtures(item: pytest.Item) -> bool:
    info = getattr(item, "_fixtureinfo", None)
    definitions = [d for found in info.name2fixturedefs.values() for d in found] if info else []
    return any(d.scope != "function" and d.baseid.startswith("tests") for d in definitions)


def _descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return found


def _children() -> set[int]:
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children", encoding="ascii") as file:
                found.update(map(int, file.read().split()))
        except FileNotFoundError:
            continue  # a thread that has just ended; its children are another's now
    return found
