"""Where images lie, and the life of their directories: begun, made durable, put aside, removed.

Names come from pods and are checked before they become paths; directories are 0700, links are never followed.
What is inside an image, and whether it is whole, is `sealing`'s business.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from architect.files import make_private_dirs, names, write_whole

ROOT: Final = "/var/lib/architect/pods"
"""Where the images of a node are."""
ENGINE: Final = "criu"
MANIFEST: Final = "manifest.json"
PART: Final = "part.json"
"""Beside the image of a container that has left, written last: without it that copy is nobody's."""
QUARANTINED: Final = ".quarantined"
REASON: Final = "reason.txt"
KEPT_ASIDE: Final = 2  # per container: the newest failure and the one before; memory images are large
MAX_REASON: Final = 16 << 10
MAX_DEPTH: Final = 16

_COMPONENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_GENERATION: Final = re.compile(rf"([0-9]{{1,18}})({re.escape(QUARANTINED)})?")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ImageError(Exception):
    """Something is wrong with the image at `path`; `reason` says what."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"image {path}: {reason}")
        self.path = path
        self.reason = reason


class Corrupt(ImageError):
    """The image is not what was written: nothing may be restored from it."""


@dataclass(frozen=True, slots=True)
class ImageDir:
    """An image's place. Raises ValueError when a part of it does not fit into a path."""

    root: str
    pod_uid: str
    container: str
    generation: int

    def __post_init__(self) -> None:
        for part in (self.pod_uid, self.container):
            if not _COMPONENT.fullmatch(part):
                raise ValueError(f"{part[:80]!r} can not be part of an image's path")
        if not 0 <= self.generation < 10**18:
            raise ValueError(f"generation {self.generation} is out of range")

    @classmethod
    def at(cls, path: str) -> ImageDir:
        """The image whose `path` this is. Raises ValueError when no image can have it."""
        root, *parts = path.rsplit("/", 3)
        if len(parts) != 3 or not re.fullmatch("0|[1-9][0-9]{0,17}", parts[2]):
            raise ValueError(f"{path[:200]!r} is no image's path")
        return cls(root, parts[0], parts[1], int(parts[2]))

    @property
    def home(self) -> str:
        """The directory of all images of the container."""
        return f"{self.root}/{self.pod_uid}/{self.container}"

    @property
    def path(self) -> str:
        """The image's own directory."""
        return f"{self.home}/{self.generation}"

    @property
    def engine_path(self) -> str:
        """The directory the engine fills."""
        return f"{self.path}/{ENGINE}"

    @property
    def manifest_path(self) -> str:
        """The manifest, whether it is there or not."""
        return f"{self.path}/{MANIFEST}"


def begin(root: str, pod_uid: str, container: str, generation: int) -> ImageDir:
    """Makes an empty image directory. A half-written one of the same generation is removed first.

    Raises ValueError for names that do not fit, ImageError when that generation is complete already, OSError.
    """
    image = ImageDir(root, pod_uid, container, generation)
    make_private_dirs(image.home)
    with _directory(root, pod_uid, container) as home:
        if _exists(MANIFEST, image.path):
            raise ImageError(image.path, "exists and is complete; it is not overwritten")
        erase(home, str(generation))
        os.mkdir(str(generation), 0o700, dir_fd=home)
        os.mkdir(f"{generation}/{ENGINE}", 0o700, dir_fd=home)
    return image


def next_generation(root: str, pod_uid: str, container: str) -> int:
    """The lowest generation above all that are on disk, quarantined ones too; at least 1. Raises ValueError,
    OSError.

    For a container's first sleep: the shim before may have been killed and have left an image.
    """
    return (
        max((number for number, _ in generations(ImageDir(root, pod_uid, container, 0).home)), default=0) + 1
    )


