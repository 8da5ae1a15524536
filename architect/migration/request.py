"""A new key, and a request for its certificate: `python -m architect.migration.request`, key and request to
standard output.

A program of its own: what it is made with takes 10 MiB, a few times a day, of whoever imports it for good.
"""

from __future__ import annotations

import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def new_request() -> tuple[bytes, bytes]:
    """A new key, and a PKCS #10 request for it: PEM, DER. The name in it is the control plane's to give."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, request.public_bytes(serialization.Encoding.DER)


if __name__ == "__main__":
    sys.stdout.buffer.write(b"".join(new_request()))
