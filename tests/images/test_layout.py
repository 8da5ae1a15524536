"""The life of image directories: begun, put aside, removed, swept; never outside their place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from architect import images
from architect.images import Facts, ImageDir, ImageError


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "architect" / "pods")


def sealed(root: str, generation: int, *, uid: str = "uid-1", container: str = "app") -> ImageDir:
    image = images.begin(root, uid, container, generation)
    Path(image.engine_path, "pages-1.img").write_bytes(b"x" * 10_000)
    images.seal(image, Facts("c1", "shop/cart", generation, "criu"))
    return image


def everything(root: str) -> list[str]:
    return sorted(
        os.path.relpath(f"{d}/{n}", root) for d, dirs, names in os.walk(root) for n in (*dirs, *names)
    )


def test_a_new_image_is_an_empty_private_directory(root: str) -> None:
    image = images.begin(root, "uid-1", "app", 1)
    assert everything(root) == ["uid-1", "uid-1/app", "uid-1/app/1", "uid-1/app/1/criu"]
    for path in (root, f"{root}/uid-1", image.home, image.path, image.engine_path):
        assert os.stat(path).st_mode & 0o7777 == 0o700


def test_an_image_is_found_again_by_its_path(root: str) -> None:
    image = images.begin(root, "uid-1", "app", 12)
    assert ImageDir.at(image.path) == image


@pytest.mark.parametrize(
    "path", ["", "1", "/a/b", "/r/uid/app/x", "/r/uid/../1", "/r/uid/app/01", "/r//app/1", "/r/u/a/-1"]
)
def test_what_is_no_images_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        ImageDir.at(path)


@pytest.mark.parametrize("part", ["", ".", "..", "a/b", "/etc", "a\0b", "a\n", "-a", "x" * 300, "\u00e9"])
def test_a_name_that_is_no_path_component_makes_no_directory(root: str, part: str) -> None:
    with pytest.raises(ValueError, match="path"):
        images.begin(root, part, "app", 1)
    with pytest.raises(ValueError, match="path"):
        images.begin(root, "uid-1", part, 1)
    with pytest.raises(ValueError, match="range"):
        images.begin(root, "uid-1", "app", -1)
    assert not os.path.exists(root)


def test_a_half_written_image_of_the_same_generation_gives_way(root: str) -> None:
    Path(images.begin(root, "uid-1", "app", 1).engine_path, "pages-1.img").write_bytes(b"half")
    image = images.begin(root, "uid-1", "app", 1)
    assert os.listdir(image.engine_path) == []


def test_a_complete_image_is_never_overwritten(root: str) -> None:
    image = sealed(root, 1)
    with pytest.raises(ImageError, match="not overwritten"):
        images.begin(root, "uid-1", "app", 1)
    images.verify(image)


def test_the_next_generation_is_above_all_that_lie_there(root: str) -> None:
    assert images.next_generation(root, "uid-1", "app") == 1
    sealed(root, 1)
    images.quarantine(sealed(root, 7), "broken")
    assert images.next_generation(root, "uid-1", "app") == 8


def test_a_link_in_the_way_is_not_followed(root: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "1").mkdir(parents=True)
    (elsewhere / "1" / "precious").write_text("x")
    os.makedirs(f"{root}/uid-1")
    os.symlink(elsewhere, f"{root}/uid-1/app")
    with pytest.raises(NotADirectoryError):
        images.begin(root, "uid-1", "app", 1)
    with pytest.raises(OSError, match=r"app"):
        images.remove(ImageDir(root, "uid-1", "app", 1))
    for path, changed_ns in images.unserved(root, ()).items():
        with pytest.raises(OSError, match=r"app"):
            images.sweep(path, changed_ns)
    assert (elsewhere / "1" / "precious").read_text() == "x"


def test_a_link_within_an_image_is_removed_and_its_target_stays(root: str, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    image = images.begin(root, "uid-1", "app", 1)
    os.symlink(tmp_path / "precious", f"{image.engine_path}/link")
    images.remove(image)
    assert (tmp_path / "precious" / "file").exists()
    assert not os.path.exists(image.path)


def test_removing_needs_no_image(root: str) -> None:
    image = sealed(root, 1)
    images.remove(image)
    images.remove(image)
    images.remove(ImageDir(root, "other", "app", 1))
    assert everything(root) == ["uid-1", "uid-1/app"]


def test_an_image_put_aside_says_why_and_can_no_longer_be_restored(root: str) -> None:
    image = sealed(root, 3)
    aside = images.quarantine(image, "CRIU said no \ud800")
    assert Path(aside, "reason.txt").read_text().startswith("CRIU said no")
    assert Path(aside, "criu", "pages-1.img").stat().st_size == 10_000
    with pytest.raises(images.Corrupt):
        images.verify(image)


def test_only_the_newest_two_are_kept_aside(root: str) -> None:
    for generation in (2, 9, 10, 11):
        images.quarantine(sealed(root, generation), "broken")
    assert sorted(os.listdir(f"{root}/uid-1/app")) == ["10.quarantined", "11.quarantined"]


def test_disk_bytes_are_what_the_disk_gives_up(root: str) -> None:
    image = sealed(root, 1)
    assert images.disk_bytes(image) >= 10_000
    images.remove(image)
    assert images.disk_bytes(image) == 0


def test_a_synced_image_is_as_it_was(root: str) -> None:
    image = sealed(root, 1)
    images.sync(image)
    images.verify(image)


def test_syncing_what_is_gone_is_an_error(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        images.sync(ImageDir(root, "uid-1", "app", 1))