def sync(image: ImageDir) -> None:
    """Returns when the image would survive the loss of power: files, names, and the directories above. Raises
    OSError.
    """
    with _directory(image.root, image.pod_uid, image.container, str(image.generation)) as top:
        _sync_tree(top, 0)
    for parts in ((image.pod_uid, image.container), (image.pod_uid,), ()):
        with _directory(image.root, *parts) as above:
            os.fsync(above)


def quarantine(image: ImageDir, reason: str) -> str:
    """Puts an image that failed aside, with `reason` beside it, and returns where. Raises OSError.

    The KEPT_ASIDE newest of a container are kept until its pod is swept.
    """
    aside = f"{image.path}{QUARANTINED}"
    with _directory(image.root, image.pod_uid, image.container) as home:
        erase(home, os.path.basename(aside))
        os.rename(str(image.generation), os.path.basename(aside), src_dir_fd=home, dst_dir_fd=home)
        old = sorted(number for number, kept in generations(image.home) if kept)[:-KEPT_ASIDE]
        for number in old:
            erase(home, f"{number}{QUARANTINED}")
    text = reason.encode("utf-8", "backslashreplace")[:MAX_REASON]
    write_whole(f"{aside}/{REASON}", text + b"\n", durable=False)
    return aside


def remove(image: ImageDir) -> None:
    """Removes an image, complete or not; that there is none is no error. Raises OSError.

    The manifest goes first: killed half-way, this leaves a half-written image and never a damaged one.
    """
    try:
        os.unlink(image.manifest_path)
    except FileNotFoundError:
        pass  # half-written, or not there at all
    try:
        with _directory(image.root, image.pod_uid, image.container) as home:
            erase(home, str(image.generation))
    except FileNotFoundError:
        return


def disk_bytes(image: ImageDir) -> int:
    """What the image takes on disk, in bytes; 0 when it is gone. Raises OSError."""
    try:
        with _directory(image.root, image.pod_uid, image.container, str(image.generation)) as top:
            return _blocks(top, 0) * 512
    except FileNotFoundError:
        return 0


# ---- directories


@contextmanager
def _directory(root: str, *parts: str) -> Iterator[int]:
    """A descriptor of a directory below `root`, found without following a link. Raises OSError."""
    descriptor = os.open(
        root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    )  # root is the administrator's: may be a link
    try:
        for part in parts:
            deeper = os.open(part, _DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
        yield descriptor
    finally:
        os.close(descriptor)


def _exists(name: str, directory: str) -> bool:
    return os.path.lexists(f"{directory}/{name}")


def generations(home: str) -> list[tuple[int, bool]]:
    """Number, and whether it is quarantined, of each generation in a container's directory."""
    found = (_GENERATION.fullmatch(name) for name in names(home))
    return [(int(match[1]), match[2] is not None) for match in found if match]


def erase(parent: int, name: str, depth: int = 0) -> None:
    """Removes `name` below directory `parent` and everything in it; a link is removed, not followed."""
    if depth > MAX_DEPTH:
        raise OSError(errno.ELOOP, f"is nested deeper than {MAX_DEPTH} directories", name)
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):  # ELOOP: a link, to O_NOFOLLOW
            raise
        os.unlink(name, dir_fd=parent)
        return
    try:
        for entry in os.listdir(descriptor):
            erase(descriptor, entry, depth + 1)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=parent)


def _sync_tree(directory: int, depth: int) -> None:
    for name in os.listdir(directory):
        # O_NONBLOCK: a FIFO, which has no business here, must not hold us up
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory
        )
        try:
            if os.path.isdir(descriptor) and depth < MAX_DEPTH:
                _sync_tree(descriptor, depth + 1)
            else:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    os.fsync(directory)


def _blocks(directory: int, depth: int) -> int:
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            total += entry.stat(follow_symlinks=False).st_blocks
            if entry.is_dir(follow_symlinks=False) and depth < MAX_DEPTH:
                descriptor = os.open(entry.name, _DIRECTORY, dir_fd=directory)
                try:
                    total += _blocks(descriptor, depth + 1)
                finally:
                    os.close(descriptor)
    return total
