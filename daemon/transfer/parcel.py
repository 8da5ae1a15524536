"""What a node sends of a pod: files of this node under names of the parcel's, perhaps still being written.

Files may be added and grow until `finish`, and are sent meanwhile; what was sent and then rewritten is found
by its digest and sent again. The files stay their owner's: nothing here changes or removes one. Any thread
may call anything.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from architect.files import read_whole
from architect.images import ImageDir, read_manifest
from architect.images.layout import ENGINE, MANIFEST
from architect.images.manifest import MAX_FILES, MAX_MANIFEST_BYTES, File
from daemon.transfer.contents import Contents, Hashing, checked_name, digest

_TOLD_EVERY: Final = 1 << 20  # bytes taken, until they are written and those who wait for more are woken


@dataclass(frozen=True, slots=True)
class Look:
    """A parcel at one moment: paths by name, in the order of adding; `contents` when it is finished."""

    version: int
    paths: dict[str, str]
    contents: Contents | None
    failure: str


class Parcel:
    """Open when made; then finished or abandoned, once."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._version = 0
        self._paths: dict[str, str] = {}
        self._files: dict[str, File] = {}
        self._contents: Contents | None = None
        self._failure = ""
        self.digest = ""
        """Of the whole, once it is finished."""

    @property
    def open(self) -> bool:
        """Whether more may come."""
        return self._contents is None and not self._failure

    def add(self, name: str, path: str, file: File | None = None) -> None:
        """A regular file at `path`, not a link; `file`: its size and digests, if it is complete.

        Raises ValueError for a name that is none, or for more files than a parcel may have.
        """
        with self._changed:
            self._check_open()
            if checked_name(name) not in self._paths and len(self._paths) >= MAX_FILES:
                raise ValueError(f"a parcel holds {MAX_FILES} files at most")
            self._paths[name] = path
            if file is not None:
                self._files[name] = file
            self._tell()

    def follow(self, prefix: str, image: ImageDir) -> None:
        """Adds what there is of an image that is being written, below `prefix`; to be called as it grows.

        Raises ValueError; OSError when there is no such image.
        """
        with os.scandir(image.engine_path) as entries:
            found = [(entry.name, entry.path) for entry in entries if entry.is_file(follow_symlinks=False)]
        for name, path in found:
            self.add(f"{prefix}/{ENGINE}/{name}", path)
        self.grew()

    def image(self, prefix: str, image: ImageDir) -> None:
        """Adds a sealed image below `prefix`, and its manifest. Raises ValueError, ImageError, OSError."""
        manifest = read_manifest(image)
        text = read_whole(image.manifest_path, MAX_MANIFEST_BYTES)
        whole = Hashing()
        whole.update(text)
        self.add(f"{prefix}/{MANIFEST}", image.manifest_path, whole.file())
        for name, file in manifest.files.items():
            self.add(f"{prefix}/{name}", f"{image.path}/{name}", file)
        with self._changed:  # what was seen of it while it was written, and is gone
            passing = [
                name
                for name in self._paths
                if name.startswith(f"{prefix}/{ENGINE}/") and name not in self._files
            ]
            for name in passing:
                del self._paths[name]

    @contextmanager
    def writing(self, name: str, path: str) -> Iterator[Writing]:
        """A new file (0600) that is sent while it is written. Raises OSError, ValueError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "wb", buffering=0) as file:
            self.add(name, path)
            output = Writing(self, file.fileno())
            yield output
            output.flush()
        self.add(name, path, output.hashing.file())

    def grew(self) -> None:
        """Something was written: those who wait for more look again."""
        with self._changed:
            self._tell()

    def contents(self) -> dict[str, File]:
        """What it is made of, when all is there. Raises ValueError when a file's digests are unknown."""
        with self._changed:
            unknown = sorted(self._paths.keys() - self._files.keys())
            if unknown or not self._paths:
                raise ValueError(f"the parcel is not complete: {unknown[:5] or 'it is empty'}")
            return {name: self._files[name] for name in self._paths}

    def finish(self) -> str:
        """All is there, and whoever fetches may have it; returns the parcel's digest. Raises ValueError."""
        with self._changed:
            self._check_open()
            self._contents = self.contents()
            self.digest = digest(self._contents)
            self._tell()
            return self.digest

    def abandon(self, reason: str) -> None:
        """It will never be complete; whoever asks is told `reason`. Of a finished one, that it is gone."""
        with self._changed:
            self._failure = self._failure or reason or "the checkpoint was given up"
            self._tell()

    def look(self) -> Look:
        """How it is now."""
        with self._changed:
            return Look(self._version, dict(self._paths), self._contents, self._failure)

    def wait(self, version: int, seconds: float) -> bool:
        """Waits until it is no longer as in `Look.version`; False when so many seconds are over."""
        with self._changed:
            return self._changed.wait_for(lambda: self._version != version, seconds)

    def _check_open(self) -> None:
        if not self.open:
            raise ValueError(f"the parcel is {'abandoned' if self._failure else 'finished'}")

    def _tell(self) -> None:
        self._version += 1
        self._changed.notify_all()


class Writing:
    """The output of `Parcel.writing`: has `write` alone."""

    def __init__(self, parcel: Parcel, descriptor: int) -> None:
        self.hashing = Hashing()
        self._parcel = parcel
        self._descriptor = descriptor
        self._waiting = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        """Takes all of it. Raises OSError."""
        self._waiting += data
        if len(self._waiting) >= _TOLD_EVERY:
            self.flush()

    def flush(self) -> None:
        """Writes what was taken so far. Raises OSError."""
        written, self._waiting = self._waiting, bytearray()
        self.hashing.update(written)
        with memoryview(written) as left:
            at = 0
            while at < len(left):
                at += os.write(self._descriptor, left[at:])
        self._parcel.grew()
