"""Where things lie on the node, and names that become parts of paths.

    <state>/pods/<pod uid>/<container>/<generation>      images: the shims'
    <state>/leaving/<namespace>/<migration>/pod.json     what the control plane said
    <state>/leaving/<namespace>/<migration>/<container>/ `part.json` (written last), `parcel/`
    <state>/kept/<namespace>/<migration>/<container>/    the same, of what nobody has taken
    <state>/arriving/<pod uid>/<container>/              `arrival.json`, `parcel/`, `layer/`

A parcel is the same at both ends: `image/<pod uid>/<container>/<generation>/...`, `layer.pack`,
`volumes/<name>.pack`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

STATE: Final = "/var/lib/architect"
KUBELET: Final = "/var/lib/kubelet"
CONTAINERD: Final = "/run/containerd/containerd.sock"
HOST: Final = "/proc/1/root"
"""The node's own file system, for a daemon in a pod and for one on the node itself."""

_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def checked(name: str) -> str:
    """A name of Kubernetes', fit to be one component of a path. Raises ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is no name")
    return name


@dataclass(frozen=True, slots=True)
class Places:
    """The roots. Layers, volumes and containerd's socket are looked up within `host`: the node's own view."""

    state: str = STATE
    kubelet: str = KUBELET
    host: str = HOST
    containerd: str = CONTAINERD

    @property
    def runtime(self) -> str:
        return f"{self.host.rstrip('/')}{self.containerd}"

    @property
    def images(self) -> str:
        return f"{self.state}/pods"

    @property
    def leaving(self) -> str:
        return f"{self.state}/leaving"

    @property
    def kept(self) -> str:
        return f"{self.state}/kept"

    @property
    def arriving(self) -> str:
        return f"{self.state}/arriving"
