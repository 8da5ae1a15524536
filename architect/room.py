"""Room for a wake: whether its memory fits in what the node has left, and waiting for that.

A wake brings back what the sleep gave back; on a node that has been filled up since, that would have the
kernel kill processes, the woken one or a neighbour. The daemon asks for what it wakes, the shim for an exec,
of which the daemon hears too late. What wakes under way will need is counted as taken, by each for its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

RESERVE_BYTES: Final = 100 << 20
"""Left free. Kubelet evicts pods when the node has less than this (its default `memory.available`)."""
WAIT_SECONDS: Final = 20.0
"""How long a wake waits for room before it is refused."""
LOOK_SECONDS: Final = 0.25


class NoRoom(Exception):
    """The node's memory has no room for a wake; the message says how much is missing."""


def available_bytes(path: str = "/proc/meminfo") -> int:
    """What can be had without swapping (MemAvailable of proc(5))."""
    with open(path, encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise OSError(f"{path} has no MemAvailable")


class Room:
    """The memory of this node. `available` says what it has left, in bytes."""

    def __init__(
        self, available: Callable[[], int] = available_bytes, *, wait_seconds: float = WAIT_SECONDS
    ) -> None:
        self._available = available
        self._wait_seconds = wait_seconds
        self._promised = 0

    async def wait(self, needed: int) -> None:
        """Returns when `needed` bytes fit. Raises NoRoom when they do not for as long as a wake can wait."""
        deadline = time.monotonic() + self._wait_seconds
        while not self.fits(needed):
            if time.monotonic() >= deadline:
                mib = 1 << 20
                raise NoRoom(
                    f"it needs {needed / mib:.0f} MiB of memory and the node has "
                    f"{max(0, self._available() - RESERVE_BYTES - self._promised) / mib:.0f} MiB to spare"
                )
            # The kernel does not tell when memory comes free, so it is looked at while a wake waits.
            await asyncio.sleep(LOOK_SECONDS)

    def fits(self, needed: int) -> bool:
        """Whether `needed` bytes fit now."""
        return needed + self._promised + RESERVE_BYTES <= self._available()

    @contextmanager
    def promised(self, needed: int) -> Iterator[None]:
        """Counts `needed` bytes as taken within the block."""
        self._promised += needed
        try:
            yield
        finally:
            self._promised -= needed
