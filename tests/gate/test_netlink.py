"""Netlink answers: read to the end, or refused; never an accident."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.gate import GateError, Port, nftables
from architect.gate.netlink import (
    Conversation,
    Message,
    Request,
    attribute,
    attribute_list,
    error_of,
    messages,
    nested,
    pack,
    split_body,
)
from architect.gate.netns import scratch, socket_in
from architect.gate.nftables import INET, parse_rule
from architect.gate.queue import parse_row
from tests.gate.conftest import Wire, closed

NEWRULE = 10 << 8 | 6


def _rule(*parts: bytes) -> Message:
    tag = b"watch:c:TCP:80\0"
    body = struct.pack("!BBH", INET, 0, 0) + attribute(1, nftables.TABLE) + attribute(2, nftables.CHAIN)
    body += attribute(3, struct.pack("!Q", 9)) + attribute(7, bytes((0, len(tag))), tag)
    return Message(NEWRULE, 0, 1, body + b"".join(parts))


def _expression(name: bytes, *parts: bytes) -> bytes:
    return nested(1, attribute(1, name), nested(2, *parts))


def test_a_rule_is_read() -> None:
    counter = _expression(b"counter\0", attribute(1, bytes(8)), attribute(2, struct.pack("!Q", 5)))
    last = _expression(b"last\0", attribute(1, struct.pack("!I", 1)), attribute(2, struct.pack("!Q", 1500)))
    assert parse_rule(_rule(nested(4, counter, last))) == (INET, 9, "watch:c:TCP:80", 5, 1500)


def test_a_last_expression_that_saw_nothing_has_no_time() -> None:
    last = _expression(b"last\0", attribute(1, bytes(4)), attribute(2, bytes(8)))
    rule = parse_rule(_rule(nested(4, last)))
    assert rule is not None
    assert rule.idle_ms is None


@pytest.mark.parametrize(
    "expression",
    [
        pytest.param(_expression(b"counter\0"), id="a counter without packets"),
        pytest.param(_expression(b"counter\0", attribute(2, b"abc")), id="a counter of three bytes"),
        pytest.param(_expression(b"last\0", attribute(1, b"\0\0\0\1")), id="a last without a time"),
        pytest.param(b"\x02\0\0\0", id="an attribute shorter than its header"),
        pytest.param(b"\xff\xff\0\0", id="an attribute longer than all"),
        pytest.param(b"\x04", id="a single byte"),
    ],
)
def test_a_rule_that_is_none_is_refused(expression: bytes) -> None:
    with pytest.raises(GateError) as raised:
        parse_rule(_rule(nested(4, expression)))
    assert raised.value.errno == errno.EBADMSG


def test_rules_of_others_are_passed_over() -> None:
    body = struct.pack("!BBH", INET, 0, 0) + attribute(1, b"filter\0") + attribute(2, b"input\0")
    assert parse_rule(Message(NEWRULE, 0, 1, body)) is None
    assert parse_rule(Message(3, 0, 1, b"")) is None
    untagged = struct.pack("!BBH", INET, 0, 0) + attribute(1, nftables.TABLE) + attribute(2, nftables.CHAIN)
    assert parse_rule(Message(NEWRULE, 0, 1, untagged + attribute(7, b"\0\xff\xff\xff"))) is None
    assert parse_rule(Message(NEWRULE, 0, 1, untagged + attribute(7, b"\0\x03\xff\xff\0"))) is None


@given(st.binary(max_size=300))
def test_whatever_the_bytes_they_are_messages_or_refused(data: bytes) -> None:
    for message in _total(lambda: messages(data), errno.EBADMSG) or ():
        _read(message)


@given(st.sampled_from([2, 3, NEWRULE]), st.integers(0, 0xFFFF), st.binary(max_size=200))
def test_whatever_a_message_holds_it_is_read_or_refused(kind: int, flags: int, body: bytes) -> None:
    _read(Message(kind, flags, 1, body))


@given(st.binary(max_size=200))
def test_whatever_a_rule_holds_it_is_read_or_refused(data: bytes) -> None:
    _read(_rule(data))
    _read(_rule(nested(4, data)))
    _read(_rule(nested(4, _expression(b"counter\0", data), _expression(b"last\0", data))))
    _read(_rule(attribute(7, data)))


def _read(message: Message) -> None:
    _total(lambda: error_of(message), errno.EBADMSG)
    _total(lambda: parse_rule(message), errno.EBADMSG)
    _total(lambda: attribute_list(split_body(message.body)[1]), errno.EBADMSG)


def _total[T](read: Callable[[], T], *codes: int) -> T | None:
    """What `read` returns, None when it refuses with one of `codes`; anything else fails the test."""
    try:
        return read()
    except GateError as error:
        if error.errno in codes:
            return None
        raise


@given(st.binary(max_size=200), st.integers(0, 100))
def test_whatever_the_list_of_queues_says_it_is_read_or_refused(data: bytes, port: int) -> None:
    _total(lambda: parse_row(data, port), errno.EBADMSG, errno.ENOENT)


def test_the_list_of_queues_is_read() -> None:
    table = b"    1   4711     3 1     0     2     1       12  1\n65535 4294967295 0 1 0 0 0 4294967295 1\n"
    assert parse_row(table, 4711) == (1, (3, 12, 3))
    assert parse_row(table, 4294967295) == (65535, (0, 4294967295, 0))


def test_what_is_packed_is_read_back() -> None:
    data = pack(Request(NEWRULE, 0x400, INET, attribute(1, b"abc") + nested(2, attribute(3, b"x")), 7), 5)
    (message,) = messages(data)
    assert (message.kind, message.flags, message.sequence) == (NEWRULE, 0x401, 5)
    family, rest = split_body(message.body)
    assert family == INET
    assert attribute_list(rest) == [(1, b"abc"), (2, attribute(3, b"x"))]


# ---- against the kernel


@pytest.mark.root
def test_a_batch_with_one_wrong_request_changes_nothing_and_tells_the_kernels_reason(wire: Wire) -> None:
    with closing(Conversation(socket_in(wire.pod.path, socket.AF_NETLINK, socket.SOCK_RAW, 12))) as talk:
        wrong = Request(NEWRULE, 0x400, INET, attribute(1, nftables.TABLE) + attribute(2, b"nosuch\0"))
        add = nftables.add_watch(INET, "watch:c:TCP:80", Port(80, "TCP"), last=True)
        with pytest.raises(GateError, match="trying it") as raised:
            talk.batch("trying it", [*nftables.base(INET), add, wrong, add])
        assert raised.value.errno == errno.ENOENT
        assert nftables.rules(talk, "reading", [INET]) == []
        # The conversation goes on: what was answered late is not taken for the next answer.
        talk.batch("doing it", [*nftables.base(INET), add])
        assert [rule.tag for rule in nftables.rules(talk, "reading", [INET])] == ["watch:c:TCP:80"]


@pytest.mark.root
def test_a_dump_of_many_parts_is_whole(wire: Wire) -> None:
    ports = [Port(number, "TCP") for number in range(1, 1001)]
    wire.gate.watch("c", ports)
    assert wire.gate.activity("c").rules == 1000
    wire.gate.unwatch("c")
    assert wire.gate.activity("c").rules == 0


@pytest.mark.root
def test_nothing_that_a_pod_writes_to_our_socket_is_believed(wire: Wire) -> None:
    with closed(wire.gate, Port(8080, "TCP")) as queue:
        port = socket.socket(fileno=os.dup(queue.fileno()))
        with port, socket_in(wire.pod.path, socket.AF_NETLINK, socket.SOCK_RAW, 12) as forger:
            forged = struct.pack("=IHHII", 36, 3 << 8, 0, 0, 0) + bytes(20)
            forger.sendto(forged, (port.getsockname()[0], 0))
        assert queue.drain() == 0
        wire.gate.open("c0ffee" * 10, queue)


@pytest.mark.root
def test_the_probe_finds_a_way_and_ends_where_it_began() -> None:
    before = os.stat("/proc/thread-self/ns/net").st_ino
    nftables.probe.cache_clear()
    means = nftables.probe()
    assert means.families
    assert nftables.probe() is means
    assert os.stat("/proc/thread-self/ns/net").st_ino == before


@pytest.mark.root
def test_a_failure_in_a_scratch_namespace_ends_where_it_began() -> None:
    before = os.stat("/proc/thread-self/ns/net").st_ino
    with pytest.raises(ZeroDivisionError), scratch():  # noqa: PT012
        assert os.stat("/proc/thread-self/ns/net").st_ino != before
        raise ZeroDivisionError
    assert os.stat("/proc/thread-self/ns/net").st_ino == before
