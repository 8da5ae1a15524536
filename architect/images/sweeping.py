"""Images that nobody will restore any more, found and removed.

A container's directory is claimed, with a lock on it, by the process that it is for: as long as that lives,
nobody else removes anything there, or restores what is there. What is claimed by nobody may still be wanted:
a node that has just booted has sleepers on its disk whose containers nobody has started yet.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection

from architect.files import names
from architect.images.layout import ImageDir, erase, generations

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def claim(home: str) -> int | None:
    """A descriptor that claims a container's directory until it is closed; None when another has the claim.

    Raises OSError.
    """
    directory = os.open(home, _DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(directory)
        return None
    except OSError:
        os.close(directory)
        raise
    return directory


def tidy(root: str, pod_uid: str, container: str, owned: Collection[int]) -> list[str]:
    """Removes the images of a container that are not put aside and are none of the generations `owned`.

    For the process that has claimed the directory. Raises OSError, ValueError; returns the paths removed.
    """
    home = ImageDir(root, pod_uid, container, 0).home
    unowned = [number for number, aside in generations(home) if not aside and number not in owned]
    if not unowned:
        return []
    directory = os.open(home, _DIRECTORY)
    try:
        for number in unowned:
            erase(directory, str(number))
    finally:
        os.close(directory)
    return [f"{home}/{number}" for number in unowned]


def unserved(root: str, live: Collection[str]) -> dict[str, int]:
    """The directories of containers whose pod is not in `live` (by uid), and when in each of them anything
    changed last, in nanoseconds. What is gone, or none, is passed over. Raises OSError.
    """
    found: dict[str, int] = {}
    for pod_uid in names(root):
        if pod_uid in live:
            continue
        for container in names(f"{root}/{pod_uid}"):
            path = f"{root}/{pod_uid}/{container}"
            try:
                found[path] = _changed_ns(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
    return found


def sweep(path: str, changed_ns: int) -> bool:
    """Removes the directory of a container, and its pod's if that is empty then; False, and nothing is done,
    when it is claimed or has changed since `changed_ns`. Raises OSError.
    """
    claimed = claim(path)
    if claimed is None:
        return False
    try:
        if _changed_ns(path) != changed_ns:
            return False
        above, name = os.path.split(path)
        pod = os.open(above, _DIRECTORY)
        try:
            erase(pod, name)
        finally:
            os.close(pod)
    finally:
        os.close(claimed)
    try:
        os.rmdir(above)
    except OSError:
        pass  # another container's files are in it
    return True


def _changed_ns(path: str) -> int:
    with os.scandir(path) as entries:
        within = [entry.stat(follow_symlinks=False).st_mtime_ns for entry in entries]
    return max([os.lstat(path).st_mtime_ns, *within])
