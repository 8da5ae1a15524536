"""Where the files of a managed container are on the node."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Self

from architect.files import remove_empty
from architect.settings import PodIdentity

STATE_ROOT: Final = "/var/lib/architect/pods"
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
        return cls(STATE_ROOT, f"{STATE_ROOT}/{base}/state.json", f"{LOG_ROOT}/{base}")

    def leave(self) -> None:
        """Removes the container's and the pod's directories, if nothing is in them."""
        remove_empty(os.path.dirname(self.state), STATE_ROOT)
        remove_empty(self.logs, LOG_ROOT)
