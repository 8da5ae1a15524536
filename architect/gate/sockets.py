"""What the sockets of a container hold and await, from /proc/<pid>/net/{tcp,tcp6,udp,udp6}.

Runs while a container is frozen, so it is quick: rows are read as text, and only a container's own are looked
at closely. A pod's containers share one network namespace; what is whose is told by the descriptors of the
processes. The kernel owns some rows that matter: connections nobody has accepted (no inode yet), told by the
port they came to.

The trap: IPv4 clients of an IPv6 socket stand in tcp6 as ::ffff:a.b.c.d, yet their packets are IPv4.
Addresses here are what the packets carry. Source: net/ipv4/tcp_ipv4.c (get_tcp4_sock and its neighbours),
net/ipv4/udp.c.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from architect.gate.errors import GateError
from architect.settings import Port

_ESTABLISHED, _SYN_RECV, _TIME_WAIT, _CLOSE, _CLOSE_WAIT, _LISTEN = 1, 3, 6, 7, 8, 10
_NO_CONNECTION: Final = frozenset({_TIME_WAIT, _CLOSE, _LISTEN})
_OPEN: Final = frozenset({_ESTABLISHED, _SYN_RECV, _CLOSE_WAIT})
_TABLES: Final = (("tcp", "TCP"), ("tcp6", "TCP"), ("udp", "UDP"), ("udp6", "UDP"))
_COUNTS: Final = {"tcp": ("sockstat", b"TCP: inuse 0 "), "tcp6": ("sockstat6", b"TCP6: inuse 0\n")}
_ADDRESS: Final = re.compile(r"(?:[0-9A-F]{8}|[0-9A-F]{32}):[0-9A-F]{4}")
_MAPPED: Final = bytes(10) + b"\xff\xff"
_GONE: Final = (FileNotFoundError, ProcessLookupError)


class Endpoint(NamedTuple):
    """One end of a connection; `address` as in packets: never an IPv4-mapped IPv6 one."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Row(NamedTuple):
    """One line of a table. `unread`: bytes; of a listening socket: connections not accepted. `inode` 0:
    nobody's.
    """

    protocol: str
    local: str
    remote: str
    state: int
    unread: int
    inode: int

    @property
    def port(self) -> int:
        """The local port."""
        return int(self.local[-4:], 16)


class Sockets:
    """A container's sockets at one moment."""

    __slots__ = ("_awaited", "_own", "_ports")

    def __init__(self, rows: Iterable[Row], inodes: Collection[int]) -> None:
        rows = list(rows)
        self._own = [row for row in rows if row.inode in inodes]
        self._ports = {row.port for row in self._own if row.protocol == "TCP" and row.state == _LISTEN}
        # Connections on their way to one of our listeners: half open, or whole and not accepted.
        self._awaited = [
            row for row in rows if row.inode == 0 and row.state in _OPEN and row.port in self._ports
        ]

    def listening(self) -> list[Port]:
        """Ports that something may come to: of listening TCP sockets, and of every bound UDP socket."""
        udp = {row.port for row in self._own if row.protocol == "UDP"}
        return sorted(
            {*(Port(port, "TCP") for port in self._ports), *(Port(port, "UDP") for port in udp if port)}
        )

    def connections(self) -> list[tuple[Endpoint, Endpoint]]:
        """The TCP connections, opened from either side, in whatever state of closing: (local, remote)."""
        return [
            (_endpoint(row.local), _endpoint(row.remote))
            for row in self._own
            if row.protocol == "TCP" and row.state not in _NO_CONNECTION
        ]

    def unread(self) -> str | None:
        """The first thing that has come and has not been taken, as a sentence; None when there is nothing."""
        for row in self._own:
            if row.unread and row.protocol == "UDP":
                return f"a datagram lies unread on UDP port {row.port}"
            if row.unread and row.state == _LISTEN:
                return f"a connection to TCP port {row.port} has not been accepted"
            # The end of a stream counts as one byte. Alone it asks for nothing: the other side has left, and
            # programs that keep connections in stock may not look for hours.
            if row.unread > (row.state == _CLOSE_WAIT) and row.state != _LISTEN:
                return (
                    f"{row.unread} bytes from {_endpoint(row.remote)} lie unread on the connection "
                    f"to {_endpoint(row.local)}"
                )
        for row in self._awaited:
            what = "is half open" if row.state == _SYN_RECV else "has not been accepted"
            return f"a connection from {_endpoint(row.remote)} to TCP port {row.port} {what}"
        return None

    def open_connections(self) -> dict[int, int]:
        """How many connections are open per listening TCP port, those not accepted yet included; never a
        zero.
        """
        counts: dict[int, int] = {}
        for row in (*self._own, *self._awaited):
            if row.protocol == "TCP" and row.state in _OPEN and row.port in self._ports:
                counts[row.port] = counts.get(row.port, 0) + 1
        return counts


