"""What a container's sockets hold and await, as the kernel's tables tell it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.gate import Endpoint, GateError, Port, sockets
from architect.gate.sockets import Row, Sockets, open_connections, parse_table, snapshot
from tests.gate.conftest import CLIENT, POD, Wire, begin_connect, closed, readable, until

ONE = Port(8080, "TCP")


@pytest.fixture
def inside(wire: Wire) -> Generator[Wire]:
    """This process is in the pod while the test runs, so that its sockets stand in its /proc/self/net."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(wire.pod.path, os.O_RDONLY | os.O_CLOEXEC)
    os.setns(there, os.CLONE_NEWNET)
    os.close(there)
    try:
        yield wire
    finally:
        os.setns(own, os.CLONE_NEWNET)
        os.close(own)


def _look() -> Sockets:
    return snapshot([os.getpid()])


def _serve(wire: Wire, *, six: bool = False, port: int = 8080) -> socket.socket:
    sock = wire.pod.keep(socket.socket(socket.AF_INET6 if six else socket.AF_INET))
    if six:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("", port))
    sock.listen(64)
    return sock


def _connect(wire: Wire, port: int = 8080, *, six: bool = False) -> socket.socket:
    sock = wire.client.open(socket.SOCK_STREAM, socket.AF_INET6 if six else socket.AF_INET)
    sock.connect((POD[six], port))
    return sock


@pytest.mark.root
class TestUnread:
    def test_an_idle_server_with_idle_connections_has_nothing_unread(self, inside: Wire) -> None:
        server = _serve(inside)
        client = _connect(inside)
        accepted = inside.pod.keep(server.accept()[0])
        client.sendall(b"request")
        assert accepted.recv(100) == b"request"
        assert _look().unread() is None

    @pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
    def test_a_datagram(self, inside: Wire, six: bool) -> None:
        sock = inside.pod.keep(socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM))
        sock.bind(("", 5353))
        assert _look().unread() is None
        inside.client.open(socket.SOCK_DGRAM, sock.family).sendto(b"x", (POD[six], 5353))
        assert readable(sock)
        assert _look().unread() == "a datagram lies unread on UDP port 5353"
        sock.recv(10)
        assert _look().unread() is None

    def test_bytes_on_a_connection(self, inside: Wire) -> None:
        server = _serve(inside)
        client = _connect(inside)
        accepted = inside.pod.keep(server.accept()[0])
        client.sendall(b"request")
        assert readable(accepted)
        port = client.getsockname()[1]
        assert _look().unread() == (
            f"7 bytes from {CLIENT[0]}:{port} lie unread on the connection to {POD[0]}:8080"
        )

    def test_bytes_before_the_end_of_a_stream_but_not_the_end_alone(self, inside: Wire) -> None:
        server = _serve(inside)
        silent, last_words = _connect(inside), _connect(inside)
        one, two = (inside.pod.keep(server.accept()[0]) for _ in range(2))
        silent.shutdown(socket.SHUT_WR)
        assert readable(one)
        assert _look().unread() is None
        last_words.sendall(b"x")
        last_words.shutdown(socket.SHUT_WR)
        assert readable(two)
        assert "lie unread" in (_look().unread() or "")

    @pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
    def test_a_connection_that_was_not_accepted(self, inside: Wire, six: bool) -> None:
        server = _serve(inside, six=six)
        _connect(inside, six=six)
        assert readable(server)
        assert _look().unread() == "a connection to TCP port 8080 has not been accepted"

    def test_a_connection_that_is_half_open(self, inside: Wire) -> None:
        _serve(inside)
        # The client's gate holds the answer to its SYN: the pod's side stays half open.
        from architect.gate import PodGate

        client = PodGate(inside.client.path)
        sock = inside.client.open(socket.SOCK_STREAM)
        sock.bind((CLIENT[0], 45000))
        with closed(client, Port(45000, "TCP")) as queue:
            begin_connect(sock, (POD[0], 8080))
            assert readable(queue)
            assert _look().unread() == "a connection from 10.77.0.1:45000 to TCP port 8080 is half open"
            client.open("c0ffee" * 10, queue)

    def test_other_containers_of_the_pod_are_not_asked(self, inside: Wire) -> None:
        _serve(inside)
        _connect(inside)
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
            found = snapshot([other.pid])
            other.communicate(b"\n")
        assert found.unread() is None
        assert found.listening() == []


