"""containerd's own checkpoints (`ctr task checkpoint`): an image that containerd packs and carries elsewhere.

They are taken and restored by `runc checkpoint` and `runc restore`, with runc's own semantics; the images
that a container sleeps in are another matter (`image.py`). A sleeper is woken first: its image is not runc's.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from architect.engine.errors import EngineError
from architect.engine.runc import Runc
from architect.files import make_private_dirs, remove_flat
from architect.ttrpc import containerd
from architect.ttrpc.codec import DecodeError
from architect.ttrpc.runtime_info import CheckpointOptions
from architect.ttrpc.server import Code, RpcError

_LOG_MAX: Final = 16 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Import:
    """The checkpoint that a container is to be started from: directories of image, parent image and log."""

    image: str
    parent: str
    work: str


def checkpoint_options(options: containerd.Any | None) -> CheckpointOptions:
    """How the checkpoint is wanted. Raises RpcError(INVALID_ARGUMENT)."""
    if options is None or not options.type_url:
        return CheckpointOptions()
    try:
        found = containerd.unpack(options, CheckpointOptions)
        if found.work_path:
            absolute(found.work_path)
        return found
    except DecodeError as error:
        raise RpcError(Code.INVALID_ARGUMENT, f"the checkpoint options do not parse: {error}") from error


def absolute(path: str) -> str:
    """A path that containerd names. Raises RpcError(INVALID_ARGUMENT)."""
    if not path.startswith("/") or "\0" in path:
        raise RpcError(Code.INVALID_ARGUMENT, f"{path!r:.200} is no absolute path")
    return path


def flags(options: CheckpointOptions) -> list[str]:
    """What `runc checkpoint` has to be told of them."""
    switches = {
        "--leave-running": not options.exit,
        "--tcp-established": options.open_tcp,
        "--ext-unix-sk": options.external_unix_sockets,
        "--shell-job": options.terminal,
        "--file-locks": options.file_locks,
    }
    found = [flag for flag, wanted in switches.items() if wanted]
    found += ["--manage-cgroups-mode", options.cgroups_mode] if options.cgroups_mode else []
    for namespace in options.empty_namespaces:
        found += ["--empty-ns", namespace]
    return found


async def export(runc: Runc, path: str, options: CheckpointOptions) -> None:
    """Takes a checkpoint into `path`. Raises EngineError; the container runs on then, CRIU's log is in its
    bundle.
    """
    work = options.work_path or os.path.join(runc.bundle, "criu-work")
    make_private_dirs(work)
    try:
        await runc.checkpoint(path, work, flags(options))
    except EngineError as error:
        kept = os.path.join(runc.bundle, "criu-dump.log")
        _keep(os.path.join(work, "dump.log"), kept)
        raise EngineError(f"{error} (CRIU's log: {kept})") from error
    finally:
        if not options.work_path:
            remove_flat(work)


def _keep(source: str, target: str) -> None:
    try:
        with open(source, "rb") as file:
            Path(target).write_bytes(file.read(_LOG_MAX))
    except OSError as error:
        log.warning("CRIU's log %s cannot be kept: %s", source, error)
