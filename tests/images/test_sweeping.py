"""What is left of containers that are gone is removed; what somebody may still want stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from architect import images
from architect.images import Facts, ImageDir

DAY = 86_400.0


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "pods")


def left(root: str, uid: str, container: str = "app", generation: int = 1) -> ImageDir:
    """A sleeper's image and state, as a shim that was killed leaves them."""
    image = images.begin(root, uid, container, generation)
    Path(image.engine_path, "pages-1.img").write_bytes(b"x" * 10_000)
    images.seal(image, Facts("c1", "shop/cart", generation, "criu"))
    Path(image.home, "state.json").write_text("{}")
    return image


def age(root: str, seconds: float) -> None:
    """Makes all there is look as old as that."""
    then = time.time() - seconds
    for folder, _, names in os.walk(root):
        for name in (*names, "."):
            os.utime(f"{folder}/{name}", (then, then))


def test_what_nobody_has_touched_for_long_goes_with_all_that_belongs_to_it(root: str) -> None:
    images.quarantine(left(root, "gone", generation=2), "broken")
    left(root, "gone", "db")
    live = left(root, "uid-1")
    age(root, 2 * DAY)
    removed = images.sweep(root, {"uid-1"}, time.time() - DAY)
    assert sorted(os.path.relpath(path, root) for path in removed) == ["gone/app", "gone/db"]
    assert os.listdir(root) == ["uid-1"]
    images.verify(live)


def test_what_changed_lately_or_is_claimed_stays(root: str) -> None:
    claimed, late = left(root, "claimed"), left(root, "late")
    age(root, 2 * DAY)
    holder = images.claim(claimed.home)
    assert holder is not None
    assert images.claim(claimed.home) is None
    Path(late.home, "state.json").write_text("{} ")
    assert images.sweep(root, (), time.time() - DAY) == []
    os.close(holder)
    assert images.sweep(root, (), time.time() - DAY) == [claimed.home]
    images.verify(late)


def test_a_sweep_of_nothing_is_nothing(root: str) -> None:
    assert images.sweep(root, (), time.time()) == []


def test_a_tidy_directory_has_what_is_owned_and_what_was_put_aside(root: str) -> None:
    owned, unfinished = left(root, "uid-1", generation=2), images.begin(root, "uid-1", "app", 3)
    left(root, "uid-1", generation=1)
    images.quarantine(left(root, "uid-1", generation=4), "broken")
    removed = images.tidy(root, "uid-1", "app", {2})
    assert sorted(removed) == [f"{owned.home}/1", unfinished.path]
    assert sorted(os.listdir(owned.home)) == ["2", "4.quarantined", "state.json"]
    images.verify(owned)
    assert images.tidy(root, "uid-1", "app", {2}) == []
    assert images.tidy(root, "none", "app", ()) == []
