"""The packet gate of one pod: closing, extending, opening it, and noting who was active.

Nothing is remembered here: what there is stands in the kernel, under tags (nftables.py). So everything may be
repeated, and a process that starts anew goes on where another was killed. Every call opens a socket in the
pod's network namespace and closes it again, since a socket would keep a dead pod's namespace alive.

The trap: a packet that another processor was just carrying past a rule when it was removed reaches the queue
afterwards. So `open` leaves the queue bound. Close it some tenths of a second later, and release until then
whenever it can be read: nothing waits and nothing is lost. Closed at once it waits up to 20 ms instead.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from typing import Final, NamedTuple

from architect.gate import netns, nftables
from architect.gate.errors import GateError
from architect.gate.netlink import NETLINK_NETFILTER, Conversation, Request
from architect.gate.nftables import INET, IPV4, IPV6, Rule, Tuple4
from architect.gate.queue import HeldQueue
from architect.gate.sockets import Endpoint
from architect.settings import Port

_CONTAINER_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_TRIES: Final = 5
_RELEASES: Final = 8  # releasing thousands takes milliseconds, in which more come


Change = tuple[list[Rule], list[Request]]
"""Rules to remove, and requests that add some."""


class Activity(NamedTuple):
    """`packets` to the watched ports since `watch`, and seconds since the last one (None: none yet, or the
    kernel has no `last` expression). `rules`: how many were read; none means that nothing is watched.
    """

    packets: int
    idle_seconds: float | None
    rules: int


class PodGate:
    """The gate in network namespace `netns`, given by path. Synchronous, no call takes long; all raise
    GateError.
    """

    __slots__ = ("netns",)

    def __init__(self, netns: str) -> None:
        self.netns = netns

    def close(self, container_id: str, ports: Collection[Port], number: int) -> HeldQueue:
        """Packets to `ports` are held from the return on, in queue `number`, which no other gate of this pod
        uses.

        What an earlier process left of this container's gate is replaced. The caller owns the queue.
        """
        tag = _tag("gate", container_id)
        means = nftables.probe()
        queue = HeldQueue.open(self.netns, number)  # before the rules: they would drop what nobody queues
        added = [
            nftables.add_gate(
                family, f"{tag}:{port.protocol}:{port.number}", port, number, native=means.native_queue
            )
            for family in means.families
            for port in dict.fromkeys(ports)
        ]
        try:
            self._change(
                f"closing the gate of container {container_id}",
                lambda rules: (_of(rules, tag), added),
            )
        except GateError:
            queue.close()
            raise
        return queue

    def extend(
        self,
        container_id: str,
        connections: Iterable[tuple[Endpoint, Endpoint]],
        number: int,
        ports: Collection[Port] = (),
    ) -> None:
        """Holds more in the same queue: packets of TCP connections (local, remote), and packets to more
        `ports`.

        What a port of this container's gate covers already gets no rule of its own.
        """
        tag = _tag("gate", container_id)
        means = nftables.probe()
        wanted = [_tuple(local, remote) for local, remote in connections]

        def changes(rules: list[Rule]) -> Change:
            covered = {rule.tag for rule in rules}
            added: list[Request] = []
            for family in means.families:
                for port in dict.fromkeys(ports):
                    name = f"{tag}:{port.protocol}:{port.number}"
                    if name not in covered:
                        added.append(nftables.add_gate(family, name, port, number, native=means.native_queue))
                for one in wanted:
                    kind = IPV4 if len(one.target) == 4 else IPV6
                    if family in (INET, kind) and f"{tag}:TCP:{one.target_port}" not in covered:
                        added.append(
                            nftables.add_tuple_gate(family, tag, one, number, native=means.native_queue)
                        )
            return [], added

        self._change(f"extending the gate of container {container_id}", changes)

    def open(self, container_id: str, queue: HeldQueue | None = None) -> None:
        """Lets every held packet go on, in order, and takes the rules away. Opening an open gate is no error.

        `queue` stays bound and the caller's to close (see the module's trap). Without one, only the rules go:
        what a process that died had closed.
        """
        operation, tag = f"opening the gate of container {container_id}", _tag("gate", container_id)
        if queue is None:
            self._change(operation, lambda rules: (_of(rules, tag), []))
            return
        for _ in range(_RELEASES):
            queue.release()
            if not queue.stats().held:
                break  # the fewer are held when the rules go, the fewer are overtaken by what comes after
        try:
            self._change(operation, lambda rules: (_of(rules, tag), []), queue)
        finally:
            queue.release()  # what came until the rules were gone

    def clear(self) -> None:
        """Takes all rules of all containers away: for when nobody is left to release what they hold."""
        self._change("clearing the gate of a pod", lambda rules: (rules, []))

    def watch(self, container_id: str, ports: Collection[Port]) -> None:
        """Notes packets to exactly these ports from now on; those watched already keep their counts."""
        tag = _tag("watch", container_id)
        means = nftables.probe()
        wanted = {
            (family, f"{tag}:{port.protocol}:{port.number}"): port
            for family in means.families
            for port in ports
        }

        def changes(rules: list[Rule]) -> Change:
            there = {(rule.family, rule.tag) for rule in rules}
            stale = [rule for rule in _of(rules, tag) if (rule.family, rule.tag) not in wanted]
            added = [
                nftables.add_watch(family, name, port, last=means.last)
                for (family, name), port in wanted.items()
                if (family, name) not in there
            ]
            return stale, added

        self._change(f"watching container {container_id}", changes)

    def unwatch(self, container_id: str) -> None:
        """Stops noting packets; that nothing was noted is no error."""
        self.watch(container_id, ())

    def activity(self, container_id: str) -> Activity:
        """What has been noted since `watch`."""
        tag = _tag("watch", container_id)
        with closing(self._talk()) as conversation:
            operation = f"reading the activity of container {container_id}"
            found = nftables.rules(conversation, operation, nftables.probe().families)
        mine = _of(found, tag)
        idle = [rule.idle_ms for rule in mine if rule.idle_ms is not None]
        return Activity(sum(rule.packets for rule in mine), min(idle) / 1000 if idle else None, len(mine))

    def _change(
        self, operation: str, changes: Callable[[list[Rule]], Change], queue: HeldQueue | None = None
    ) -> None:
        """One batch, computed from the rules as they are; anew when another process was quicker.

        `queue`: closes what was used for it, some time later.
        """
        families = nftables.probe().families
        conversation = self._talk()
        try:
            for attempt in range(1, _TRIES + 1):
                removed, added = changes(nftables.rules(conversation, operation, families))
                requests = [*map(nftables.remove, removed), *added]
                if added and attempt > 1:
                    # Not at once: naming a chain that is there already costs the kernel a grace period.
                    requests = [
                        request for family in families for request in nftables.base(family)
                    ] + requests
                try:
                    conversation.batch(operation, requests)
                except GateError as error:
                    if error.errno == errno.ENOENT and attempt < _TRIES:
                        continue  # there is no chain yet, or a rule to be removed has gone
                    raise
                return
        finally:
            if queue is None:
                conversation.close()
            else:
                queue.close_with(conversation)

    def _talk(self) -> Conversation:
        return Conversation(
            netns.socket_in(self.netns, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        )


def _tag(kind: str, container_id: str) -> str:
    if not _CONTAINER_ID.fullmatch(container_id):
        raise GateError(
            f"tagging rules of container {ascii(container_id)[:100]}", errno.EINVAL, "it is no container id"
        )
    return f"{kind}:{container_id}"


def _of(rules: Iterable[Rule], tag: str) -> list[Rule]:
    """The rules with this tag, or one that begins with it."""
    return [rule for rule in rules if rule.tag == tag or rule.tag.startswith(f"{tag}:")]


def _tuple(local: Endpoint, remote: Endpoint) -> Tuple4:
    family = socket.AF_INET6 if ":" in local.address else socket.AF_INET
    try:
        source, target = (socket.inet_pton(family, end.address) for end in (remote, local))
    except OSError as error:
        raise GateError(
            f"gating a connection between {local} and {remote}", errno.EINVAL, "no such addresses"
        ) from error
    return Tuple4(source, remote.port, target, local.port)