def snapshot(pids: Collection[int]) -> Sockets:
    """The sockets of these processes, which share a network namespace. Processes that have ended are passed
    over.

    Raises GateError when the kernel's tables can not be read.
    """
    inodes: set[int] = set()
    for pid in pids:
        inodes |= _inodes(pid)
    # After the descriptors: what is opened in between belongs to nobody here, and is found the next time.
    for pid in pids:
        try:
            return Sockets(_rows(pid), inodes)
        except _GONE:
            continue
    return Sockets((), ())


def open_connections(pid: int, without: int = 0) -> dict[int, int]:
    """How many TCP connections are open per local port in the network namespace of `pid`, whoever they belong
    to, but those whose other end is a socket of process `without` (its shim, that passes probes on).

    Cheap: of `pid` no descriptor is looked at. Raises GateError; ESRCH when the process has ended.
    """
    theirs = _inodes(without) if without else set()
    try:
        rows = [row for row in _rows(pid) if row.protocol == "TCP" and row.state not in _NO_CONNECTION]
    except _GONE as error:
        raise GateError(f"counting the connections of process {pid}", errno.ESRCH) from error
    if without:  # once more: what was opened meanwhile is in the rows already
        theirs |= _inodes(without)
    # By endpoint: one end may be an IPv6 socket that speaks IPv4, the other an IPv4 one.
    far_ends = {(_endpoint(row.remote), _endpoint(row.local)) for row in rows if row.inode in theirs}
    counts: dict[int, int] = {}
    for row in rows:
        ends = _endpoint(row.local), _endpoint(row.remote)
        if row.state in _OPEN and not (far_ends and ends in far_ends):
            counts[row.port] = counts.get(row.port, 0) + 1
    return counts


def parse_table(table: bytes, protocol: str) -> list[Row]:
    """The rows of one of the files. Raises GateError (EBADMSG), whatever the bytes."""
    rows: list[Row] = []
    for line in table.decode("ascii", "replace").splitlines()[1:]:
        # slot, local, remote, state, sending:receiving, timer, retransmits, uid, timeout, inode
        fields = line.split(maxsplit=10)
        try:
            local, remote, state, queues, inode = fields[1], fields[2], fields[3], fields[4], fields[9]
            if not (_ADDRESS.fullmatch(local) and _ADDRESS.fullmatch(remote)):
                raise ValueError
            row = Row(protocol, local, remote, int(state, 16), int(queues.partition(":")[2], 16), int(inode))
        except (IndexError, ValueError):
            raise GateError(f"reading the {protocol} sockets", errno.EBADMSG, ascii(line[:120])) from None
        rows.append(row)
    return rows


def _rows(pid: int) -> list[Row]:
    rows: list[Row] = []
    for name, protocol in _TABLES:
        try:
            if name in _COUNTS:
                # Listing TCP sockets walks the whole node's table, a millisecond or two per family, and most
                # pods use one.
                summary, none = _COUNTS[name]
                if none in _read(pid, summary):
                    continue
            rows += parse_table(_read(pid, name), protocol)
        except FileNotFoundError:
            if not name.endswith("6") or not os.path.exists(f"/proc/{pid}/net/tcp"):
                raise
            # A kernel without IPv6.
    return rows


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/net/{name}", "rb", buffering=0) as file:
            return file.readall()
    except _GONE:
        raise
    except OSError as error:
        raise GateError(f"reading the sockets of process {pid}", error.errno or errno.EIO) from error


def _inodes(pid: int) -> set[int]:
    """The inodes of the sockets that a process has open; none when it has ended."""
    found: set[int] = set()
    try:
        directory = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except _GONE:
        return found
    except OSError as error:
        raise GateError(f"reading the descriptors of process {pid}", error.errno or errno.EIO) from error
    try:
        for name in os.listdir(directory):
            try:
                target = os.readlink(name, dir_fd=directory)
            except _GONE:
                continue
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
    except _GONE:
        pass  # it ended while we looked
    finally:
        os.close(directory)
    return found


def _endpoint(text: str) -> Endpoint:
    """From hexadecimal: the address in words of four bytes, each in the machine's own order; the port."""
    address, _, port = text.partition(":")
    words = (int(address[start : start + 8], 16) for start in range(0, len(address), 8))
    raw = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    if len(raw) == 16 and raw.startswith(_MAPPED):
        raw = raw[12:]
    return Endpoint(
        socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw), int(port, 16)
    )
