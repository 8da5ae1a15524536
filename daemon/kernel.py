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
    """The queue behind a duplicate of its socket, which is closed if this fails. Raises GateError."""
    return HeldQueue.from_fd(fd)


class NetnsKernel:
    """A `traffic.Kernel`: the kernel of this node."""

    def __init__(self) -> None:
        # For kernels that count packets and do not remember when (nftables' `last` is missing): the count
        # that was read last, and when it was first read.
        self._counts: dict[str, tuple[int, int]] = {}

    def watch(self, netns: str, container_id: str, ports: Sequence[tuple[int, str]]) -> None:
        """Notes packets to `ports` from now on; what is noted already stays."""
        try:
            PodGate(netns).watch(container_id, [Port(number, protocol) for number, protocol in ports])
        except GateError as error:
            raise TrafficUnknown(str(error)) from error

    def unwatch(self, netns: str, container_id: str) -> None:
        """Notes them no more."""
        self._counts.pop(container_id, None)
        try:
            PodGate(netns).unwatch(container_id)
        except GateError as error:
            raise TrafficUnknown(str(error)) from error

    def traffic(self, netns: str, status: ContainerStatus, now_ns: int, shim_pid: int = 0) -> Traffic:
        """The traffic of a container that is watched; probes passed on by `shim_pid` are none."""
        ports = watched_ports(status)
        try:
            activity = PodGate(netns).activity(status.id)
            if not activity.rules:
                # Somebody has flushed the pod's rules. What came since nobody knows: begin anew.
                self.watch(netns, status.id, ports)
                return Traffic(now_ns)
            connections = 0
            if status.monitor == Monitor.CONNECTIONS:
                counts = sockets.open_connections(status.pid, without=shim_pid)
                connections = sum(counts.get(number, 0) for number, _ in ports)
        except GateError as error:
            raise TrafficUnknown(str(error)) from error
        if activity.idle_seconds is not None:
            return Traffic(now_ns - int(activity.idle_seconds * SECOND), connections)
        return Traffic(self._changed_ns(status.id, activity.packets, now_ns), connections)

    def _changed_ns(self, container_id: str, packets: int, now_ns: int) -> int | None:
        """When the count was first seen as it is now; that is not before its last packet."""
        if not packets:
            return None
        count, since_ns = self._counts.get(container_id, (0, 0))
        if count != packets:
            since_ns = now_ns
            self._counts[container_id] = packets, now_ns
        return since_ns
