"""The TLS that the server speaks, with a certificate that may change while it serves.

A new certificate is for connections that open from then on; those that are open go on with theirs.
"""

from __future__ import annotations

import logging
import os
import ssl
from typing import Final

from architect.inotify import CREATE, MODIFY, MOVED_TO, ONLYDIR, Inotify
from architect.program import Unable

CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"

log = logging.getLogger(__name__)


def context() -> ssl.SSLContext:
    """A server's context, without a certificate yet."""
    return ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)


def show(tls: ssl.SSLContext, certificate: str, key: str) -> None:
    """Serves with a certificate and its key, both PEM, from now on. Raises Unable."""
    # ssl reads files only; these are in no file system, so that the key is never on a disk.
    names = [os.memfd_create("pem", os.MFD_CLOEXEC) for _ in range(2)]
    try:
        for descriptor, content in zip(names, (certificate, key), strict=True):
            with open(descriptor, "w", encoding="ascii", closefd=False) as file:
                file.write(content)
        _load(tls, *(f"/proc/self/fd/{descriptor}" for descriptor in names))
    finally:
        for descriptor in names:
            os.close(descriptor)


def show_files(tls: ssl.SSLContext, directory: str) -> None:
    """Serves with what `directory` holds (tls.crt, tls.key) from now on. Raises Unable."""
    _load(tls, os.path.join(directory, CERTIFICATE), os.path.join(directory, KEY))


async def follow_files(tls: ssl.SSLContext, directory: str) -> None:
    """Serves with the first certificate in `directory` and with every new one, until cancelled.

    kubelet renews the files of a Secret by renaming a symbolic link in this directory. Raises Unable if the
    first cannot be used; of a later one, that is logged, and the one before goes on.
    """
    try:
        watch = Inotify(directory, CREATE | MODIFY | MOVED_TO | ONLYDIR)
    except OSError as error:
        raise Unable(f"{directory} cannot be watched: {error}") from error
    with watch:
        show_files(tls, directory)
        while True:
            await watch.next()
            try:
                show_files(tls, directory)
            except Unable as error:
                log.warning("the new certificate cannot be used (yet)", extra={"reason": str(error)})
            else:
                log.info("certificate renewed", extra={"directory": directory})


def _load(tls: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        # Tried on another context first: a pair that does not match would leave this one with half of it.
        context().load_cert_chain(certificate, key, password=_no_password)
        tls.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise Unable(f"{certificate} and {key} are no certificate and its key: {error}") from error


def _no_password() -> str:
    return ""  # an encrypted key is an error, not a question at a terminal
