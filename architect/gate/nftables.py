"""The rules in a pod's network namespace, as nf_tables netlink requests, and what this kernel can do.

Per family one table `architect` with one base chain `prerouting` before connection tracking and before the
kernel looks for a socket: a packet queued later would carry a reference to the socket that a dump then
closes. Every rule carries a tag in its user data, so that any process at any time knows what is whose:

    watch:<container>:<TCP|UDP>:<port>    notes packets (counter, last)
    gate:<container>:<TCP|UDP>:<port>     queues the packets to a port
    gate:<container>                      queues the packets of one established TCP connection

The trap: table and chain stay for good. Unregistering a netfilter hook drops every queued packet of the
namespace. Source: include/uapi/linux/netfilter/nf_tables.h, nf_tables_compat.h and xt_NFQUEUE.h.
"""

from __future__ import annotations

import errno
import functools
import socket
import struct
from collections.abc import Collection, Iterable
from contextlib import closing
from typing import Final, NamedTuple

from architect.gate import netns
from architect.gate.errors import GateError
from architect.gate.netlink import (
    APPEND,
    CREATE,
    NETLINK_NETFILTER,
    Conversation,
    Message,
    Request,
    attribute,
    attribute_list,
    attributes,
    nested,
    number,
    split_body,
)
from architect.settings import Port

TABLE: Final = b"architect\0"
CHAIN: Final = b"prerouting\0"
MARK: Final = 0x41726368
"""The socket mark (SO_MARK) of a shim's own connections to an application: neither noted nor queued.

Marks do not cross network namespaces: in a pod it comes from its shim, or from who may set up its network.
"""
INET, IPV4, IPV6 = 1, 2, 10
"""Families of tables, NFPROTO_*; rules in INET see both of the others' packets."""

_WHERE: Final = attribute(1, TABLE) + attribute(2, CHAIN)
_SUBSYS: Final = 10 << 8
_NEWTABLE, _NEWCHAIN, _NEWRULE, _GETRULE, _DELRULE = (_SUBSYS | kind for kind in (0, 3, 6, 7, 8))
_HOOK_PREROUTING, _PRIORITY_RAW = 0, -300
_REGISTER: Final = struct.pack("!I", 1)  # NFT_REG_1, 16 bytes
_META_MARK, _META_NFPROTO, _META_L4PROTO = 3, 15, 16
_NETWORK, _TRANSPORT = 1, 2  # bases of a payload expression
_ADDRESSES: Final = {
    IPV4: (12, 4),
    IPV6: (8, 16),
}  # where the source address is in the header, and its length
_PROTOCOLS: Final = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP}
_NFQUEUE_REVISION: Final = 1
_COMMENT: Final = 0  # the type of a comment in nft's user data: `nft list ruleset` shows our tags


class Means(NamedTuple):
    """What this kernel offers: the families to put rules in, the `queue` expression (else xtables' NFQUEUE
    target), and the `last` expression.
    """

    families: tuple[int, ...]
    native_queue: bool
    last: bool


class Rule(NamedTuple):
    """One of our rules as the kernel has it. `idle_ms`: since its last packet; None: none, or not known."""

    family: int
    handle: int
    tag: str
    packets: int
    idle_ms: int | None


class Tuple4(NamedTuple):
    """A TCP connection as its incoming packets show it; addresses in network order, 4 or 16 bytes."""

    source: bytes
    source_port: int
    target: bytes
    target_port: int


# ---- what to send


def base(family: int) -> list[Request]:
    """Makes the table and the chain of a family; both may be there already."""
    hook = nested(
        4,  # NFTA_CHAIN_HOOK
        attribute(1, struct.pack("!I", _HOOK_PREROUTING)),
        attribute(2, struct.pack("!i", _PRIORITY_RAW)),
    )
    chain = attribute(1, TABLE) + attribute(3, CHAIN) + hook + attribute(7, b"filter\0")
    return [
        Request(_NEWTABLE, CREATE, family, attribute(1, TABLE)),
        Request(_NEWCHAIN, CREATE, family, chain),
    ]


