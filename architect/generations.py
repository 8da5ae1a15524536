"""Authorities that follow one another, so that trust never breaks: when the next is due, which is in use.

Pure. Whoever has to trust a new authority is told of it before anybody shows a certificate of it (`begins`),
and trusts the old one for as long as its certificates may live (`ends`). All replicas come to the same
conclusions from the same list and their clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from architect.untrusted import Value, parse

DAY: Final = 24 * 3600

_MAX_BYTES: Final = 256 << 10
_MAX_GENERATIONS: Final = 16
_MAX_PEM: Final = 16 << 10


class Lived(Protocol):
    """What each of them has; times in Unix seconds."""

    @property
    def made(self) -> int:
        """When it was made."""

    @property
    def begins(self) -> int:
        """From when on it is used."""

    @property
    def ends(self) -> int:
        """When it expires."""


def due(known: Sequence[Lived], now: int) -> bool:
    """Whether a new one is to be made: two thirds of the youngest one's life are over."""
    if not known:
        return True
    last = max(known, key=lambda each: each.made)
    return now >= last.made + (last.ends - last.made) * 2 // 3


def alive[L: Lived](known: Sequence[L], now: int) -> list[L]:
    """Those that have not expired."""
    return [each for each in known if each.ends > now]


def in_use[L: Lived](known: Sequence[L], now: int) -> L:
    """The one to show, or to sign with: the youngest that has begun. There is at least one in `known`."""
    begun = [each for each in known if each.begins <= now]
    return max(begun, key=lambda each: each.made) if begun else min(known, key=lambda each: each.made)


def in_order[L: Lived](known: Sequence[L]) -> list[L]:
    """As they were made, so that all replicas tell the same list of whom to trust."""
    return sorted(known, key=lambda each: each.made)


def entries(text: str) -> list[Value]:
    """The members of a list that a Secret holds as JSON. Raises Unreadable."""
    return list(parse(text, limit=_MAX_BYTES).items(limit=_MAX_GENERATIONS))


def pem(entry: Value, name: str) -> str:
    """A member that is PEM. Raises Unreadable."""
    value = entry.member(name)
    text = value.text(limit=_MAX_PEM)
    if not (text.isascii() and text.startswith("-----BEGIN ")):
        value.refuse("is no PEM")
    return text
