"""Rows about sockets."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

from tests.node.holds.rows import Lacking, child, ended


def _socket(*arguments: int) -> socket.socket:
    try:
        return socket.socket(*arguments)
    except OSError as error:
        raise Lacking(f"socket{arguments}: {error.strerror}") from None


def unix_pair() -> Iterator[None]:
    """pairs of unix sockets of each kind, with data in them"""
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)
    pairs = [socket.socketpair(socket.AF_UNIX, kind) for kind in kinds]
    for left, _ in pairs:
        left.send(b"data")
    yield
    for left, right in pairs:
        assert right.recv(100) == b"data"
        right.send(b"back")
        assert left.recv(100) == b"back"


def unix_named() -> Iterator[None]:
    """unix sockets: a listener on a path, one on an abstract name, connections to both"""
    found = []
    for name in ("/tmp/listener", "\0abstract"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(name)
        listener.listen(5)
        client = socket.socket(socket.AF_UNIX)
        client.connect(name)
        server, _ = listener.accept()
        found.append((name, listener, client, server))
    yield
    for name, listener, client, server in found:
        client.send(b"old")
        assert server.recv(10) == b"old"
        again = socket.socket(socket.AF_UNIX)
        again.connect(name)
        again.send(b"new")
        assert listener.accept()[0].recv(10) == b"new"


def unix_waiting() -> Iterator[None]:
    """a unix socket with a connection nobody has accepted yet"""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0waiting")
    listener.listen(5)
    client = socket.socket(socket.AF_UNIX)
    client.connect("\0waiting")
    client.send(b"early")
    yield
    assert listener.accept()[0].recv(10) == b"early"


def unix_descriptors() -> Iterator[None]:
    """a descriptor on its way through a unix socket (SCM_RIGHTS)"""
    left, right = socket.socketpair()
    read, write = os.pipe()
    socket.send_fds(left, [b"x"], [read])
    yield
    _, fds, _, _ = socket.recv_fds(right, 10, 1)
    os.write(write, b"through")
    assert os.read(fds[0], 100) == b"through"


def _volume_socket(path: str) -> Iterator[None]:
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    client.send(b"before")
    assert client.recv(100) == b"before"
    yield
    client.send(b"after")
    assert client.recv(100) == b"after"


def unix_to_another_container() -> Iterator[None]:
    """a unix connection to another container of the pod, or to the node"""
    yield from _volume_socket("/shared/socket")


def tcp_listener() -> Iterator[None]:
    """TCP listeners of both families, with options"""
    listeners = [
        socket.create_server(("127.0.0.1", 7001)),
        socket.create_server(("::1", 7002), family=socket.AF_INET6),
    ]
    for listener in listeners:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
    yield
    for listener in listeners:
        client = socket.create_connection(listener.getsockname()[:2], timeout=10)
        assert listener.accept()[0].getsockname() == client.getpeername()
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 200_000


def reuse_port() -> Iterator[None]:
    """four listeners on one port (SO_REUSEPORT)"""
    listeners = []
    for _ in range(4):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 7003))
        listener.listen(64)
        listeners.append(listener)
    yield
    clients = [socket.create_connection(("127.0.0.1", 7003), timeout=10) for _ in range(64)]
    accepted = 0
    for listener in listeners:
        listener.setblocking(False)
        while True:
            try:
                listener.accept()
            except BlockingIOError:
                break
            accepted += 1
    assert accepted == len(clients)


def tcp_connection() -> Iterator[None]:
    """TCP connections within the container, quiet"""
    listener = socket.create_server(("127.0.0.1", 7004))
    client = socket.create_connection(("127.0.0.1", 7004))
    server, _ = listener.accept()
    client.send(b"before")
    assert server.recv(100) == b"before"
    yield
    client.send(b"after")
    assert server.recv(100) == b"after"
    client.close()
    assert server.recv(100) == b""


def tcp_half_closed() -> Iterator[None]:
    """a TCP connection that one side has closed already"""
    listener = socket.create_server(("127.0.0.1", 7005))
    client = socket.create_connection(("127.0.0.1", 7005))
    server, _ = listener.accept()
    client.shutdown(socket.SHUT_WR)
    assert server.recv(10) == b""
    yield
    server.send(b"answer")
    assert client.recv(100) == b"answer"


def udp_socket() -> Iterator[None]:
    """UDP sockets, bound and connected"""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 7006))
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect(("127.0.0.1", 7006))
    yield
    client.send(b"word")
    assert server.recv(100) == b"word"


def udp_lite_socket() -> Iterator[None]:
    """UDP-Lite"""
    server = _socket(socket.AF_INET, socket.SOCK_DGRAM, 136)
    server.bind(("127.0.0.1", 7007))
    yield
    assert server.getsockname() == ("127.0.0.1", 7007)


def mptcp_listener() -> Iterator[None]:
    """a Multipath TCP listener"""
    listener = _socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    listener.bind(("127.0.0.1", 7008))
    listener.listen(5)
    yield
    client = socket.create_connection(("127.0.0.1", 7008), timeout=10)
    assert listener.accept()[0].getsockname() == client.getpeername()


def sctp_socket() -> Iterator[None]:
    """SCTP"""
    listener = _socket(socket.AF_INET, socket.SOCK_STREAM, 132)
    listener.bind(("127.0.0.1", 7009))
    yield
    assert listener.getsockname() == ("127.0.0.1", 7009)


def netlink_socket() -> Iterator[None]:
    """a netlink socket (route)"""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    sock.bind((0, 0))
    yield
    sock.send(struct.pack("IHHIIBxxx", 20, 18, 0x301, 1, 0, 0))
    assert len(sock.recv(65536)) > 20


def raw_socket() -> Iterator[None]:
    """a raw IP socket (ping)"""
    sock = _socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    yield
    sock.sendto(struct.pack("!BBHHH", 8, 0, 0xF7FE, 1, 0), ("127.0.0.1", 0))
    sock.settimeout(10)
    assert sock.recv(100)


def packet_socket() -> Iterator[None]:
    """a packet socket (tcpdump, DHCP)"""
    sock = _socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    yield
    assert sock.fileno() >= 0
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_RAW


def crypto_socket() -> Iterator[None]:
    """an AF_ALG socket (the kernel's cryptography)"""
    sock = _socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0)
    sock.bind(("hash", "sha256"))
    yield
    operation, _ = sock.accept()
    operation.send(b"")
    assert len(operation.recv(32)) == 32


def virtual_machine_socket() -> Iterator[None]:
    """an AF_VSOCK socket"""
    sock = _socket(40, socket.SOCK_STREAM, 0)
    yield
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM


def shared_listener() -> Iterator[None]:
    """a listener inherited by worker processes (prefork)"""
    listener = socket.create_server(("127.0.0.1", 7010))

    def serve() -> None:
        connection, _ = listener.accept()
        connection.send(b"%d" % os.getpid())

    workers = [child(serve) for _ in range(4)]
    yield
    answers = {int(socket.create_connection(("127.0.0.1", 7010), timeout=10).recv(20)) for _ in workers}
    assert answers == set(workers)
    assert [ended(pid) for pid in workers] == [0] * 4
