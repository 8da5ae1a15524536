"""An image that another container goes on with: its files under another name, some of them changed.

Files are linked, not copied: the image it came from stays whole, whatever becomes of the new one, and costs
no room. So both must lie on one file system, and an engine must never write to an image's files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping

from architect.files import write_whole
from architect.images.layout import ENGINE, ImageDir, ImageError
from architect.images.manifest import PIECE, Facts, File, Manifest, encode
from architect.images.sealing import cpu_features, read_manifest


def adopt(source: ImageDir, target: ImageDir, facts: Facts, replaced: Mapping[str, bytes]) -> Manifest:
    """Makes the empty image `target` what `source` is, with new `facts` and with the content of the engine's
    files in `replaced`.

    What the linked files hold is not looked at: `verify` finds in `target` whatever was damaged in `source`.
    Raises ImageError, ValueError, OSError; `target` is not complete then.
    """
    manifest = read_manifest(source)
    if facts.generation != target.generation:
        raise ImageError(target.path, f"is made as generation {facts.generation}")
    files = dict(manifest.files)
    for name in files:
        plain = name.removeprefix(f"{ENGINE}/")
        if plain not in replaced:
            os.link(f"{source.engine_path}/{plain}", f"{target.engine_path}/{plain}", follow_symlinks=False)
    for plain, data in replaced.items():
        write_whole(f"{target.engine_path}/{plain}", data, durable=False)
        starts = range(0, len(data), PIECE)
        digests = (hashlib.sha256(data[start : start + PIECE]).hexdigest() for start in starts)
        files[f"{ENGINE}/{plain}"] = File(len(data), tuple(digests))
    made = dataclasses.replace(
        manifest, pod_uid=target.pod_uid, container=target.container, facts=facts, files=files
    )
    write_whole(target.manifest_path, encode(made), durable=False)
    return made


def foreign(manifest: Manifest) -> str:
    """Why an image can not be restored on this machine, as a sentence; "" when nothing speaks against it."""
    host = os.uname()
    if manifest.arch != host.machine:
        return f"it was dumped on {manifest.arch}, and this machine is {host.machine}"
    if manifest.kernel != host.release:
        return f"it was dumped under kernel {manifest.kernel}, and this is {host.release}"
    if manifest.cpu != cpu_features():
        return "it was dumped on a processor with other features"
    return ""
