"""The kernel of this node, through the packet gate: what a container's traffic is, and which packets are
held.

Every call is a few netlink messages or one file, about a millisecond, so it is made within the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from architect.gate import GateError, HeldQueue, PodGate, Port, sockets
from architect.settings import Monitor
from architect.ttrpc.shim_v1 import ContainerStatus
from daemon.held import Queue
from daemon.idle import SECOND, Traffic, watched_ports
from daemon.traffic import TrafficUnknown


def adopt(fd: int) -> Queue:
    """The queue behind a duplicate of its socket."""
    return HeldQueue.from_fd(fd)


class NetnsKernel:
    """The kernel of this node."""

    def watch(self, netns: str, container_id: str, ports: Sequence[tuple[int, str]]) -> None:
        """Notes packets to `ports` from now on; what is noted already stays."""
        try:
            PodGate(netns).watch(container_id, [Port(number, protocol) for number, protocol in ports])
        except (GateError, OSError) as error:
            raise TrafficUnknown(f"the rules that note packets cannot be set: {error}") from error

    def unwatch(self, netns: str, container_id: str) -> None:
        """Notes them no more."""
        try:
            PodGate(netns).unwatch(container_id)
        except (GateError, OSError) as error:
            raise TrafficUnknown(f"the rules that note packets cannot be removed: {error}") from error

    def traffic(self, netns: str, status: ContainerStatus, now_ns: int) -> Traffic:
        """The traffic of a container that is watched."""
        try:
            activity = PodGate(netns).activity(status.id)
            connections = 0
            if status.monitor == Monitor.CONNECTIONS:
                counts = sockets.connections_per_port(status.pid)
                connections = sum(counts.get(number, 0) for number, _ in watched_ports(status))
        except (GateError, OSError) as error:
            raise TrafficUnknown(f"packets and connections cannot be read: {error}") from error
        idle = activity.idle_seconds
        return Traffic(None if idle is None else now_ns - int(idle * SECOND), connections)