def add_watch(family: int, tag: str, port: Port, *, last: bool) -> Request:
    """Notes packets to a port; stands before every gate rule, so that held packets are noted, too."""
    note = [_expression("counter"), *([_expression("last")] if last else [])]
    return _add(family, tag, [*_to_port(port), *_not_ours(), *note], flags=0)


def add_gate(family: int, tag: str, port: Port, queue: int, *, native: bool) -> Request:
    """Queues packets to a port. There is no bypass: with nobody bound to the queue they are dropped, and sent
    again.
    """
    return _add(family, tag, [*_to_port(port), *_not_ours(), _verdict(queue, native=native)], flags=APPEND)


def add_tuple_gate(family: int, tag: str, connection: Tuple4, queue: int, *, native: bool) -> Request:
    """Queues the incoming packets of one TCP connection."""
    kind = IPV4 if len(connection.target) == 4 else IPV6
    offset, length = _ADDRESSES[kind]
    ports = struct.pack("!HH", connection.source_port, connection.target_port)
    match = [
        *_meta(_META_NFPROTO, kind),
        *_meta(_META_L4PROTO, socket.IPPROTO_TCP),
        *_payload(_TRANSPORT, 0, ports),
        *_payload(_NETWORK, offset, connection.source),
        *_payload(_NETWORK, offset + length, connection.target),
    ]
    return _add(family, tag, [*match, *_not_ours(), _verdict(queue, native=native)], flags=APPEND)


def remove(rule: Rule) -> Request:
    """Removes one rule, by handle."""
    return Request(_DELRULE, 0, rule.family, _WHERE + attribute(3, struct.pack("!Q", rule.handle)))


def _add(family: int, tag: str, expressions: Iterable[bytes], *, flags: int) -> Request:
    comment = tag.encode("ascii") + b"\0"
    attributes_ = _WHERE + nested(4, *expressions) + attribute(7, bytes((_COMMENT, len(comment))), comment)
    return Request(_NEWRULE, CREATE | flags, family, attributes_)


def _expression(name: str, *parts: bytes) -> bytes:
    data = nested(2, *parts) if parts else b""
    return nested(1, attribute(1, name.encode("ascii"), b"\0"), data)


@functools.cache
def _meta(key: int, value: int) -> tuple[bytes, ...]:
    load = _expression("meta", attribute(2, struct.pack("!I", key)), attribute(1, _REGISTER))
    return load, _equals(bytes((value,)))


@functools.cache
def _not_ours() -> tuple[bytes, ...]:
    load = _expression("meta", attribute(2, struct.pack("!I", _META_MARK)), attribute(1, _REGISTER))
    return load, _compare(1, struct.pack("=I", MARK))  # a mark is in the machine's own order


def _payload(header: int, offset: int, value: bytes) -> tuple[bytes, ...]:
    return _load(header, offset, len(value)), _equals(value)


@functools.cache
def _load(header: int, offset: int, length: int) -> bytes:
    where = (attribute(key, struct.pack("!I", what)) for key, what in ((2, header), (3, offset), (4, length)))
    return _expression("payload", attribute(1, _REGISTER), *where)


def _equals(value: bytes) -> bytes:
    return _compare(0, value)


def _compare(how: int, value: bytes) -> bytes:
    operator = attribute(2, struct.pack("!I", how))  # NFT_CMP_EQ is 0, NFT_CMP_NEQ is 1
    return _expression("cmp", attribute(1, _REGISTER), operator, nested(3, attribute(1, value)))


def _to_port(port: Port) -> list[bytes]:
    # Later fragments of a datagram have no ports and pass; the kernel keeps them for the first one, half a
    # minute long.
    return [
        *_meta(_META_L4PROTO, _PROTOCOLS[port.protocol]),
        *_payload(_TRANSPORT, 2, struct.pack("!H", port.number)),
    ]


