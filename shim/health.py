"""What a container's last probes said: one that is ill stays awake.

A sleeper counts as well, to every probe. Put to sleep while its probes fail, a container that is stuck would
be well again before kubelet has counted its failures, and one that is not ready would get traffic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

_PROBES_KEPT: Final = 16
_FORGET_SECONDS: Final = 600.0
"""A probe that is asked no more (a startup probe, a person's request to a path that is not there) must not
keep a container awake for ever."""


class Health:
    """The probes of one container that failed when they were last asked; `changed` is called when the first
    begins to and when the last ceases to.
    """

    __slots__ = ("_changed", "_failed")

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._failed: dict[str, tuple[str, asyncio.TimerHandle]] = {}

    def noted(self, probe: str, complaint: str) -> None:
        """What `probe` (any text that tells it from others) has come to: "" is well."""
        before = self.complaint
        self._drop(probe)
        if complaint:
            if len(self._failed) >= _PROBES_KEPT:
                self._drop(next(iter(self._failed)))
            later = asyncio.get_running_loop().call_later(_FORGET_SECONDS, self.noted, probe, "")
            self._failed[probe] = complaint, later
        if bool(before) != bool(self.complaint):
            self._changed()

    @property
    def complaint(self) -> str:
        """Why the container is not well, as a sentence; "" when it is, as far as is known."""
        return next((complaint for complaint, _ in self._failed.values()), "")

    def _drop(self, probe: str) -> None:
        _, later = self._failed.pop(probe, ("", None))
        if later is not None:
            later.cancel()
