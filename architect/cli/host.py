"""Looking at the node from within its daemon's pod, where `kubectl architect doctor` runs.

A pod has file systems of its own; what has to be examined (containerd's configuration, runc, CRIU, disks) is
in those of the node's process 1, which a pod with hostPID sees. A child goes there, so that whoever asked
keeps its own interpreter's files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, Final

_OWN: Final = "/proc/self/ns/mnt"
_NODES: Final = "/proc/1/ns/mnt"


def elsewhere() -> bool:
    """Whether the node's file systems are others than ours; False where that cannot be told."""
    try:
        return os.stat(_OWN).st_ino != os.stat(_NODES).st_ino
    except OSError:
        return False


def there(look: Callable[[], Any]) -> Any:
    """What `look` finds, as JSON, among the node's file systems. Raises OSError."""
    result, write = os.pipe()
    child = os.fork()
    if not child:
        _answer(look, write)
    os.close(write)
    with open(result, "rb") as file:
        said = file.read()
    os.waitpid(child, 0)
    try:
        return json.loads(said)
    except ValueError:
        raise OSError(said.decode(errors="replace") or "the node's file systems cannot be entered") from None


def _answer(look: Callable[[], Any], write: int) -> None:
    """The child's life."""
    status = 1
    try:
        node = os.open(_NODES, os.O_RDONLY | os.O_CLOEXEC)
        os.setns(node, os.CLONE_NEWNS)
        with open(write, "wb") as file:
            try:
                file.write(json.dumps(look()).encode())
                status = 0
            except Exception as error:  # noqa: BLE001  told to the parent, which has no other way to know
                file.write(str(error).encode())
    finally:
        os._exit(status)
