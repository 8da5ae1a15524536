"""What watches files is found, with where they lie and whether something is unread; nothing else is."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from architect.engine import watches

_LIBC = ctypes.CDLL(None, use_errno=True)
_CREATED = 0x100


@contextmanager
def watching(*folders: Path) -> Iterator[int]:
    """An inotify of this process over folders."""
    number = _LIBC.inotify_init1(os.O_CLOEXEC)
    try:
        for folder in folders:
            assert _LIBC.inotify_add_watch(number, bytes(folder), _CREATED) > 0
        yield number
    finally:
        os.close(number)


@pytest.fixture
def of_root() -> Iterator[Path]:
    """A folder of the root file system, a few levels down."""
    with tempfile.TemporaryDirectory(dir="/var/lib") as made:
        folder = Path(made, "deep", "down")
        folder.mkdir(parents=True)
        if folder.stat().st_dev != os.stat("/").st_dev:
            pytest.skip("/var/lib is a file system of its own")
        yield folder


def test_an_event_is_unread_until_it_is_read(tmp_path: Path) -> None:
    with watching(tmp_path) as number:
        assert watches.unread([os.getpid()]) == ""
        (tmp_path / "new").touch()
        assert "has not read yet" in watches.unread([os.getpid()])
        os.read(number, 4096)
        assert watches.unread([os.getpid()]) == ""


def test_watched_folders_of_the_root_are_found_wherever_they_are(of_root: Path) -> None:
    with watching(of_root, of_root.parent, Path("/")):
        assert sorted(watches.places([os.getpid()])) == sorted(["/.", str(of_root.parent), str(of_root)])


def test_what_lies_on_other_file_systems_is_not_looked_for() -> None:
    with watching(Path("/proc")):
        assert watches.places([os.getpid()]) == []


def test_who_watches_nothing_costs_nothing_and_who_has_ended_is_passed_by() -> None:
    assert watches.places([os.getpid(), 2**22]) == []
    assert watches.unread([2**22]) == ""