@functools.lru_cache(maxsize=16)
def _verdict(queue: int, *, native: bool) -> bytes:
    if native:
        return _expression(
            "queue", attribute(1, struct.pack("!H", queue)), attribute(2, struct.pack("!H", 1))
        )
    info = struct.pack("=HH4x", queue, 1)  # struct xt_NFQ_info_v1, padded to eight bytes as xtables asks
    revision = struct.pack("!I", _NFQUEUE_REVISION)
    return _expression("target", attribute(1, b"NFQUEUE\0"), attribute(2, revision), attribute(3, info))


# ---- what comes back


def rules(conversation: Conversation, operation: str, families: Iterable[int]) -> list[Rule]:
    """The rules of our chains in these families; none where there is no table. Raises GateError."""
    found: list[Rule] = []
    for family in families:  # one by one: a dump of all families ends with the first table of the name
        try:
            dumped = conversation.dump(operation, _GETRULE, family, _WHERE)
        except GateError as error:
            if error.errno == errno.ENOENT:
                continue
            raise
        found += [rule for message in dumped if (rule := parse_rule(message)) is not None]
    return found


def parse_rule(message: Message) -> Rule | None:
    """One rule of a dump; None: it is not ours. Raises GateError (EBADMSG), whatever the bytes."""
    if message.kind != _NEWRULE:
        return None
    family, rest = split_body(message.body)
    found = attributes(rest)
    if (found.get(1), found.get(2)) != (TABLE, CHAIN):
        return None
    tag = _tag(found.get(7, b""))
    if tag is None:
        return None
    packets, idle_ms = 0, None
    # Gates count nothing, and there may be thousands.
    elements = attribute_list(found.get(4, b"")) if tag.startswith("watch:") else ()
    for _, element in elements:
        expression = attributes(element)
        data = attributes(expression.get(2, b""))
        if expression.get(1) == b"counter\0":
            packets = number(data.get(2), 8, "a counter")
        elif expression.get(1) == b"last\0" and number(data.get(1), 4, "a last expression"):
            idle_ms = number(data.get(2), 8, "the time of a last expression")
    return Rule(family, number(found.get(3), 8, "a rule's handle"), tag, packets, idle_ms)


def _tag(user_data: bytes) -> str | None:
    """The comment in nft's user data: type, length, text, NUL."""
    if len(user_data) < 3 or user_data[0] != _COMMENT or user_data[1] != len(user_data) - 2:
        return None
    try:
        return user_data[2:].rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        return None


# ---- what the kernel can do


@functools.cache
def probe() -> Means:
    """What this kernel offers, found by trying it in a network namespace made for that; asked once per
    process.

    Raises GateError when it can not hold packets at all, naming what is missing.
    """
    reasons: list[str] = []
    with netns.scratch(), closing(Conversation(_here())) as conversation:
        for families in ((INET,), (IPV4, IPV6)):
            for native in (True, False):
                try:
                    _try_queue(conversation, families, native=native)
                except GateError as error:
                    reasons.append(str(error))
                    continue
                return Means(families, native, _has_last(conversation, families[0]))
    raise GateError(
        "looking for a way to hold packets", errno.EOPNOTSUPP, "; ".join(reasons),
        cure="the kernel needs nf_tables, nfnetlink_queue and either nft_queue or nft_compat with xt_NFQUEUE",
    )  # fmt: skip


def _try_queue(conversation: Conversation, families: Collection[int], *, native: bool) -> None:
    way = "queue expression" if native else "NFQUEUE target"
    requests: list[Request] = []
    for family in families:
        requests += base(family)
        requests.append(add_gate(family, "gate:probe", Port(1, "TCP"), 1, native=native))
    conversation.batch(f"trying the {way} in {'one table' if len(families) == 1 else 'two tables'}", requests)


def _has_last(conversation: Conversation, family: int) -> bool:
    try:
        rule = add_watch(family, "watch:probe", Port(1, "TCP"), last=True)
        conversation.batch("trying the last expression", [rule])
    except GateError as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            return False
        raise
    return True


def _here() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
