"""Checkpoint images on disk: where they lie, what proves them whole, and how they go away.

    <root>/<pod uid>/<container>/<generation>/criu/...        the engine's files, flat
    <root>/<pod uid>/<container>/<generation>/manifest.json   written last: its presence says "complete"
    <root>/<pod uid>/<container>/<generation>.quarantined/    one that could not be restored, with reason.txt

Everything here blocks on the disk and is meant for worker threads. When an image is made, trusted or given up
is the caller's decision.

The trap: an image is somebody's memory, and there is no second copy. `sweep` believes what it is told is
alive.
"""

from __future__ import annotations

from architect.images.layout import (
    Corrupt,
    ImageDir,
    ImageError,
    begin,
    disk_bytes,
    next_generation,
    quarantine,
    remove,
    sweep,
    sync,
)
from architect.images.manifest import Facts, File, Manifest
from architect.images.sealing import read_manifest, seal, verify

__all__ = [
    "Corrupt",
    "Facts",
    "File",
    "ImageDir",
    "ImageError",
    "Manifest",
    "begin",
    "disk_bytes",
    "next_generation",
    "quarantine",
    "read_manifest",
    "remove",
    "seal",
    "sweep",
    "sync",
    "verify",
]
