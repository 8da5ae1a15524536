"""A tree that was packed and unpacked is the tree it was, whatever is in it; layers are, to the kernel's
overlayfs.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.transfer import NoSpace, Packed, Refused, pack, unpack
from daemon.transfer.unpack import unpack_from
from tests.daemon.transfer.conftest import mounted

pytestmark = pytest.mark.root
LIMIT = 1 << 30


def moved(source: Path, target: Path, *, layer: bool) -> tuple[Packed, Packed]:
    """Packs one directory and unpacks it to another."""
    stream = io.BytesIO()
    packed = pack(str(source), stream, layer=layer)
    stream.seek(0)
    return packed, unpack_from(stream, str(target), layer=layer, limit=LIMIT)


def tree(root: Path) -> dict[str, Any]:
    """Everything about everything below a directory that is to be the same on the other side."""
    found: dict[str, Any] = {}
    inodes: dict[int, str] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        name = str(path.relative_to(root))
        kind = stat.S_IFMT(status.st_mode)
        first = inodes.setdefault(status.st_ino, name)
        if stat.S_ISCHR(status.st_mode):
            found[name] = kind, status.st_rdev  # a whiteout has nothing else
            continue
        xattrs = {
            each: os.getxattr(path, each, follow_symlinks=False)
            for each in os.listxattr(path, follow_symlinks=False)
        }
        content = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.fsencode(path.readlink())
        found[name] = status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, xattrs, first, content
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    made.mkdir()
    return made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    made = tmp_path / "target"
    made.mkdir()
    return made


def old(path: Path) -> None:
    os.utime(path, ns=(1_000_000_000_123_456_789, 1_111_111_111_987_654_321), follow_symlinks=False)


def test_everything_that_a_volume_can_hold_comes_over(source: Path, target: Path) -> None:
    (source / "folder" / "deeper").mkdir(parents=True)
    plain = source / "folder" / "plain"
    plain.write_bytes(os.urandom(700_000))
    os.chown(plain, 1234, 4_000_000_000)
    plain.chmod(0o6751)
    os.setxattr(plain, "user.mark", b"\0\xff value")
    capability = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    os.setxattr(plain, "security.capability", capability)
    os.link(plain, source / "another name")
    os.link(plain, source / "folder" / "deeper" / "a third")
    (source / "link").symlink_to("/etc/shadow")
    (source / "dangling").symlink_to(os.fsdecode(b"\xff" * 300))
    os.lchown(source / "link", 7, 8)
    os.link(source / "link", source / "link too", follow_symlinks=False)
    os.mkfifo(source / "pipe", 0o640)
    (source / "pipe").chmod(0o666)
    os.link(source / "pipe", source / "pipe too")
    (source / os.fsdecode(b"not \xff utf-8 \n")).write_bytes(b"")
    (source / "closed").mkdir(mode=0o000)
    (source / "closed" / "within").write_bytes(b"x")
    os.setxattr(source / "folder", "user.of a folder", b"1")
    source.chmod(0o1777)
    for path in sorted(source.rglob("*"), reverse=True):
        old(path)
    old(source)
    packed, made = moved(source, target, layer=False)
    places = (root / name for root in (source, target) for name in ("folder", "another name"))
    accessed = {place.stat().st_atime_ns for place in places}
    assert accessed == {1_000_000_000_123_456_789}
    assert tree(target) == tree(source)
    assert packed == made
    assert packed.notes == []


def test_holes_stay_holes(tmp_path: Path, source: Path, target: Path) -> None:
    with (source / "sparse").open("wb") as file:
        file.seek(300 << 20)
        file.write(b"x" * 5000)
        file.truncate(1 << 30)
    path = tmp_path / "pack"
    with path.open("wb") as output:
        packed = pack(str(source), output, layer=False)
    assert path.stat().st_size < 1 << 20
    assert packed.size < 1 << 16
    unpack(str(path), str(target), layer=False, limit=1 << 16)
    status = (target / "sparse").stat()
    assert (status.st_size, status.st_blocks * 512) == (1 << 30, (source / "sparse").stat().st_blocks * 512)
    with (target / "sparse").open("rb") as file:
        file.seek((300 << 20) - 1)
        assert file.read(5002) == b"\0" + b"x" * 5000 + b"\0"


def test_what_can_not_travel_is_left_out_and_noted(source: Path, target: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "socket"))
    os.mknod(source / "device", 0o600 | stat.S_IFBLK, os.makedev(8, 0))
    os.mknod(source / "whiteout", stat.S_IFCHR, os.makedev(0, 0))
    (source / "mounted").mkdir()
    os.setxattr(source / "mounted", "trusted.of the host", b"x")
    with mounted("tmpfs", source / "mounted"):
        (source / "mounted" / "foreign").write_bytes(b"x")
        packed, _ = moved(source, target, layer=False)
    assert [note.split()[0] for note in packed.notes] == ["device", "mounted", "socket", "whiteout"]
    assert list(target.iterdir()) == []
    packed, _ = moved(source, target, layer=False)
    assert "mounted has the attribute trusted.of the host, which stays here" in packed.notes


def test_what_is_there_is_replaced_and_never_followed(tmp_path: Path, source: Path, target: Path) -> None:
    (source / "file").write_bytes(b"new")
    (source / "folder").mkdir()
    (source / "folder" / "file").write_bytes(b"new")
    (source / "was a folder").write_bytes(b"new")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"precious")
    (target / "file").symlink_to(outside / "file")
    (target / "folder").symlink_to(outside)
    (target / "was a folder" / "deep").mkdir(parents=True)
    (target / "was a folder" / "deep" / "link").symlink_to(outside)
    (target / "stays").write_bytes(b"old")
    moved(source, target, layer=False)
    assert (outside / "file").read_bytes() == b"precious"
    assert tree(target)["stays"][-1] == b"old"
    (target / "stays").unlink()
    assert {name: each[-1] for name, each in tree(target).items()} == {
        name: each[-1] for name, each in tree(source).items()
    }


def test_what_is_nested_too_deep_is_refused_where_it_is(source: Path) -> None:
    descriptor = os.open(source, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=descriptor)
        deeper = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    os.close(descriptor)
    with pytest.raises(Refused, match="nested deeper than 256"):
        pack(str(source), io.BytesIO(), layer=False)
    subprocess.run(["rm", "-rf", source / "d"], check=True, timeout=20)


def test_a_full_disk_is_said(tmp_path: Path, source: Path, target: Path) -> None:
    (source / "big").write_bytes(os.urandom(3 << 20))
    path = tmp_path / "pack"
    with path.open("wb") as output:
        pack(str(source), output, layer=False)
    with mounted("tmpfs", target, "size=1m"), pytest.raises(NoSpace, match="No space left"):
        unpack(str(path), str(target), layer=False, limit=LIMIT)
    with pytest.raises(NoSpace, match="1048576 bytes that were announced"):
        unpack(str(path), str(target), layer=False, limit=1 << 20)


@contextlib.contextmanager
def overlay(root: Path, upper: Path) -> Iterator[Path]:
    """`upper` over `root`/lower, mounted."""
    merged, work = root / f"{upper.name}.merged", root / f"{upper.name}.work"
    merged.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    options = f"lowerdir={root}/lower,upperdir={upper},workdir={work}"
    with mounted("overlay", merged, options):
        yield merged


def test_a_container_s_files_are_the_same_over_a_layer_that_came_over(
    tmp_path: Path, source: Path, target: Path
) -> None:
    """All that a process can do to the files of its image, read back through an overlay on the other side."""
    lower = tmp_path / "lower"
    for name in ("kept", "deleted", "changed", "moved", "linked", "mode"):
        (lower / "etc").mkdir(parents=True, exist_ok=True)
        (lower / "etc" / name).write_bytes(name.encode() * 1000)
    for name in ("emptied", "removed", "replaced", "renamed"):
        (lower / name).mkdir()
        (lower / name / "inner").write_bytes(b"of the image")
    with overlay(tmp_path, source) as root:
        (root / "etc" / "deleted").unlink()
        with (root / "etc" / "changed").open("ab") as file:
            file.write(b"more")
        (root / "etc" / "moved").rename(root / "moved away")
        os.link(root / "etc" / "linked", root / "linked too")
        (root / "etc" / "mode").chmod(0o4711)
        (root / "emptied" / "inner").unlink()
        subprocess.run(["rm", "-r", root / "removed"], check=True, timeout=20)
        subprocess.run(["rm", "-r", root / "replaced"], check=True, timeout=20)
        (root / "replaced").mkdir()  # opaque: the image's content is not to shine through
        (root / "replaced" / "new").write_bytes(b"new")
        with contextlib.suppress(OSError):  # EXDEV where the kernel notes no redirects
            (root / "renamed").rename(root / "renamed away")
        (root / "pages").write_bytes(bytes(5 << 20))
        os.mkfifo(root / "pipe")
        wanted = tree(root)
        kinds = {stat.S_IFMT(path.lstat().st_mode) for path in source.rglob("*")}
        assert stat.S_IFCHR in kinds
    assert os.getxattr(source / "replaced", "trusted.overlay.opaque") == b"y"
    packed, _ = moved(source, target, layer=True)
    assert packed.notes == []
    with overlay(tmp_path, target) as root:
        assert tree(root) == wanted


NAMES = st.binary(min_size=1, max_size=20).filter(lambda n: n not in (b".", b"..") and not {0, 47} & set(n))
FILES = st.tuples(st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(max_size=5000)), max_size=4))
LEAVES = st.one_of(FILES, st.binary(min_size=1, max_size=60).filter(lambda b: 0 not in b), st.none())
TREES = st.dictionaries(
    NAMES, st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=4)), max_size=5
)


def grow(root: bytes, wanted: dict[bytes, Any]) -> None:
    for name, what in wanted.items():
        path = root + b"/" + name
        if what is None:
            os.mkfifo(path)
        elif isinstance(what, bytes):
            os.symlink(what, path)
        elif isinstance(what, dict):
            os.mkdir(path)
            grow(path, what)
        else:
            with open(path, "wb") as file:
                for offset, data in what[0]:
                    file.seek(offset)
                    file.write(data)


@given(wanted=TREES)
def test_any_tree_comes_over(tmp_path_factory: pytest.TempPathFactory, wanted: dict[bytes, Any]) -> None:
    root = tmp_path_factory.mktemp("any")
    for name in ("source", "target"):
        (root / name).mkdir()
    grow(os.fsencode(root / "source"), wanted)
    moved(root / "source", root / "target", layer=False)
    assert tree(root / "target") == tree(root / "source")
