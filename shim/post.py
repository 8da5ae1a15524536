"""What a shim is asked to serve: read from the request of a `start`, up to a socket that answers.

Runs in a fork of the zygote, so that a bundle that is not what it should be ends nobody but this fork.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from typing import Final

from shim.address import SANDBOX_ID, SHIM_DIR, Usage, plain, socket_path

_BACKLOG: Final = 128
_CONFIG_MAX: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Post:
    """What a shim serves and for whom: the pod `group` of a containerd namespace, on `socket_path`."""

    namespace: str
    group: str
    bundle: str
    socket_path: str
    events_address: str
    debug: bool


def read(request: bytes) -> Post:
    """The post that a `start` asks for. Raises Usage, or OSError when its bundle can not be read."""
    try:
        namespace, container_id, bundle, events_address, debug = request.decode().split("\0")
    except ValueError as error:
        raise Usage(f"the request of `start` is not of this version: {error}") from error
    path = os.path.join(bundle, "config.json")
    with open(path, encoding="utf-8") as file:
        config = file.read(_CONFIG_MAX + 1)
    if len(config) > _CONFIG_MAX:
        raise Usage(f"{path} is larger than {_CONFIG_MAX} characters")
    group = group_of(config, container_id)
    return Post(namespace, group, bundle, socket_path(namespace, group), events_address, bool(debug))


def group_of(config: str, container_id: str) -> str:
    """The pod that the container with this config.json belongs to: its sandbox's id. Raises Usage."""
    try:
        annotations = json.loads(config).get("annotations") or {}
        return plain(str(annotations.get(SANDBOX_ID) or container_id))
    except (ValueError, AttributeError, RecursionError) as error:  # no JSON, no object, brackets without end
        raise Usage(f"the config.json of {container_id!r:.80} is no OCI spec: {error}") from error


def bind(path: str) -> socket.socket | None:
    """A listening socket at `path`; None when somebody answers there already."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
            return None
        except (FileNotFoundError, ConnectionRefusedError):
            pass
    os.makedirs(SHIM_DIR, mode=0o700, exist_ok=True)
    if os.path.lexists(path):
        os.unlink(path)  # nobody answers on it
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(_BACKLOG)
    return listener
