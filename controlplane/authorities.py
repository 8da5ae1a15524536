"""The authorities that sign for nodes and for the control plane itself: whom to trust, who signs.

Pure but for the making. Every node is to trust a new authority before anybody shows a certificate of it: it
signs only when all who renew in time have heard of it, and the old one is trusted for as long as its
certificates may live. All replicas come to the same conclusions from the same list and their clock.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from architect.untrusted import Unreadable, Value, parse

DAY: Final = 24 * 3600
LIFE_SECONDS: Final = 365 * DAY
CERTIFICATE_SECONDS: Final = DAY
RENEW_SECONDS: Final = DAY // 3
"""Nodes get a new certificate, and with it the list of whom to trust, so often."""
SETTLE_SECONDS: Final = 2 * DAY
"""From the making of an authority until it signs."""

_SKEW_SECONDS: Final = 3600  # clocks of nodes differ
_MAX_BYTES: Final = 256 << 10
_MAX_AUTHORITIES: Final = 16
_MAX_PEM: Final = 16 << 10


class Unsigned(Exception):
    """A request that is not signed for; the message says why."""


@dataclass(frozen=True, slots=True)
class Authority:
    """Its certificate and key, PEM; times in Unix seconds."""

    certificate: str
    key: str
    made: int
    signs_from: int
    ends: int


def due(authorities: Sequence[Authority], now: int) -> bool:
    """Whether a new one is to be made: two thirds of the youngest one's life are over."""
    if not authorities:
        return True
    last = max(authorities, key=lambda each: each.made)
    return now >= last.made + (last.ends - last.made) * 2 // 3


def alive(authorities: Sequence[Authority], now: int) -> list[Authority]:
    """Those that have not expired."""
    return [each for each in authorities if each.ends > now]


def signing(authorities: Sequence[Authority], now: int) -> Authority:
    """The one that signs; there is at least one."""
    ready = [each for each in authorities if each.signs_from <= now]
    return max(ready, key=lambda each: each.made) if ready else min(authorities, key=lambda each: each.made)


def bundle(authorities: Sequence[Authority]) -> str:
    """Whom to trust, PEM."""
    return "".join(each.certificate for each in sorted(authorities, key=lambda each: each.made))


def dumped(authorities: Sequence[Authority]) -> str:
    """The text kept in the Secret."""
    return json.dumps(
        [
            {
                "certificate": each.certificate,
                "key": each.key,
                "made": each.made,
                "signsFrom": each.signs_from,
                "ends": each.ends,
            }
            for each in authorities
        ]
    )


def loaded(text: str) -> list[Authority]:
    """Reads what `dumped` has written. Raises Unreadable."""
    return [_authority(entry) for entry in parse(text, limit=_MAX_BYTES).items(limit=_MAX_AUTHORITIES)]


def _authority(entry: Value) -> Authority:
    return Authority(
        certificate=_pem(entry, "certificate"),
        key=_pem(entry, "key"),
        made=entry.member("made").integer(),
        signs_from=entry.member("signsFrom").integer(),
        ends=entry.member("ends").integer(),
    )


def _pem(entry: Value, name: str) -> str:
    value = entry.member(name)
    text = value.text(limit=_MAX_PEM)
    if not (text.isascii() and text.startswith("-----BEGIN ")):
        value.refuse("is no PEM")
    return text


def make(now: int, *, signs_from: int, life: int = LIFE_SECONDS) -> Authority:
    """A new authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    # The name is its own: of two authorities of one name, a peer may try the wrong one only.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"architect migration {now}")])
    certificate = (
        _begun(name, name, key.public_key(), key.public_key(), now, now + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(_text(certificate), _private(key), now, signs_from, now + life)


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
    names = [x509.DNSName(node), x509.UniformResourceIdentifier(f"architect://node/{node}")]
    return _signed(authority, node, names, key, now)


def for_service(authority: Authority, names: Sequence[str], now: int) -> tuple[str, str]:
    """A certificate and its key, PEM, for the DNS `names` of the control plane."""
    key = ec.generate_private_key(ec.SECP256R1())
    found = _signed(authority, names[0], [x509.DNSName(name) for name in names], key.public_key(), now)
    return found, _private(key)


def _signed(
    authority: Authority,
    common: str,
    names: Sequence[x509.GeneralName],
    key: ec.EllipticCurvePublicKey,
    now: int,
) -> str:
    signer = serialization.load_pem_private_key(authority.key.encode(), password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey), "as made above"
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    ends = min(now + CERTIFICATE_SECONDS, authority.ends)
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])
    certificate = (
        _begun(subject, issuer.subject, key, signer.public_key(), now, ends)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return _text(certificate)


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePublicKey,
    now: int,
    ends: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now - _SKEW_SECONDS))
        .not_valid_after(_time(ends))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def _usage(**which: bool) -> Any:
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: which.get(name, False) for name in every})


__all__ = [
    "Authority", "Unreadable", "Unsigned", "alive", "bundle", "due", "dumped", "for_node", "for_service",
    "loaded", "make", "signing",
]  # fmt: skip
