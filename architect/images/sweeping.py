"""Images that nobody will restore any more, found and removed.

A container's directory is claimed, with a lock on it, by the process that it is for: as long as that lives,
nobody else removes anything there, or restores what is there. What is claimed by nobody may still be wanted:
a node that has just booted has sleepers on its disk whose containers nobody has started yet.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection

from architect.images.layout import ImageDir, erase, generations, names

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


def sweep(root: str, live: Collection[str], before: float) -> list[str]:
    """Removes all there is of containers whose pod is not in `live` (by uid), which nobody has claimed, and
    in whose directory nothing has changed since `before` (seconds since the epoch).

    Returns the paths removed. Raises ExceptionGroup of the OSErrors met, after having done the rest.
    """
    removed: list[str] = []
    errors: list[OSError] = []
    for pod_uid in names(root):
        if pod_uid in live:
            continue
        for container in names(f"{root}/{pod_uid}"):
            try:
                if _remove_unclaimed(f"{root}/{pod_uid}", container, before):
                    removed.append(f"{root}/{pod_uid}/{container}")
            except OSError as error:
                errors.append(error)
        try:
            os.rmdir(f"{root}/{pod_uid}")
        except OSError:
            continue  # something is left in it
    if errors:
        raise ExceptionGroup(f"{len(errors)} containers' files under {root} could not be removed", errors)
    return removed


def _remove_unclaimed(pod: str, container: str, before: float) -> bool:
    claimed = claim(f"{pod}/{container}")
    if claimed is None:
        return False
    try:
        newest = max(
            [
                os.fstat(claimed).st_mtime,
                *(each.stat(follow_symlinks=False).st_mtime for each in os.scandir(claimed)),
            ]
        )
        if newest >= before:
            return False
        directory = os.open(pod, _DIRECTORY)
        try:
            erase(directory, container)
        finally:
            os.close(directory)
    finally:
        os.close(claimed)
    return True
