"""Containers that join the process namespace of another one: debuggers (`kubectl debug --target`).

containerd names that namespace by the first process of the target, as it was told of it once. A wake gives
that process another pid, so the guest is pointed to the present one; a target that sleeps is woken for it,
and stays awake while it has guests: a dump ends every process of the namespace, theirs too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from architect.engine.plan import namespace_paths

if TYPE_CHECKING:
    from shim.bundle import Bundle
    from shim.container import Container

_PATH: Final = re.compile(r"/proc/([1-9]\d{0,9})/ns/pid")


def host_of(guest: Bundle, containers: Iterable[Container]) -> Container | None:
    """The container whose process namespace the guest is to join; None when it joins none of these."""
    named = _PATH.fullmatch(namespace_paths(guest.spec).get("pid", ""))
    if named is None:
        return None
    pid = int(named[1])
    living = [each for each in containers if each.init.ended is None]
    present = [each for each in living if each.init.pid == pid]  # pids come again
    return next(iter([*present, *(each for each in living if pid in each.known_as)]), None)


def lead(guest: Bundle, pid: int) -> None:
    """Has the guest join the namespace of the process `pid`, in its config.json.

    Raises OSError, ValueError, LookupError, TypeError.
    """
    path = os.path.join(guest.path, "config.json")
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    for entry in spec["linux"]["namespaces"]:
        if entry["type"] == "pid":
            entry["path"] = f"/proc/{pid}/ns/pid"
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(spec, file)
    os.rename(f"{path}.new", path)
