"""CPU weight over a sleep. Kubelet hears that a sleeper asks for nothing, and sets its weight to the least.

So that it need not fight for the processor until kubelet has heard of its wake, the limits kept for the wake
never lower its own weight, and its pod's is lifted at the wake itself. Kubelet sets both as they should be
soon after. The trap: the pod's cgroup is kubelet's. It is only ever lifted, and only if it bears the pod's
name.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from architect.engine.cgroup import Cgroup

log = logging.getLogger(__name__)


def read(resources: bytes) -> dict[str, Any]:
    """An update's limits (`LinuxResources` of the OCI runtime specification); {} for what is no object."""
    try:
        found = json.loads(resources)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def shares(spec: Mapping[str, Any]) -> int:
    """The CPU shares in a container's specification; 0 when it says none."""
    found: Any = spec
    for key in ("linux", "resources", "cpu", "shares"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, int) else 0


def merged(older: bytes | None, newer: bytes) -> bytes:
    """Two updates that nobody has carried out, as one: an update may be about memory alone."""
    return newer if older is None else json.dumps(_merge(read(older), read(newer))).encode()


def _merge(older: Mapping[str, Any], newer: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(older)
    for key, value in newer.items():
        before = found.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        found[key] = _merge(before, value) if both else value  # type: ignore[arg-type]
    return found


def with_shares(resources: bytes, least: int) -> bytes:
    """An update with no fewer CPU shares than `least`; one that does not speak of shares stays as it is."""
    found = read(resources)
    asked = shares({"linux": {"resources": found}})
    if not 0 < asked < least:
        return resources
    found["cpu"]["shares"] = least
    return json.dumps(found).encode()


def lift_pod(cgroup: Cgroup, pod_uid: str) -> None:
    """Gives the pod's cgroup at least the weight of this container of it."""
    directory = cgroup.paths.get("" if cgroup.unified else "cpu")
    if directory is None or not pod_uid:
        return
    parent, name = os.path.dirname(directory), "cpu.weight" if cgroup.unified else "cpu.shares"
    if not any(uid in os.path.basename(parent) for uid in (pod_uid, pod_uid.replace("-", "_"))):
        return  # not as kubelet names them (cgroupfs: pod<uid>; systemd: with _ for -)
    try:
        own = int(Path(directory, name).read_text())
        if int(Path(parent, name).read_text()) < own:
            Path(parent, name).write_text(str(own))
    except (OSError, ValueError) as error:
        log.warning("the CPU weight of %s cannot be lifted: %s", parent, error)
