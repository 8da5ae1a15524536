"""Gates close and open while packets come: every one of them arrives."""

from __future__ import annotations

import select
import socket
import threading

import pytest

from architect.gate import HeldQueue, Port
from tests.gate.conftest import CONTAINER, DEADLINE, POD, Wire, closed

pytestmark = pytest.mark.root

DNS = Port(5353, "UDP")
COUNT = 20_000
WINDOW = 300  # below what the kernel lets wait for a processor (netdev_max_backlog) or for the reader


def _stream(wire: Wire) -> tuple[threading.Thread, threading.Thread, list[int]]:
    """One thread sends COUNT numbers, never more than WINDOW ahead of the one that receives them."""
    server, client = wire.pod.open(socket.SOCK_DGRAM), wire.client.open(socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
    server.bind(("", 5353))
    server.settimeout(DEADLINE / 3)
    window = threading.Semaphore(WINDOW)
    seen: list[int] = []

    def send() -> None:
        for index in range(COUNT):
            if not window.acquire(timeout=DEADLINE):
                return
            client.sendto(index.to_bytes(4, "big"), (POD[0], 5353))

    def receive() -> None:
        try:
            while len(seen) < COUNT:
                seen.append(int.from_bytes(server.recv(4), "big"))
                window.release()
        except TimeoutError:
            return

    threads = threading.Thread(target=send), threading.Thread(target=receive)
    for thread in threads:
        thread.start()
    return (*threads, seen)


def _await_packet(queue: HeldQueue) -> None:
    """Waits until something is held; gives up soon, since all may have been sent."""
    select.select([queue], [], [], 0.05)


def test_no_packet_is_lost_when_gates_close_and_open(wire: Wire) -> None:
    sender, receiver, seen = _stream(wire)
    cycles = 0
    while receiver.is_alive():
        with closed(wire.gate, DNS, number=1 + cycles % 100) as queue:
            _await_packet(queue)
            wire.gate.open(CONTAINER, queue)
        cycles += 1
    sender.join()
    assert sorted(seen) == list(range(COUNT))
    assert cycles > 1
