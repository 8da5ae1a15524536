"""The webhook's own certificates: who made them, which one is served, when the next one is due.

Pure but for `make`. A generation is an authority with the one certificate that it ever signs: its key is
forgotten at once. The API server is to trust a new authority before anybody shows a certificate of it, and
the old one for as long as anybody may: that is what `serve_from` and the bundle of all are for. Every replica
comes to the same conclusions from the same list and its clock.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from architect.untrusted import Unreadable, Value, parse

DAY: Final = 24 * 3600
LIFE_SECONDS: Final = 90 * DAY
SETTLE_SECONDS: Final = 3600
"""From the making of a generation until it is served: many looks of every replica (see keeping.py)."""

_SKEW_SECONDS: Final = 3600  # clocks of nodes differ
_MAX_BYTES: Final = 256 << 10
_MAX_GENERATIONS: Final = 16
_MAX_PEM: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class Generation:
    """An authority's certificate, the one it signed, and that one's key, in PEM; times in Unix seconds."""

    authority: str
    certificate: str
    key: str
    made: int
    serve_from: int
    ends: int


def due(generations: Sequence[Generation], now: int) -> bool:
    """Whether a new generation is to be made: two thirds of the youngest one's life are over."""
    if not generations:
        return True
    last = max(generations, key=lambda each: each.made)
    return now >= last.made + (last.ends - last.made) * 2 // 3


def served(generations: Sequence[Generation], now: int) -> Generation:
    """The generation to show to clients; there is at least one."""
    ready = [each for each in generations if each.serve_from <= now]
    return max(ready, key=lambda each: each.made) if ready else min(generations, key=lambda each: each.made)


def alive(generations: Sequence[Generation], now: int) -> list[Generation]:
    """Those that have not expired."""
    return [each for each in generations if each.ends > now]


def bundle(generations: Sequence[Generation]) -> str:
    """What the API server is to trust."""
    return "".join(each.authority for each in sorted(generations, key=lambda each: each.made))


def dumped(generations: Sequence[Generation]) -> str:
    """The text kept in the Secret."""
    return json.dumps(
        [
            {
                "authority": each.authority,
                "certificate": each.certificate,
                "key": each.key,
                "made": each.made,
                "serveFrom": each.serve_from,
                "ends": each.ends,
            }
            for each in generations
        ]
    )


def loaded(text: str) -> list[Generation]:
    """Reads what `dumped` has written. Raises Unreadable."""
    return [_generation(entry) for entry in parse(text, limit=_MAX_BYTES).items(limit=_MAX_GENERATIONS)]


def _generation(entry: Value) -> Generation:
    return Generation(
        authority=_pem(entry, "authority"),
        certificate=_pem(entry, "certificate"),
        key=_pem(entry, "key"),
        made=entry.member("made").integer(),
        serve_from=entry.member("serveFrom").integer(),
        ends=entry.member("ends").integer(),
    )


def _pem(entry: Value, name: str) -> str:
    value = entry.member(name)
    text = value.text(limit=_MAX_PEM)
    if not (text.isascii() and text.startswith("-----BEGIN ")):
        value.refuse("is no PEM")
    return text


def make(names: Sequence[str], now: int, *, serve_from: int, life: int = LIFE_SECONDS) -> Generation:
    """A new generation whose certificate is for the DNS `names`."""
    # 10 MiB and 0.1 s, needed once in weeks.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(common: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])

    def begun(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_time(now - _SKEW_SECONDS))
            .not_valid_after(_time(now + life))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
            )
        )

    signer, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    # The name is the generation's own: of two authorities of one name, a client may try the wrong one only.
    issuer = named(f"{names[0]} {now}")
    authority = (
        begun(issuer, signer)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .sign(signer, hashes.SHA256())
    )
    certificate = (
        begun(named(names[0]), key)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Generation(
        authority=authority.public_bytes(pem).decode(),
        certificate=certificate.public_bytes(pem).decode(),
        key=private.decode(),
        made=now,
        serve_from=serve_from,
        ends=now + life,
    )


def _time(seconds: int) -> Any:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC)


def _usage(*, key_cert_sign: bool = False, digital_signature: bool = False) -> Any:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


__all__ = [
    "Generation", "Unreadable", "alive", "bundle", "due", "dumped", "loaded", "make", "served",
]  # fmt: skip
