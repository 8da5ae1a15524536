"""A sealed image is proved whole, and no change to it goes unnoticed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect import images
from architect.images import Corrupt, Facts, ImageDir, ImageError
from architect.images.manifest import PIECE, VERSION, Manifest, decode, encode
from architect.untrusted import Unreadable

LARGE = 2 * PIECE + 12_345
FACTS = Facts(
    container_id="c1",
    pod="shop/cart",
    generation=1,
    engine="criu",
    extra={"streams": ["pipe:[1]"], "external": {"/etc/hosts": "/var/lib/hosts"}},
    versions={"criu": "4.2.1", "runc": "1.3.6"},
    conditions={"command": "aa", "image": "docker.io/local/web:1"},
    listening=("53/UDP", "8080/TCP"),
)


def filled(root: Path) -> ImageDir:
    image = images.begin(str(root), "uid-1", "app", 1)
    engine = Path(image.engine_path)
    block = bytes(range(256)) * 4096
    (engine / "pages-1.img").write_bytes((block * (LARGE // len(block) + 1))[:LARGE])
    (engine / "core-1.img").write_bytes(b"core")
    (engine / "empty.img").write_bytes(b"")
    return image


@pytest.fixture
def image(tmp_path: Path) -> ImageDir:
    image = filled(tmp_path / "images")
    images.seal(image, FACTS)
    return image


def test_what_was_sealed_is_verified_and_tells_what_it_is(image: ImageDir) -> None:
    manifest = images.verify(image)
    assert manifest == images.read_manifest(image)
    assert manifest.facts == FACTS
    assert (manifest.pod_uid, manifest.container, manifest.kernel) == ("uid-1", "app", os.uname().release)
    assert manifest.bytes == LARGE + 4
    assert set(manifest.files) == {"criu/pages-1.img", "criu/core-1.img", "criu/empty.img"}


def test_a_piece_can_be_checked_by_hand(image: ImageDir) -> None:
    data = Path(image.engine_path, "pages-1.img").read_bytes()
    pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
    digests = tuple(hashlib.sha256(piece).hexdigest() for piece in pieces)
    assert images.read_manifest(image).files["criu/pages-1.img"].sha256 == digests


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_any_number_of_threads_finds_the_same(image: ImageDir, threads: int) -> None:
    os.unlink(image.manifest_path)
    sealed = images.seal(image, FACTS, threads=threads)
    assert images.verify(image, threads=1).files == sealed.files == images.verify(image, threads=3).files


@pytest.mark.parametrize("at", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE - 1, 2 * PIECE, LARGE - 1])
def test_one_changed_bit_is_found_and_its_region_named(image: ImageDir, at: int) -> None:
    with open(f"{image.engine_path}/pages-1.img", "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(Corrupt) as corrupt:
        images.verify(image)
    first = at // PIECE * PIECE
    assert f"pages-1.img has changed somewhere in bytes {first} to" in corrupt.value.reason
    assert corrupt.value.path == image.path


def linked(path: Path) -> None:
    """Moves `path` out of the image and puts a link to it in its place."""
    away = path.parents[4] / "away"
    path.rename(away)
    path.symlink_to(away)


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        path.unlink()
        make(path)

    return act


DAMAGE = [
    pytest.param("criu/core-1.img", Path.unlink, "core-1.img is missing", id="a file is missing"),
    pytest.param("criu/extra.img", Path.touch, "extra.img does not belong", id="one too many"),
    pytest.param("other", Path.touch, "other does not belong", id="one beside"),
    pytest.param(
        "criu/pages-1.img", lambda p: os.truncate(p, LARGE - 1), f"{LARGE} were written", id="truncated"
    ),
    pytest.param("criu/empty.img", lambda p: p.write_bytes(b"x"), "has 1 bytes; 0 were", id="grown"),
    pytest.param("manifest.json", Path.unlink, "has no manifest", id="no manifest"),
    pytest.param("manifest.json", lambda p: os.truncate(p, 100), "is no JSON", id="half a manifest"),
    pytest.param("criu/core-1.img", linked, "core-1.img is no regular file", id="a file is a link"),
    pytest.param("criu/core-1.img", replaced(os.mkfifo), "is no regular file", id="a file is a FIFO"),
    pytest.param("criu/core-1.img", replaced(Path.mkdir), "is no regular file", id="a file is a directory"),
    pytest.param("criu", linked, "cannot be read", id="the directory is a link"),
    pytest.param("manifest.json", linked, "cannot be read", id="the manifest is a link"),
]


@pytest.mark.parametrize(("name", "damage", "sentence"), DAMAGE)
def test_damage_is_found_and_said(
    image: ImageDir, name: str, damage: Callable[[Path], object], sentence: str
) -> None:
    damage(Path(image.path, name))
    with pytest.raises(Corrupt) as corrupt:
        images.verify(image)
    assert sentence in corrupt.value.reason


def test_an_image_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(Corrupt):
        images.verify(ImageDir(str(tmp_path), "uid-1", "app", 9))


def test_an_image_moved_to_another_place_is_not_taken_for_that_ones(image: ImageDir) -> None:
    os.rename(image.path, f"{image.home}/2")
    with pytest.raises(Corrupt, match="is that of uid-1/app/1"):
        images.verify(ImageDir(image.root, "uid-1", "app", 2))


@given(at=st.integers(0, 2000), bit=st.integers(0, 7))
def test_no_bit_of_the_manifest_can_change_unnoticed(at: int, bit: int) -> None:
    data = bytearray(encode(MANIFEST))
    data[at % len(data)] ^= 1 << bit
    with pytest.raises(Unreadable):
        decode(bytes(data))


MANIFEST = Manifest("uid-1", "app", 1, "6.18", "x86_64", "cc", FACTS, {"criu/a": images.File(1, ("0" * 64,))})


def hostile(**changes: object) -> bytes:
    """A manifest whose own digest is right, as only its maker could write it."""
    body = json.loads(encode(MANIFEST))["manifest"]
    text = json.dumps({**body, **changes}, sort_keys=True, separators=(",", ":"))
    return f'{{"manifest":{text},"sha256":"{hashlib.sha256(text.encode()).hexdigest()}"}}\n'.encode()


DIGEST = "0" * 64


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        pytest.param(b"", "is no JSON", id="empty"),
        pytest.param(b"{}", "has no 'manifest'", id="an empty object"),
        pytest.param(hostile(version=VERSION + 1), f"version: is {VERSION + 1}", id="a newer version"),
        pytest.param(hostile(files=[]), "is a list where", id="files in a list"),
        pytest.param(
            hostile(files={"criu/../x": {"size": 0, "sha256": []}}), "no file that", id="a path out"
        ),
        pytest.param(
            hostile(files={"/etc/passwd": {"size": 0, "sha256": []}}), "no file that", id="absolute"
        ),
        pytest.param(
            hostile(files={"manifest.json": {"size": 0, "sha256": []}}), "no file that", id="itself"
        ),
        pytest.param(
            hostile(files={"criu/a": {"size": -1, "sha256": []}}), "is not within", id="negative size"
        ),
        pytest.param(
            hostile(files={"criu/a": {"size": 1 << 60, "sha256": []}}), "is not within", id="huge size"
        ),
        pytest.param(hostile(files={"criu/a": {"size": 1, "sha256": []}}), "has 0 digests", id="no digest"),
        pytest.param(
            hostile(files={"criu/a": {"size": 0, "sha256": [DIGEST]}}), "0 are allowed", id="too many"
        ),
        pytest.param(
            hostile(files={"criu/a": {"size": 1, "sha256": ["G" * 64]}}), "no SHA-256", id="no digest text"
        ),
        pytest.param(hostile(extra=[]), "extra: is a list", id="extra is a list"),
        pytest.param(hostile(generation="1"), "generation: is a string", id="generation in quotes"),
        pytest.param(b"[" * 100_000, "nested deeper", id="nested deeply"),
    ],
)
def test_a_hostile_manifest_is_unreadable(data: bytes, sentence: str) -> None:
    with pytest.raises(Unreadable) as unreadable:
        decode(data)
    assert sentence in str(unreadable.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(data)


@pytest.mark.parametrize("extra", [{"a": {1, 2}}, {"a": (1, 2)}, {1: "a"}, {"a": float("nan")}])
def test_facts_that_would_not_be_read_again_are_not_written(tmp_path: Path, extra: dict[str, object]) -> None:
    image = filled(tmp_path / "images")
    with pytest.raises(ValueError, match="manifest"):
        images.seal(image, Facts("c1", "shop/cart", 1, "criu", extra=extra))
    assert not os.path.exists(image.manifest_path)


def test_an_image_that_the_engine_left_empty_is_not_sealed(tmp_path: Path) -> None:
    image = images.begin(str(tmp_path), "uid-1", "app", 1)
    with pytest.raises(ImageError, match="is empty"):
        images.seal(image, FACTS)


def test_an_image_with_a_link_in_it_is_not_sealed(tmp_path: Path) -> None:
    image = filled(tmp_path / "images")
    os.symlink("/etc/passwd", f"{image.engine_path}/link.img")
    with pytest.raises(ImageError, match=r"link\.img is no regular file"):
        images.seal(image, FACTS)


def test_the_wrong_generation_is_not_sealed(tmp_path: Path) -> None:
    image = images.begin(str(tmp_path), "uid-1", "app", 2)
    with pytest.raises(ImageError, match="generation 1"):
        images.seal(image, FACTS)


def test_files_of_an_image_are_private(tmp_path: Path) -> None:
    image = filled(tmp_path / "images")
    os.chmod(f"{image.engine_path}/core-1.img", 0o644)
    images.seal(image, FACTS)
    for directory, _, names in os.walk(image.path):
        assert os.stat(directory).st_mode & 0o7777 == 0o700
        assert all(os.stat(f"{directory}/{name}").st_mode & 0o7777 == 0o600 for name in names)
