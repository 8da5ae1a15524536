"""The webhook's own certificates. A generation is an authority with the one certificate that it ever signs:
its key is forgotten at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from architect import generations
from architect.generations import DAY
from architect.untrusted import Value

LIFE_SECONDS: Final = 90 * DAY
SETTLE_SECONDS: Final = 3600
"""From the making of a generation until it is served: many looks of every replica (see keeping.py)."""


@dataclass(frozen=True, slots=True)
class Generation:
    """An authority's certificate, the one it signed, and that one's key, in PEM; it is served from `begins`
    on; times in Unix seconds.
    """

    authority: str
    certificate: str
    key: str
    made: int
    begins: int
    ends: int


def bundle(known: Sequence[Generation]) -> str:
    """What the API server is to trust."""
    return "".join(each.authority for each in generations.in_order(known))


def dumped(known: Sequence[Generation]) -> str:
    """The text kept in the Secret."""
    return json.dumps(
        [
            {
                "authority": each.authority,
                "certificate": each.certificate,
                "key": each.key,
                "made": each.made,
                "serveFrom": each.begins,
                "ends": each.ends,
            }
            for each in known
        ]
    )


def loaded(text: str) -> list[Generation]:
    """Reads what `dumped` has written. Raises Unreadable."""
    return [_generation(entry) for entry in generations.entries(text)]


def _generation(entry: Value) -> Generation:
    return Generation(
        authority=generations.pem(entry, "authority"),
        certificate=generations.pem(entry, "certificate"),
        key=generations.pem(entry, "key"),
        made=entry.member("made").integer(),
        begins=entry.member("serveFrom").integer(),
        ends=entry.member("ends").integer(),
    )


def make(names: Sequence[str], now: int, *, begins: int, life: int = LIFE_SECONDS) -> Generation:
    """A new generation whose certificate is for the DNS `names`."""
    from architect import signing  # needed once in weeks, and not small

    ends = now + life
    authority = signing.authority(f"{names[0]} {now}", now, ends)
    served = signing.pair(authority, signing.Subject(names[0], names, [signing.SERVER]), now, ends)
    return Generation(authority.certificate, served.certificate, served.key, now, begins, ends)
