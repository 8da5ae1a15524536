"""A pod's emptyDir volumes, as far as a container mounts them: which they are, and filling them.

Which they are is read from the pod object, where they are follows from kubelet's layout. Pods write to them:
no link on the way or in them is followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from daemon.moving import hostfiles
from daemon.moving.places import Places, checked
from daemon.transfer import unpack

_KIND: Final = "kubernetes.io~empty-dir"


def mounted(pod: Mapping[str, Any], container: str) -> tuple[str, ...]:
    """The emptyDir volumes that a container of a pod object mounts, by name. Those of huge pages are none:
    they hold memory, which is in the image.
    """
    spec = pod.get("spec") or {}
    empty = {
        str(volume.get("name"))
        for volume in spec.get("volumes") or []
        if (directory := volume.get("emptyDir")) is not None
        and not str(directory.get("medium") or "").startswith("HugePages")
    }
    mounts = [
        str(mount.get("name"))
        for each in spec.get("containers") or []
        if each.get("name") == container
        for mount in each.get("volumeMounts") or []
    ]
    return tuple(sorted(empty.intersection(mounts)))


@contextmanager
def opened(places: Places, pod_uid: str, name: str) -> Iterator[str]:
    """A path, good within the block, of a volume's directory. Raises OSError, ValueError."""
    below = f"{checked(pod_uid)}/volumes/{_KIND}/{checked(name)}"
    with hostfiles.directory(places.host, f"{places.kubelet}/pods", below) as path:
        yield path


def fill(places: Places, pod_uid: str, name: str, pack: str, limit: int) -> None:
    """Makes a volume what the file `pack` holds, and nothing else. Blocks.

    Raises OSError, ValueError, TransferError; the volume is empty then, if that is possible.
    """
    with opened(places, pod_uid, name) as path:
        hostfiles.clear(path)
        done = False
        try:
            unpack(pack, path, layer=False, limit=limit)
            done = True
        finally:
            if not done:
                hostfiles.clear(path)
