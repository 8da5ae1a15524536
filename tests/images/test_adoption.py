"""An image becomes another container's: linked, changed where it has to be, proved whole all the same."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from architect import images
from architect.images import Facts, ImageDir

FACTS = Facts("old", "shop/cart", 1, "criu", extra={"closed": False}, listening=("8080/TCP",))


@pytest.fixture
def source(tmp_path: Path) -> ImageDir:
    image = images.begin(str(tmp_path / "pods"), "uid-1", "app", 1)
    Path(image.engine_path, "pages-1.img").write_bytes(os.urandom(100_000))
    Path(image.engine_path, "files.img").write_bytes(b"old address")
    images.seal(image, FACTS)
    return image


def target(source: ImageDir, uid: str = "uid-2") -> ImageDir:
    return images.begin(source.root, uid, "app", 7)


def mine(generation: int = 7) -> Facts:
    return dataclasses.replace(FACTS, container_id="new", generation=generation, extra={"closed": True})


def test_it_is_whole_and_tells_what_it_is_now(source: ImageDir) -> None:
    image = target(source)
    images.adopt(source, image, mine(), {"files.img": b"new"})
    manifest, before = images.verify(image), images.verify(source)
    assert (manifest.pod_uid, manifest.facts) == ("uid-2", mine())
    assert (manifest.created_ns, manifest.kernel) == (before.created_ns, before.kernel)
    assert Path(image.engine_path, "files.img").read_bytes() == b"new"
    assert os.stat(f"{image.engine_path}/pages-1.img").st_nlink == 2, "memory is not copied"
    images.remove(source)
    images.verify(image)


def test_what_was_damaged_before_is_found_in_it(source: ImageDir) -> None:
    with Path(source.engine_path, "pages-1.img").open("r+b") as file:
        file.write(b"something else")
    image = target(source)
    images.adopt(source, image, mine(), {})
    with pytest.raises(images.Corrupt, match=r"pages-1\.img has changed"):
        images.verify(image)


def test_half_an_image_is_nobodys(source: ImageDir) -> None:
    os.unlink(source.manifest_path)
    with pytest.raises(images.Corrupt, match="never completed"):
        images.adopt(source, target(source), mine(), {})
    with pytest.raises(images.ImageError, match="generation 8"):
        images.adopt(_sealed_again(source), target(source, "uid-3"), mine(8), {})


def _sealed_again(source: ImageDir) -> ImageDir:
    images.seal(source, FACTS)
    return source


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"arch": "s390x"}, "dumped on s390x"),
        ({"kernel": "4.19.0"}, "dumped under kernel 4.19.0"),
        ({"cpu": "0" * 64}, "a processor with other features"),
    ],
)
def test_another_machine_is_told_from_this_one(
    source: ImageDir, change: dict[str, str], sentence: str
) -> None:
    manifest = images.read_manifest(source)
    assert images.foreign(manifest) == ""
    assert sentence in images.foreign(dataclasses.replace(manifest, **change))  # type: ignore[arg-type]