@pytest.mark.root
class TestWhatThereIs:
    def test_ports_of_listeners_and_of_bound_datagram_sockets(self, inside: Wire) -> None:
        _serve(inside, port=8080)
        _serve(inside, port=9090, six=True)
        for family in (socket.AF_INET, socket.AF_INET6):
            sock = inside.pod.keep(socket.socket(family, socket.SOCK_DGRAM))
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(("", 5353))
        inside.pod.keep(socket.socket())  # bound to nothing
        assert _look().listening() == [Port(5353, "UDP"), Port(8080, "TCP"), Port(9090, "TCP")]

    def test_connections_have_the_addresses_that_their_packets_have(self, inside: Wire) -> None:
        server = _serve(inside, six=True)
        clients = [_connect(inside), _connect(inside, six=True)]
        accepted = [inside.pod.keep(server.accept()[0]) for _ in clients]
        out = inside.pod.keep(socket.socket())
        inside.client.listener(7000)
        out.connect((CLIENT[0], 7000))
        ports = [sock.getsockname()[1] for sock in (*clients, out)]
        assert len(accepted) == 2
        assert sorted(_look().connections()) == sorted(
            [
                (Endpoint(POD[0], 8080), Endpoint(CLIENT[0], ports[0])),
                (Endpoint(POD[1], 8080), Endpoint(CLIENT[1], ports[1])),
                (Endpoint(POD[0], ports[2]), Endpoint(CLIENT[0], 7000)),
            ]
        )

    def test_a_connection_that_the_client_has_closed_is_one_still(self, inside: Wire) -> None:
        server = _serve(inside)
        client = _connect(inside)
        accepted = inside.pod.keep(server.accept()[0])
        client.close()
        assert readable(accepted)
        assert len(_look().connections()) == 1

    def test_open_connections_are_counted_per_port(self, inside: Wire) -> None:
        server, _ = _serve(inside), _serve(inside, port=9090)
        kept = [_connect(inside) for _ in range(3)]
        accepted = [server.accept()[0] for _ in kept]
        waiting = _connect(inside, port=9090)
        until(lambda: _look().open_connections() == {8080: 3, 9090: 1})
        assert open_connections(os.getpid()) == {8080: 3, 9090: 1}
        for sock in (*accepted, *kept, waiting):
            sock.close()
        until(lambda: 8080 not in _look().open_connections())
        until(lambda: 8080 not in open_connections(os.getpid()))

    def test_processes_that_have_ended_are_passed_over(self, inside: Wire) -> None:
        _serve(inside)
        with subprocess.Popen(["true"]) as ended:
            pass
        assert snapshot([ended.pid, os.getpid()]).listening() == [ONE]
        assert snapshot([ended.pid]).listening() == []
        assert snapshot([]).unread() is None
        with pytest.raises(GateError):
            open_connections(ended.pid)

    def test_a_process_that_has_ended_and_was_not_waited_for_has_no_sockets(self, inside: Wire) -> None:
        with subprocess.Popen(["true"]) as zombie:
            os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
            assert snapshot([zombie.pid]).listening() == []


HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def _line(local: str, remote: str, state: int, *, unread: int = 0, inode: int = 7) -> str:
    queues = f"00000000:{unread:08X}"
    return f"   0: {local} {remote} {state:02X} {queues} 00:00000000 00000000     0        0 {inode} 1 0 10\n"


def test_a_mapped_address_is_written_as_ipv4() -> None:
    local = "0000000000000000FFFF0000" + _words("10.77.0.2") + ":1F90"
    rows = parse_table((HEAD + _line(local, local, 1)).encode(), "TCP")
    assert Sockets(rows, {7}).connections() == [(Endpoint("10.77.0.2", 8080), Endpoint("10.77.0.2", 8080))]


def _words(address: str) -> str:
    return f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}"


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("   0: 0100007F:1F90\n", id="cut"),
        pytest.param(_line("0100007F:1F90", "xx00007F:1F90", 1), id="no hexadecimal"),
        pytest.param(_line("0100007F:1F90", "0100007F1:F90", 1), id="the colon elsewhere"),
        pytest.param(_line("0100007F", "0100007F", 1), id="no port"),
    ],
)
def test_a_line_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(GateError) as raised:
        parse_table((HEAD + line).encode(), "TCP")
    assert line[:10] in str(raised.value)


@given(st.binary(max_size=400), st.sampled_from(["TCP", "UDP"]))
def test_whatever_the_bytes_a_table_is_read_or_refused(data: bytes, protocol: str) -> None:
    try:
        rows = parse_table(HEAD.encode() + data, protocol)
    except GateError:
        return
    _all_of(rows)


_hex = st.text("0123456789ABCDEFabcdef:_ +-", min_size=1, max_size=40)


@given(_hex, _hex, st.integers(0, 300), st.integers(0, 1 << 40), st.integers(0, 20))
def test_whatever_stands_in_a_line_it_is_read_or_refused(
    a: str, b: str, state: int, unread: int, inode: int
) -> None:
    try:
        rows = parse_table((HEAD + _line(a, b, state, unread=unread, inode=inode)).encode(), "TCP")
    except GateError:
        return
    _all_of(rows)


def _all_of(rows: list[Row]) -> None:
    found = sockets.Sockets(rows, {row.inode for row in rows})
    found.listening(), found.connections(), found.unread(), found.open_connections()
