"""The addresses of a pod, read from its network namespace."""

from __future__ import annotations

import socket
from typing import Final

from architect.gate.netns import read_in

_LOOPBACK: Final = "10"
"""The scope of ::1 in if_inet6."""


def addresses(netns: str) -> list[str]:
    """The local addresses in network namespace `netns` but for those of its loopback device, each once.

    From /proc/net/fib_trie (IPv4) and /proc/net/if_inet6. Raises GateError.
    """
    found: dict[str, None] = {}
    last = ""
    for line in read_in(netns, "fib_trie").decode("ascii", "replace").splitlines():
        fields = line.split()
        if fields[:1] == ["|--"]:
            last = fields[1]
        elif fields[:3] == ["/32", "host", "LOCAL"] and not last.startswith("127."):
            found[last] = None
    for line in read_in(netns, "if_inet6").decode("ascii", "replace").splitlines():
        number, _, _, scope, *_ = line.split()
        if scope != _LOOPBACK:
            found[socket.inet_ntop(socket.AF_INET6, bytes.fromhex(number))] = None
    return list(found)
