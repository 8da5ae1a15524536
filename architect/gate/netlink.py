"""Netlink messages to and from netfilter: building, total parsing, acknowledged batches, dumps.

Knows headers and attributes and nothing of what they mean: that is nftables.py and queue.py. One short-lived
socket per conversation, on which only the kernel is listened to. Sources: include/uapi/linux/netlink.h,
include/uapi/linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from architect.gate.errors import GateError

NETLINK_NETFILTER: Final = 12
REQUEST, ACK, DUMP, CREATE, APPEND = 0x1, 0x4, 0x300, 0x400, 0x800
NESTED: Final = 0x8000  # NLA_F_NESTED
DEADLINE_SECONDS: Final = 5.0

_ERROR, _DONE = 2, 3  # message types
_DUMP_INTERRUPTED: Final = 0x10
_ACK_TLVS: Final = 0x200
_CAPPED: Final = 0x100
_MESSAGE_TEXT: Final = 1  # NLMSGERR_ATTR_MSG
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_SUBSYS_NFTABLES: Final = 10
SOL_NETLINK, NO_ENOBUFS, _CAP_ACK, _EXT_ACK = 270, 5, 10, 11
_SO_SNDBUFFORCE: Final = 32
_RECEIVE_BYTES: Final = 1 << 16  # above the 32 KiB that the kernel puts into one part of a dump
_DUMP_TRIES: Final = 5

_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_NFGEN: Final = struct.Struct("!BBH")  # family, version, resource id
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_CODE: Final = struct.Struct("=i")


class Message(NamedTuple):
    """One message as received; `body` is what follows the netlink header."""

    kind: int
    flags: int
    sequence: int
    body: bytes


class Request(NamedTuple):
    """One message to send. `kind` holds the subsystem in its high byte."""

    kind: int
    flags: int
    family: int
    attributes: bytes
    resource: int = 0


def attribute(number: int, *payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    data = b"".join(payload)
    return _ATTRIBUTE.pack(4 + len(data), number) + data + bytes(-len(data) % 4)


def nested(number: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(number | NESTED, *parts)


def pack(request: Request, sequence: int) -> bytes:
    """The bytes of a request."""
    length = _HEADER.size + _NFGEN.size + len(request.attributes)
    return (
        _HEADER.pack(length, request.kind, request.flags | REQUEST, sequence, 0)
        + _NFGEN.pack(request.family, 0, request.resource)
        + request.attributes
    )


def messages(data: bytes) -> list[Message]:
    """The messages in one received buffer. Raises GateError (EBADMSG), whatever the bytes."""
    found: list[Message] = []
    pos, size = 0, len(data)
    while pos < size:
        if size - pos < _HEADER.size:
            raise _malformed(f"{size - pos} bytes where a message begins")
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, pos)
        if not _HEADER.size <= length <= size - pos:
            raise _malformed(f"a message of {length} bytes in {size - pos}")
        found.append(Message(kind, flags, sequence, data[pos + _HEADER.size : pos + length]))
        pos += length + -length % 4
    return found


def attribute_list(data: bytes) -> list[tuple[int, bytes]]:
    """The attributes in `data`, in order, their flags taken off. Raises GateError (EBADMSG), whatever the
    bytes.
    """
    found: list[tuple[int, bytes]] = []
    pos, size = 0, len(data)
    while pos < size:
        if size - pos < _ATTRIBUTE.size:
            raise _malformed(f"{size - pos} bytes where an attribute begins")
        length, number = _ATTRIBUTE.unpack_from(data, pos)
        if not _ATTRIBUTE.size <= length <= size - pos:
            raise _malformed(f"an attribute of {length} bytes in {size - pos}")
        found.append((number & 0x3FFF, data[pos + _ATTRIBUTE.size : pos + length]))
        pos += length + -length % 4
    return found


def attributes(data: bytes) -> dict[int, bytes]:
    """As attribute_list, by number; of a repeated one the last counts, as in the kernel."""
    return dict(attribute_list(data))


def number(data: bytes | None, size: int, what: str) -> int:
    """The big-endian number of `size` bytes that attribute `what` holds. Raises GateError (EBADMSG)."""
    if data is None or len(data) != size:
        raise _malformed(f"{what} is {'missing' if data is None else f'{len(data)} bytes long'}")
    return int.from_bytes(data, "big")


def split_body(body: bytes) -> tuple[int, bytes]:
    """The family and the attributes of a netfilter message's body. Raises GateError (EBADMSG)."""
    if len(body) < _NFGEN.size:
        raise _malformed(f"a body of {len(body)} bytes")
    return body[0], body[_NFGEN.size :]


def error_of(message: Message) -> tuple[int, str] | None:
    """The errno (0: acknowledged) and the kernel's sentence if this is an answer of that kind, else None.

    Raises GateError (EBADMSG).
    """
    if message.kind not in (_ERROR, _DONE):
        return None
    if len(message.body) < _CODE.size:
        if message.kind == _DONE:
            return 0, ""
        raise _malformed(f"an error of {len(message.body)} bytes")
    code = -_CODE.unpack_from(message.body)[0]
    if not 0 <= code < 4096:  # MAX_ERRNO; the end of a dump carries a count or zero on some kernels
        code = 0 if message.kind == _DONE else errno.EBADMSG
    return code, _sentence(message) if message.flags & _ACK_TLVS else ""


