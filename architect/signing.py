"""X.509 as Architect makes it (RFC 5280): authorities, and what they sign. Keys are on the curve P-256.

A process that rarely needs it imports it late: it takes 10 MiB and 0.1 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH

_SKEW_SECONDS: Final = 3600  # clocks of nodes differ
_COMMON_NAME: Final = 64  # characters, by the standard
_USAGES: Final = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a certificate is for, and as what: names of the DNS, URIs, SERVER or CLIENT."""

    common: str
    names: Sequence[str]
    uses: Sequence[x509.ObjectIdentifier]
    uris: Sequence[str] = ()


def authority(common: str, now: int, ends: int) -> Pair:
    """A new one, that signs until `ends` (Unix seconds).

    Its name is to be its own: of two authorities of one name, a peer may try the wrong one only.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = _named(common)
    certificate = (
        _begun(name, name, key.public_key(), key.public_key(), now, ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage("key_cert_sign"), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Pair(_text(certificate), _private(key))


def pair(by: Pair, subject: Subject, now: int, ends: int) -> Pair:
    """A new key with its certificate, by an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Pair(certificate(by, subject, key.public_key(), now, ends), _private(key))


def certificate(by: Pair, subject: Subject, key: ec.EllipticCurvePublicKey, now: int, ends: int) -> str:
    """A certificate, PEM, for a key that is somebody else's, by an authority."""
    signer = serialization.load_pem_private_key(by.key.encode(), password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey), "as made above"
    issuer = x509.load_pem_x509_certificate(by.certificate.encode())
    names = [*map(x509.DNSName, subject.names), *map(x509.UniformResourceIdentifier, subject.uris)]
    signed = (
        _begun(_named(subject.common), issuer.subject, key, signer.public_key(), now, ends)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage(subject.uses), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return _text(signed)


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
        .not_valid_before(datetime.fromtimestamp(now - _SKEW_SECONDS, UTC))
        .not_valid_after(datetime.fromtimestamp(ends, UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _named(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:_COMMON_NAME])])


def _usage(which: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name == which for name in _USAGES})


def _text(signed: x509.Certificate) -> str:
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
