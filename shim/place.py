"""Where the files of a managed container are on the node."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Self

from architect import images
from architect.files import make_private_dirs, remove_empty
from architect.settings import PodIdentity

LOG_ROOT: Final = "/var/log/architect"


@dataclass(frozen=True, slots=True)
class Place:
    """The root of all images, the container's state file, and the directory of its engine logs."""

    images: str
    state: str
    logs: str

    @classmethod
    def of(cls, identity: PodIdentity) -> Self:
        """The place of a container; its identity was checked to be fit for paths."""
        base = f"{identity.pod_uid}/{identity.container}"
        return cls(images.ROOT, f"{images.ROOT}/{base}/state.json", f"{LOG_ROOT}/{base}")

    def log_directory(self) -> str:
        """`logs`, made if it is not there: while a container sleeps, people tidy up. Raises OSError."""
        make_private_dirs(self.logs)
        return self.logs

    def leave(self) -> None:
        """Removes the container's and the pod's directories, if nothing is in them."""
        remove_empty(os.path.dirname(self.state), images.ROOT)
        remove_empty(self.logs, LOG_ROOT)


class Claim:
    """Whose the files of a container are: one process's, from the container's start to its end.

    The kernel takes it back from a process that dies. So what a container of the same name finds and can
    claim, nobody restores any more.
    """

    def __init__(self, place: Place) -> None:
        self._path = os.path.dirname(place.state)
        self._directory: int | None = None

    def take(self) -> bool:
        """Takes it; False when another container has it. Raises OSError."""
        make_private_dirs(self._path)
        directory = images.claim(self._path)
        if directory is None:
            return False
        self.release()
        self._directory = directory
        return True

    def release(self) -> None:
        """Gives it up, if it is ours."""
        directory, self._directory = self._directory, None
        if directory is not None:
            os.close(directory)
