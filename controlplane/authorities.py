"""The authorities that sign for nodes and for the control plane itself, and what they sign.

A day's certificates by an authority of a year, of which the nodes have heard two days before it signs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from architect import generations, signing
from architect.generations import DAY
from architect.signing import Pair, Subject
from architect.untrusted import Value

LIFE_SECONDS: Final = 365 * DAY
CERTIFICATE_SECONDS: Final = DAY
RENEW_SECONDS: Final = DAY // 3
"""Nodes get a new certificate, and with it the list of whom to trust, so often."""
SETTLE_SECONDS: Final = 2 * DAY
"""From the making of an authority until it signs."""

_BOTH: Final = (signing.SERVER, signing.CLIENT)


class Unsigned(Exception):
    """A request that is not signed for; the message says why."""


@dataclass(frozen=True, slots=True)
class Authority:
    """Its certificate and key, PEM; it signs from `begins` on; times in Unix seconds."""

    certificate: str
    key: str
    made: int
    begins: int
    ends: int


def bundle(authorities: Sequence[Authority]) -> str:
    """Whom to trust, PEM."""
    return "".join(each.certificate for each in generations.in_order(authorities))


def dumped(authorities: Sequence[Authority]) -> str:
    """The text kept in the Secret."""
    return json.dumps(
        [
            {
                "certificate": each.certificate,
                "key": each.key,
                "made": each.made,
                "signsFrom": each.begins,
                "ends": each.ends,
            }
            for each in authorities
        ]
    )


def loaded(text: str) -> list[Authority]:
    """Reads what `dumped` has written. Raises Unreadable."""
    return [_authority(entry) for entry in generations.entries(text)]


def _authority(entry: Value) -> Authority:
    return Authority(
        certificate=generations.pem(entry, "certificate"),
        key=generations.pem(entry, "key"),
        made=entry.member("made").integer(),
        begins=entry.member("signsFrom").integer(),
        ends=entry.member("ends").integer(),
    )


def make(now: int, *, begins: int) -> Authority:
    """A new authority."""
    ends = now + LIFE_SECONDS
    made = signing.authority(f"architect migration {now}", now, ends)
    return Authority(made.certificate, made.key, now, begins, ends)


def for_node(authority: Authority, node: str, request: bytes, now: int) -> str:
    """A certificate, PEM, for the node whose PKCS #10 request (DER) this is. Raises Unsigned."""
    try:
        asked = x509.load_der_x509_csr(request)
        key = asked.public_key()
        proved = asked.is_signature_valid
    except (ValueError, TypeError, InvalidSignature) as error:
        raise Unsigned(f"the request cannot be read: {error}") from error
    if not proved:
        raise Unsigned("the request is not signed with the key that it names")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Unsigned("the request's key is not on the curve P-256")
    subject = Subject(node, [node], _BOTH, [f"architect://node/{node}"])
    return signing.certificate(_signer(authority), subject, key, now, _until(authority, now))


def for_service(authority: Authority, names: Sequence[str], now: int) -> Pair:
    """A certificate with its key for the DNS `names` of the control plane."""
    return signing.pair(_signer(authority), Subject(names[0], names, _BOTH), now, _until(authority, now))


def _signer(authority: Authority) -> Pair:
    return Pair(authority.certificate, authority.key)


def _until(authority: Authority, now: int) -> int:
    return min(now + CERTIFICATE_SECONDS, authority.ends)
