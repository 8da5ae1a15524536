"""Sealing an image once its engine has written it, and proving later that it is still what was sealed.

Hashing runs in threads (hashlib releases the interpreter lock), piece by piece, so that one large file keeps
every processor busy. Files are read, never mapped: a mapped file that somebody truncates ends the process by
SIGBUS.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from architect.files import read_whole, write_whole
from architect.images.layout import ENGINE, MANIFEST, Corrupt, ImageDir, ImageError
from architect.images.manifest import MAX_MANIFEST_BYTES, PIECE, Facts, File, Manifest, decode, encode, pieces
from architect.untrusted import Unreadable

MAX_THREADS: Final = 4
BUFFER: Final = 256 << 10  # stays in a processor's second-level cache between reading and hashing
_WORTH_THREADS: Final = 4 << 20  # bytes; below, starting threads takes longer than it saves
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
# Of the process or machine, not of the image: to call it corrupt for these would throw somebody's memory
# away.
_NOT_ITS_FAULT: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)

Digests = dict[tuple[str, int], str]


def seal(image: ImageDir, facts: Facts, *, threads: int = MAX_THREADS) -> Manifest:
    """Hashes what the engine wrote and writes the manifest: from then on the image is complete.

    Not durable yet: see `sync`. Raises ImageError when there is nothing to seal or something that does not
    belong there, ValueError when `facts` can not be written, OSError.
    """
    if facts.generation != image.generation:
        raise ImageError(image.path, f"is sealed as generation {facts.generation}")
    sizes = _sizes(image, ImageError)
    if not sizes:
        raise ImageError(image.path, "is empty; the engine wrote nothing")
    digests = _digests(image, sizes, threads)
    if _sizes(image, ImageError) != sizes:
        raise ImageError(image.path, "changed while it was being sealed")
    host = os.uname()
    manifest = Manifest(
        pod_uid=image.pod_uid,
        container=image.container,
        created_ns=time.time_ns(),
        kernel=host.release,
        arch=host.machine,
        cpu=cpu_features(),
        facts=facts,
        files={
            f"{ENGINE}/{name}": File(size, tuple(digests[name, n] for n in range(pieces(size))))
            for name, size in sizes.items()
        },
    )
    write_whole(image.manifest_path, encode(manifest), durable=False)
    return manifest


def read_manifest(image: ImageDir) -> Manifest:
    """The manifest alone, the files unread. Raises Corrupt, also when there is none; OSError as `verify`
    does.
    """
    try:
        manifest = decode(read_whole(image.manifest_path, MAX_MANIFEST_BYTES))
    except FileNotFoundError as error:
        raise Corrupt(image.path, "has no manifest: it was never completed, or is gone") from error
    except Unreadable as error:
        raise Corrupt(image.path, f"its manifest: {error}") from error
    except OSError as error:
        raise _translated(image, error) from error
    place = (manifest.pod_uid, manifest.container, manifest.facts.generation)
    if place != (image.pod_uid, image.container, image.generation):
        raise Corrupt(image.path, f"its manifest is that of {'/'.join(map(str, place))}")
    return manifest


def verify(image: ImageDir, *, threads: int = MAX_THREADS) -> Manifest:
    """Proves that the image is what was sealed: the same files, of the same sizes, with the same content.

    Cheap questions come first. Raises Corrupt; OSError only for what is not the image's fault (no memory, no
    descriptors). May run beside a restore of the same image.
    """
    manifest = read_manifest(image)
    wanted = {name.removeprefix(f"{ENGINE}/"): file for name, file in manifest.files.items()}
    try:
        sizes = _sizes(image, Corrupt)
        for name in sorted(wanted.keys() | sizes.keys()):
            if name not in sizes:
                raise Corrupt(image.path, f"{name} is missing")
            if name not in wanted:
                raise Corrupt(image.path, f"{name} does not belong to it")
            if sizes[name] != wanted[name].size:
                raise Corrupt(image.path, f"{name} has {sizes[name]} bytes; {wanted[name].size} were written")
        digests = _digests(image, sizes, threads)
    except OSError as error:
        raise _translated(image, error) from error
    for (name, number), digest in digests.items():
        if digest != wanted[name].sha256[number]:
            first = number * PIECE
            last = min(first + PIECE, sizes[name]) - 1
            raise Corrupt(image.path, f"{name} has changed somewhere in bytes {first} to {last}")
    return manifest


def _translated(image: ImageDir, error: OSError) -> Exception:
    if error.errno in _NOT_ITS_FAULT:
        return error
    return Corrupt(image.path, f"{error.filename or 'it'} cannot be read: {error.strerror}")


def _sizes(image: ImageDir, complaint: Callable[[str, str], ImageError]) -> dict[str, int]:
    """The engine's files and their sizes; anything but plain files in their place is complained about."""
    for name in os.listdir(image.path):
        if name not in (ENGINE, MANIFEST):
            raise complaint(image.path, f"{name} does not belong to it")
    sizes: dict[str, int] = {}
    with os.scandir(image.engine_path) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise complaint(image.path, f"{entry.name} is no regular file")
            if stat.S_IMODE(status.st_mode) != 0o600:
                os.chmod(entry.path, 0o600, follow_symlinks=False)
            sizes[entry.name] = status.st_size
    return sizes


def _digests(image: ImageDir, sizes: Mapping[str, int], threads: int) -> Digests:
    """The SHA-256 of each piece of each file, by name and number. Raises OSError, EIO for a file that ends
    early.
    """
    work = [(name, number) for name, size in sizes.items() for number in range(pieces(size))]
    work.sort(
        key=lambda piece: -min(PIECE, sizes[piece[0]])
    )  # large ones first: all threads end at about the same time
    found: Digests = {}
    errors: list[OSError | MemoryError] = []
    queue = iter(work)
    lock = threading.Lock()
    directory = os.open(image.engine_path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def run() -> None:
        buffer = memoryview(bytearray(BUFFER))
        try:
            while not errors:
                with lock:
                    piece = next(queue, None)
                if piece is None:
                    return
                name, number = piece
                length = min(PIECE, sizes[name] - number * PIECE)
                found[piece] = _digest(directory, name, number * PIECE, length, buffer)
        except (OSError, MemoryError) as error:
            errors.append(error)

    try:
        useful = min(threads, len(work), os.cpu_count() or 1) if sum(sizes.values()) >= _WORTH_THREADS else 1
        others = [threading.Thread(target=run, name=f"hash {n}", daemon=True) for n in range(1, useful)]
        for thread in others:
            thread.start()
        run()
        for thread in others:
            thread.join()
    finally:
        os.close(directory)
    if errors:
        raise errors[0]
    return found


def _digest(directory: int, name: str, offset: int, length: int, buffer: memoryview) -> str:
    digest = hashlib.sha256(usedforsecurity=False)
    descriptor = os.open(name, _READ, dir_fd=directory)
    try:
        end = offset + length
        while offset < end:
            count = os.preadv(descriptor, [buffer[: min(BUFFER, end - offset)]], offset)
            if count == 0:
                raise OSError(errno.EIO, "ends before its size", name)
            digest.update(buffer[:count])
            offset += count
    finally:
        os.close(descriptor)
    return digest.hexdigest()


@functools.cache
def cpu_features() -> str:
    """A digest of the processor's features as the kernel lists them: an image may use any of them."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):  # x86, arm64
                return hashlib.sha256(" ".join(sorted(value.split())).encode()).hexdigest()
    return ""
