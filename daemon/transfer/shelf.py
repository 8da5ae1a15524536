"""What lies here to be fetched, and who may: a ticket is for one parcel and one node, and for a time.

A ticket is good until its parcel was taken, so that a broken connection can be followed by another, but for
one connection at a time: the newest. Who holds a ticket and is not the node it was made for gets nothing.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from daemon.transfer.errors import Refused
from daemon.transfer.parcel import Parcel

TICKET_CHARACTERS: Final = 43
MAX_OFFERS: Final = 4096


@dataclass(eq=False, slots=True)
class Offer:
    """A parcel, meant for one node. `taken` has the parcel's digest as its result when that node has it all;
    it is cancelled when the offer is withdrawn before.
    """

    parcel: Parcel
    for_node: str
    ticket: str = field(repr=False)
    expires: float
    """By the monotonic clock; a connection that was made before goes on."""
    taken: Future[str] = field(default_factory=Future)
    sent: int = 0
    """Bytes of files that went out so far, those sent again included."""
    hang_up: Callable[[], None] | None = None
    """Ends the connection that serves it at present."""


class Shelf:
    """All offers of this node."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._offers: dict[bytes, Offer] = {}

    def offer(self, parcel: Parcel, *, for_node: str, seconds: float) -> Offer:
        """Lays out a parcel, open or finished, for one node. Raises ValueError when there are too many."""
        offer = Offer(parcel, for_node, secrets.token_urlsafe(32), self._clock() + seconds)
        with self._lock:
            if len(self._offers) >= MAX_OFFERS:
                raise ValueError(f"{MAX_OFFERS} parcels are on offer already")
            self._offers[_key(offer.ticket)] = offer
        return offer

    def withdraw(self, offer: Offer) -> None:
        """Nobody gets it any more; a connection that serves it ends. Its files are not touched."""
        with self._lock:
            self._offers.pop(_key(offer.ticket), None)
            hang_up, offer.hang_up = offer.hang_up, None
        offer.taken.cancel()
        if hang_up is not None:
            hang_up()

    def sweep(self) -> list[Offer]:
        """Withdraws, and returns, what has expired and is not being fetched."""
        with self._lock:
            now = self._clock()
            old = [each for each in self._offers.values() if each.expires <= now and each.hang_up is None]
        for offer in old:
            self.withdraw(offer)
        return old

    def claim(self, ticket: str, node: str, hang_up: Callable[[], None]) -> Offer:
        """The offer that `node` may have for its ticket; from now on over the connection that `hang_up` ends.

        Raises Refused.
        """
        with self._lock:
            # By its hash: how long the search takes says nothing of the tickets there are.
            offer = self._offers.get(_key(ticket))
            if offer is None:
                raise Refused("the ticket is for nothing that is here (any more)")
            if node != offer.for_node:
                raise Refused("the ticket was made for another node")
            if offer.expires <= self._clock():
                raise Refused("the ticket has expired")
            before, offer.hang_up = offer.hang_up, hang_up
        if before is not None:
            before()
        return offer

    def release(self, offer: Offer, hang_up: Callable[[], None]) -> None:
        """The connection has ended; another may follow."""
        with self._lock:
            if offer.hang_up is hang_up:
                offer.hang_up = None

    def took(self, offer: Offer, digest: str) -> None:
        """The node has all of it: the ticket is spent."""
        with self._lock:
            if self._offers.pop(_key(offer.ticket), None) is None:
                return
        if offer.taken.set_running_or_notify_cancel():
            offer.taken.set_result(digest)


def _key(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).digest()
