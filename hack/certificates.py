"""A certificate authority of a few minutes' life, and the keys of a cluster, by openssl. In the box.

Elliptic curve keys: ten milliseconds each. The trap: openssl's own configuration would make every certificate
one of an authority, so it gets ours.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

_CONFIGURATION = """[req]
distinguished_name = name
[name]
"""
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30")


class Authority:
    """`directory`/ca.crt and ca.key, made at once, and certificates beside them."""

    def __init__(self, directory: str) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._directory = directory
        with open(f"{directory}/openssl.cnf", "w", encoding="utf-8") as file:
            file.write(_CONFIGURATION)
        self._request(
            "ca",
            "/CN=box",
            "basicConstraints=critical,CA:TRUE",
            "keyUsage=critical,keyCertSign,digitalSignature",
        )

    def issue(self, name: str, subject: str, alternatives: Sequence[str] = ()) -> None:
        """Make NAME.crt and NAME.key for `subject` ("/O=group/CN=user").

        `alternatives`: what else it stands for, "IP:..." and "DNS:...".
        """
        names = [f"subjectAltName={','.join(alternatives)}"] if alternatives else []
        authority = ["-CA", f"{self._directory}/ca.crt", "-CAkey", f"{self._directory}/ca.key"]
        self._request(name, subject, "basicConstraints=critical,CA:FALSE", *names, authority=authority)

    def _request(self, name: str, subject: str, *extensions: str, authority: Sequence[str] = ()) -> None:
        at = f"{self._directory}/{name}"
        added = [part for extension in extensions for part in ("-addext", extension)]
        config = f"{self._directory}/openssl.cnf"
        subprocess.run(
            ["openssl", "req", "-x509", "-config", config, *_KEY, "-subj", subject, *added, *authority,
             "-keyout", f"{at}.key", "-out", f"{at}.crt"],
            check=True, capture_output=True, timeout=30,
        )  # fmt: skip
