"""What is left of containers that are gone is removed; what somebody may still want stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from architect import images
from architect.images import Facts, ImageDir


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


def test_what_is_unserved_goes_with_all_that_belongs_to_it(root: str) -> None:
    images.quarantine(left(root, "gone", generation=2), "broken")
    left(root, "gone", "db")
    live = left(root, "uid-1")
    found = images.unserved(root, {"uid-1"})
    assert sorted(os.path.relpath(path, root) for path in found) == ["gone/app", "gone/db"]
    assert all(images.sweep(path, changed_ns) for path, changed_ns in found.items())
    assert os.listdir(root) == ["uid-1"]
    images.verify(live)


def test_what_has_changed_or_is_claimed_stays(root: str) -> None:
    claimed, late = left(root, "claimed"), left(root, "late")
    found = images.unserved(root, ())
    holder = images.claim(claimed.home)
    assert holder is not None
    assert images.claim(claimed.home) is None
    os.utime(f"{late.home}/state.json", (2_000_000_000, 2_000_000_000))
    assert not any(images.sweep(path, changed_ns) for path, changed_ns in found.items())
    os.close(holder)
    assert [path for path, changed_ns in found.items() if images.sweep(path, changed_ns)] == [claimed.home]
    images.verify(late)


def test_where_nothing_is_nothing_is_unserved(root: str) -> None:
    assert images.unserved(root, ()) == {}


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
