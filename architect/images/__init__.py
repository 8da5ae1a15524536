"""Checkpoint images on disk: where they lie, what proves them whole, and how they go away.

    <root>/<pod uid>/<container>/<generation>/criu/...        the engine's files, flat
    <root>/<pod uid>/<container>/<generation>/manifest.json   written last: its presence says "complete"
    <root>/<pod uid>/<container>/<generation>.quarantined/    one that could not be restored, with reason.txt

Everything here blocks on the disk and is meant for worker threads. When an image is made, trusted or given up
is the caller's decision.

The trap: an image is somebody's memory, and there is no second copy.
"""

from __future__ import annotations

from architect.images.adoption import adopt, foreign
from architect.images.layout import (
    ROOT,
    Corrupt,
    ImageDir,
    ImageError,
    begin,
    disk_bytes,
    next_generation,
    quarantine,
    remove,
    sync,
)
from architect.images.manifest import Facts, File, Manifest
from architect.images.sealing import read_manifest, seal, verify
from architect.images.sweeping import claim, sweep, tidy, unserved

__all__ = [
    "ROOT",
    "Corrupt",
    "Facts",
    "File",
    "ImageDir",
    "ImageError",
    "Manifest",
    "adopt",
    "begin",
    "claim",
    "disk_bytes",
    "foreign",
    "next_generation",
    "quarantine",
    "read_manifest",
    "remove",
    "seal",
    "sweep",
    "sync",
    "tidy",
    "unserved",
    "verify",
]