def _sentence(message: Message) -> str:
    if message.kind == _DONE:
        rest = message.body[_CODE.size :]
    else:
        offset = _CODE.size + _HEADER.size
        if len(message.body) < offset:
            raise _malformed(f"an error of {len(message.body)} bytes")
        if not message.flags & _CAPPED:  # then the whole request is repeated, not only its header
            length = _HEADER.unpack_from(message.body, _CODE.size)[0]
            offset = _CODE.size + length + -length % 4
        rest = message.body[offset:]
    text = attributes(rest).get(_MESSAGE_TEXT, b"")
    return text.rstrip(b"\0").decode("ascii", "replace")


class Conversation:
    """Requests to netfilter over one socket, which it owns and closes. Every wait ends after
    DEADLINE_SECONDS.
    """

    __slots__ = ("_sequence", "_socket")

    def __init__(self, sock: socket.socket) -> None:
        """`sock`: an AF_NETLINK socket of the namespace that is meant, not bound yet."""
        self._socket = sock
        self._sequence = 0
        try:
            sock.settimeout(DEADLINE_SECONDS)
            sock.bind((0, 0))
            sock.setsockopt(SOL_NETLINK, _EXT_ACK, 1)
            sock.setsockopt(SOL_NETLINK, _CAP_ACK, 1)
            # Only a long list of errors overflows the receive buffer, and the first one is all we report.
            sock.setsockopt(SOL_NETLINK, NO_ENOBUFS, 1)
        except OSError as error:
            sock.close()
            raise GateError("preparing a netlink socket", error.errno or errno.EIO) from error

    def close(self) -> None:
        """Closes the socket. The kernel (seen on Linux 6.18) lets no netfilter socket of a namespace go
        before no packet can see any more what was removed there: 8 to 20 ms after a removal.
        """
        self._socket.close()

    def batch(self, operation: str, requests: Sequence[Request]) -> None:
        """Carries out all of `requests` (nf_tables) or none. Raises GateError with the first error."""
        if not requests:
            return
        first = self._sequence + 1
        parts = [pack(Request(_BATCH_BEGIN, 0, 0, b"", _SUBSYS_NFTABLES), first)]
        last = first + len(requests)
        for sequence, request in enumerate(requests, first + 1):
            wanted = request._replace(flags=request.flags | ACK) if sequence == last else request
            parts.append(pack(wanted, sequence))
        self._sequence = last + 1
        parts.append(pack(Request(_BATCH_END, 0, 0, b"", _SUBSYS_NFTABLES), self._sequence))
        self._send(operation, b"".join(parts))
        # One answer is certain: the last request's, or the error that ended it all. It stands in our buffer
        # already, since the kernel works while we send. Whatever was wrong first comes first.
        while True:
            for message in self._receive(operation):
                answer = error_of(message)
                if answer is not None and first <= message.sequence <= self._sequence:
                    if answer[0]:
                        self._discard()
                        raise GateError(operation, *answer)
                    if message.sequence == last:
                        return

    def dump(self, operation: str, kind: int, family: int, attributes_: bytes) -> list[Message]:
        """All objects of a kind in a family, as of one moment. Raises GateError."""
        for _ in range(_DUMP_TRIES):
            found = self._dump_once(operation, Request(kind, DUMP, family, attributes_))
            if found is not None:
                return found
        raise GateError(operation, errno.EINTR, "the rules change all the time", cure="find who changes them")

    def _dump_once(self, operation: str, request: Request) -> list[Message] | None:
        """None: something changed while the kernel was listing."""
        self._sequence += 1
        sequence = self._sequence
        self._send(operation, pack(request, sequence))
        found: list[Message] = []
        whole = True
        while True:
            for message in self._receive(operation):
                if message.sequence != sequence:
                    continue
                whole = whole and not message.flags & _DUMP_INTERRUPTED
                answer = error_of(message)
                if answer is None:
                    found.append(message)
                elif answer[0]:
                    raise GateError(operation, *answer)
                else:
                    return found if whole else None

    def _send(self, operation: str, data: bytes) -> None:
        try:
            if len(data) > 100_000:  # the default send buffer takes no message longer than itself
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(data))
            self._socket.sendto(data, (0, 0))
        except OSError as error:
            raise _failed(operation, error) from error

    def _discard(self) -> None:
        """Throws away what has been answered already: every request of a batch may have been wrong."""
        self._socket.settimeout(0)  # with another timeout Python waits for it, whatever the flags say
        try:
            while True:
                self._socket.recv(1)
        except BlockingIOError:
            self._socket.settimeout(DEADLINE_SECONDS)

    def _receive(self, operation: str) -> list[Message]:
        try:
            while True:
                data, _, flags, sender = self._socket.recvmsg(_RECEIVE_BYTES)
                if flags & socket.MSG_TRUNC:
                    raise _malformed("an answer longer than any")
                if sender[0] == 0:  # anybody with CAP_NET_ADMIN in this namespace can write to us
                    return messages(data)
        except OSError as error:
            raise _failed(operation, error) from error


def _failed(operation: str, error: OSError) -> GateError:
    code = errno.ETIMEDOUT if isinstance(error, TimeoutError) else error.errno or errno.EIO
    return GateError(operation, code)


def _malformed(what: str) -> GateError:
    return GateError("reading netfilter's answer", errno.EBADMSG, what)
