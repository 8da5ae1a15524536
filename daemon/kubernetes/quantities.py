"""Kubernetes' quantities ("250m", "1.5Gi", "1e3"), exactly, as far as they have to be compared."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_FORM: Final = re.compile(
    r"([+-]?(?:[0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40}))(?:([eE][+-]?[0-9]{1,3})|([numkMGTPE]|[KMGTPE]i))?"
)
_SUFFIXES: Final[dict[str, int | Fraction]] = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000),
    "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18,
    "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60,
}  # fmt: skip


class NoQuantity(ValueError):
    """The text is no quantity."""


def amount(quantity: str) -> Fraction:
    """What a quantity amounts to: CPUs, or bytes. Raises NoQuantity."""
    found = _FORM.fullmatch(quantity)
    if found is None:
        raise NoQuantity(f"{quantity[:40]!r} is no quantity")
    digits, exponent, suffix = found.groups()
    value = Fraction(digits)
    if exponent:
        power = int(exponent[1:])
        value = value * 10**power if power >= 0 else value / 10**-power
    return value * _SUFFIXES[suffix] if suffix else value


def is_quantity(text: object) -> bool:
    """Whether `text` is a quantity, and not a negative one."""
    try:
        return isinstance(text, str) and amount(text) >= 0
    except NoQuantity:
        return False
