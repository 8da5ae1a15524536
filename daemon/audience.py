"""Who hears what becomes of containers beyond this node, and nobody who does: `--kubernetes=off`.

Hearing never fails and never waits: sleep and wake depend on nobody who listens.
"""

from __future__ import annotations

from typing import Any, Protocol

from architect.ttrpc.shim_v1 import ContainerStatus
from daemon.containers import Container
from daemon.kubernetes.happenings import Happening


class Audience(Protocol):
    """Who hears."""

    def heard(self, container: Container, before: ContainerStatus | None) -> None:
        """A container is so now; `before` it was so (None: it is new here)."""

    def happened(self, container: Container, happening: Happening) -> None:
        """Something that no status tells."""

    def health(self) -> str:
        """Who hears: off, connected, or why nobody does at the moment."""

    def explained(self, container: Container) -> dict[str, Any]:
        """What there is to say of a container from there: `sentences`, and facts under a name of its own."""


class Nobody:
    """Hears nothing."""

    def heard(self, container: Container, before: ContainerStatus | None) -> None:
        """Nothing."""

    def happened(self, container: Container, happening: Happening) -> None:
        """Nothing."""

    def health(self) -> str:
        """Nobody is asked to hear."""
        return "off"

    def explained(self, container: Container) -> dict[str, Any]:
        """Nothing."""
        return {"sentences": []}
