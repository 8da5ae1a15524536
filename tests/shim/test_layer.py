"""A writable layer becomes another container's, with everything that the kernel knows of it."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from architect.ttrpc.containerd import Mount
from shim import layer

OVERLAY = Mount(
    type="overlay",
    source="overlay",
    options=["index=off", "workdir=/s/5/work", "upperdir=/s/5/fs", "lowerdir=/s/4/fs:/s/3/fs"],
)


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (target / "of" / "before").mkdir(parents=True)
    (target / "of" / "file").write_text("old")
    return source, target


def facts(root: Path) -> dict[str, tuple[object, ...]]:
    """All that can be seen of a tree but its content and inode numbers."""

    def each(path: str) -> tuple[object, ...]:
        about = os.lstat(path)
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        }
        size = about.st_size if stat.S_ISREG(about.st_mode) else 0
        return (
            about.st_mode,
            about.st_uid,
            about.st_gid,
            about.st_rdev,
            size,
            about.st_mtime_ns,
            attributes,
        )

    return {os.path.relpath(path, root): each(path) for path in walk(root)}


def walk(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        yield folder
        yield from (f"{folder}/{name}" for name in names)
        yield from (f"{folder}/{name}" for name in folders if os.path.islink(f"{folder}/{name}"))


def fill(source: Path) -> None:
    (source / "etc").mkdir(mode=0o751)
    (source / "etc" / "conf").write_text("content")
    os.link(source / "etc" / "conf", source / "twin")
    os.symlink("/etc/passwd", source / "link")
    os.symlink("etc", source / "folder link")
    os.mkfifo(source / "fifo", 0o620)
    os.mknod(source / "removed", stat.S_IFCHR, os.makedev(0, 0))  # a whiteout
    (source / "tool").write_text("#!/bin/sh\n")
    os.chown(source / "tool", 1, 2)
    os.chmod(source / "tool", 0o4755)
    os.lchown(source / "link", 3, 4)
    (source / "opaque").mkdir()
    os.setxattr(source / "opaque", "trusted.overlay.opaque", b"y")
    with (source / "holes").open("wb") as file:
        file.truncate(64 << 20)
        file.seek(10 << 20)
        file.write(b"x" * 5000)
    (source / os.fsdecode(b"not \xff utf-8")).write_text("")
    os.utime(source / "etc", ns=(1, 2_000_000_003))


@pytest.mark.root
def test_a_layer_is_copied_with_all_there_is_to_it(places: tuple[Path, Path]) -> None:
    source, target = places
    fill(source)
    layer.carry(str(source), str(target), 60)
    assert facts(target) == facts(source)
    assert (target / "etc" / "conf").read_text() == "content"
    assert (target / "etc" / "conf").stat().st_ino == (target / "twin").stat().st_ino
    assert (target / "twin").stat().st_ino != (source / "twin").stat().st_ino
    assert (target / "holes").read_bytes() == (source / "holes").read_bytes()
    assert (target / "holes").stat().st_blocks < 1000
    layer.sync(str(target))


def test_a_copy_ends_at_its_deadline_and_can_be_cleared(places: tuple[Path, Path]) -> None:
    source, target = places
    for number in range(100):
        (source / str(number)).mkdir()
    with pytest.raises(layer.TooSlow):
        layer.carry(str(source), str(target), -1)
    layer.clear(str(target))
    assert os.listdir(target) == []


def test_a_layer_without_end_is_an_error(places: tuple[Path, Path]) -> None:
    source, target = places
    deep = source
    for _ in range(layer.MAX_DEPTH + 2):
        deep /= "d"
        deep.mkdir()
    started = time.monotonic()
    with pytest.raises(OSError, match="nested deeper"):
        layer.carry(str(source), str(target), 60)
    assert time.monotonic() >= started
    layer.clear(str(target))
    assert os.listdir(target) == []


def test_it_is_found_in_the_mounts_of_a_root_file_system() -> None:
    upper, beneath = layer.of([OVERLAY])
    assert upper == "/s/5/fs"
    other = Mount(type="overlay", source="overlay", options=["upperdir=/s/9/fs", "lowerdir=/s/4/fs"])
    assert layer.of([other]) == ("/s/9/fs", layer.of([other])[1])
    assert layer.of([other])[1] != beneath
    bind = Mount(type="bind", source="/s/5/fs", options=["rbind", "rw"])
    read_only = Mount(type="overlay", source="overlay", options=["lowerdir=/s/4/fs:/s/3/fs"])
    assert layer.of([bind]) == layer.of([OVERLAY, bind]) == layer.of([]) == layer.of([read_only]) == ("", "")
