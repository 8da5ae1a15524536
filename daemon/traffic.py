"""What the daemon asks of the kernel: the traffic of a container, when a timer falls due and at no other
time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from architect.ttrpc.shim_v1 import ContainerStatus
from daemon.idle import Traffic


class TrafficUnknown(Exception):
    """The kernel did not answer; the message says what was asked and why not."""


class Kernel(Protocol):
    """What is asked of the kernel. All raise TrafficUnknown."""

    def watch(self, netns: str, container_id: str, ports: Sequence[tuple[int, str]]) -> None:
        """Notes packets to `ports` from now on; what is noted already stays."""

    def unwatch(self, netns: str, container_id: str) -> None:
        """Notes them no more."""

    def traffic(self, netns: str, status: ContainerStatus, now_ns: int, shim_pid: int = 0) -> Traffic:
        """The traffic of a container that is watched; probes passed on by `shim_pid` are none."""
