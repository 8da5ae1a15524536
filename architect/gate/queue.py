"""Held packets: one NFQUEUE of a pod's network namespace, and the netlink socket it belongs to.

The kernel keeps the packets and tells of each; whoever has the socket may read (any number of duplicates in
other processes) and release. A queue lives as long as its socket: it is the descriptor that must outlive a
process, and it dies with its last duplicate, which drops what is held. The traps:

- Verdicts count only from the port that bound the queue, that is from this socket or a duplicate.
- An answer may be read by another process that has a duplicate: after `open` none is asked for. The kernel
  has done what it was told when the sending returns.
- The id in a batch verdict is compared as a signed difference: the highest that means "all" is 0x7fffffff.

Source: include/uapi/linux/netfilter/nfnetlink_queue.h, net/netfilter/nfnetlink_queue.c.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from typing import Final, NamedTuple, Self

from architect.gate import netns
from architect.gate.errors import GateError
from architect.gate.netlink import (
    ACK,
    DEADLINE_SECONDS,
    NETLINK_NETFILTER,
    NO_ENOBUFS,
    SOL_NETLINK,
    Conversation,
    Request,
    attribute,
    error_of,
    messages,
    pack,
)

MAX_HELD: Final = 1 << 16
"""Packets that one queue holds; the kernel drops what comes on top (6.18 does so with any higher limit)."""

RECEIVE_BYTES: Final = 64 << 20
"""Receive buffer: MAX_HELD unread notices of 832 bytes (6.18), and some; used only while nobody reads."""

DRAIN_LIMIT: Final = 1024
"""Notices read by one `drain`: whoever floods a pod must not keep its reader from everything else."""

_SUBSYS: Final = 3 << 8
_PACKET, _CONFIG, _VERDICT_BATCH = (_SUBSYS | kind for kind in (0, 2, 3))
_BIND, _UNBIND = 1, 2
_COPY_META: Final = 1
_FLAG_GSO: Final = 4
_ACCEPT: Final = 1
_ALL: Final = 0x7FFFFFFF
_SO_RCVBUFFORCE: Final = 33
_SIOCGSKNS: Final = 0x894C
_NOTICE_BYTES: Final = 4096
_TYPE: Final = struct.Struct("=4xH")


class QueueStats(NamedTuple):
    """What the kernel says of a queue: packets held now, the number of the last one that came, and dropped
    ones.
    """

    held: int
    id_sequence: int
    dropped: int


class HeldQueue:
    """One queue. Whoever opened it unbinds it in `close`; for all others `close` gives up their duplicate."""

    __slots__ = ("_opened", "_socket", "_spent", "number")

    def __init__(self, sock: socket.socket, number: int, *, opened: bool) -> None:
        """Use `open` or `from_fd`."""
        self._socket = sock
        self._opened = opened
        self._spent: list[Conversation] = []
        self.number = number

    @classmethod
    def open(cls, namespace: str, number: int) -> Self:
        """Binds queue `number` in network namespace `namespace` (a path). Raises GateError (EBUSY: it is
        bound).
        """
        sock = netns.socket_in(namespace, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        try:
            sock.bind((0, 0))
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BYTES // 2)  # the kernel doubles it
            sock.setsockopt(SOL_NETLINK, NO_ENOBUFS, 1)
            _bind(sock, number)
        except OSError as error:
            sock.close()
            raise GateError(f"opening packet queue {number}", error.errno or errno.EIO) from error
        except GateError:
            sock.close()
            raise
        return cls(sock, number, opened=True)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """A queue from a duplicate of its socket, which it owns from here on. Raises GateError; `fd` is
        closed then.
        """
        sock = socket.socket(fileno=fd)
        try:
            if (sock.family, sock.proto) != (socket.AF_NETLINK, NETLINK_NETFILTER):
                raise GateError(
                    "taking over a packet queue", errno.EPROTOTYPE, "the descriptor is no netfilter socket"
                )
            return cls(sock, _row(sock).number, opened=False)
        except GateError:
            sock.close()
            raise

    def fileno(self) -> int:
        """The socket's descriptor: readable when a packet has come; pass it on with SCM_RIGHTS."""
        return self._socket.fileno()

    def drain(self) -> int:
        """Reads notices without waiting, at most DRAIN_LIMIT, and returns of how many packets. Raises
        GateError.
        """
        packets = 0
        buffer = bytearray(_NOTICE_BYTES)
        for _ in range(DRAIN_LIMIT):
            try:
                size, sender = self._socket.recvfrom_into(buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise GateError(
                        f"reading packet queue {self.number}", error.errno or errno.EIO
                    ) from error
                packets += 1  # notices were lost: there are packets
                continue
            # The kernel's only, one message each: a pod with CAP_NET_ADMIN may write to us. Refused verdicts
            # lie here, too.
            if sender[0] == 0 and size >= _TYPE.size and _TYPE.unpack_from(buffer)[0] == _PACKET:
                packets += 1
        return packets

    def stats(self) -> QueueStats:
        """The queue as it is now. Raises GateError (ENOENT: it is not bound any more)."""
        return _row(self._socket).stats

    def release(self) -> None:
        """Accepts every held packet, in order of arrival; none held is no error. Raises GateError."""
        verdict = attribute(2, struct.pack("!II", _ACCEPT, _ALL))  # NFQA_VERDICT_HDR
        self._send(Request(_VERDICT_BATCH, 0, 0, verdict, self.number), "releasing the packets of")

    def close_with(self, spent: Conversation) -> None:
        """Closes `spent` when this queue is closed, before what is held is released for the last time."""
        self._spent.append(spent)

    def close(self) -> None:
        """Releases what is held and unbinds, if we opened it; closes the socket. Closing twice is no error.

        Take the gate's rules away first: what a rule sends to a queue that is not bound is dropped. Within
        some 20 ms of that, closing waits until the kernel is done with the rules; later it takes no time.
        """
        if self._socket.fileno() < 0:
            return
        try:
            while self._spent:
                self._spent.pop().close()
            if self._opened:
                self.release()
                command = attribute(1, struct.pack("!BxH", _UNBIND, 0))
                self._send(Request(_CONFIG, 0, 0, command, self.number), "unbinding")
        finally:
            self._socket.close()

    def _send(self, request: Request, operation: str) -> None:
        try:
            self._socket.sendto(pack(request, 0), (0, 0))
        except OSError as error:
            raise GateError(f"{operation} packet queue {self.number}", error.errno or errno.EIO) from error


def _bind(sock: socket.socket, number: int) -> None:
    config = (
        attribute(1, struct.pack("!BxH", _BIND, 0))  # NFQA_CFG_CMD; the family has no meaning since Linux 3.8
        + attribute(2, struct.pack("!IB", 0, _COPY_META))  # NFQA_CFG_PARAMS; PACKET would copy whole packets
        + attribute(3, struct.pack("!I", MAX_HELD))  # NFQA_CFG_QUEUE_MAXLEN
        + attribute(4, struct.pack("!I", _FLAG_GSO))  # NFQA_CFG_MASK: which flags
        + attribute(5, struct.pack("!I", _FLAG_GSO))  # NFQA_CFG_FLAGS: never fail-open
    )
    sock.settimeout(DEADLINE_SECONDS)
    sock.sendto(pack(Request(_CONFIG, ACK, 0, config, number), 1), (0, 0))
    while True:
        data, sender = sock.recvfrom(_NOTICE_BYTES)
        # Rules that a dead shim left may queue packets to this number at once: their notices pass by here.
        for message in messages(data) if sender[0] == 0 else ():
            answer = error_of(message)
            if answer is not None:
                code, detail = answer
                if code in (
                    errno.EPERM,
                    errno.EBUSY,
                ):  # EPERM: the queue is another socket's; we may, see RCVBUFFORCE
                    cure = "it is bound already; end the process that has it, or take another number"
                    raise GateError(f"binding packet queue {number}", errno.EBUSY, cure=cure)
                if code:
                    raise GateError(f"binding packet queue {number}", code, detail)
                sock.settimeout(None)
                return


class _Row(NamedTuple):
    number: int
    stats: QueueStats


def _row(sock: socket.socket) -> _Row:
    """The line about this socket's queue in its namespace's list."""
    port = sock.getsockname()[0]
    try:
        # From the socket itself: its namespace may have no name any more, and a duplicate comes without one.
        namespace = fcntl.ioctl(sock.fileno(), _SIOCGSKNS)
    except OSError as error:
        raise GateError(
            "finding the network namespace of a packet queue", error.errno or errno.EIO
        ) from error
    try:
        table = netns.read_in(namespace, "netfilter/nfnetlink_queue")
    finally:
        os.close(namespace)
    return parse_row(table, port)


def parse_row(table: bytes, port: int) -> _Row:
    """The line about the queue of netlink port `port` in /proc/net/netfilter/nfnetlink_queue. Raises
    GateError.
    """
    for line in table.splitlines():
        # number, port, held, copy mode, copy range, dropped as too many, dropped as unreadable, last id, 1
        fields = line.split()
        try:
            values = [int(field) for field in fields]
        except ValueError:
            values = []
        if len(values) < 8:
            raise GateError("reading the list of packet queues", errno.EBADMSG, ascii(line[:80]))
        if values[1] == port:
            return _Row(values[0], QueueStats(values[2], values[7], values[5] + values[6]))
    raise GateError("looking for a packet queue", errno.ENOENT, cure="it was unbound: its gate is open")
