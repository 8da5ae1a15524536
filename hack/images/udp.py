"""Echoes datagrams on UDP port 9000, IPv4 and IPv6, each with a running number in front: b"1 hello"."""

import itertools
import socket

from service import stop_on_sigterm

if __name__ == "__main__":
    stop_on_sigterm()
    endpoint = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    endpoint.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    endpoint.bind(("::", 9000))
    print("listening", flush=True)
    for number in itertools.count(1):
        data, sender = endpoint.recvfrom(65536)
        endpoint.sendto(b"%d %s" % (number, data), sender)
