"""Who a node is to the others: mutual TLS 1.3 between nodes that one authority has certified.

A node's certificate carries its name as the only DNS name of its subjectAltName, and is good for both ends of
a connection (clientAuth and serverAuth, or no extended key usage at all). Names are compared with what the
two were told of each other, not with addresses.
"""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass, field
from typing import Final

from daemon.transfer.errors import Refused

_PROTOCOL: Final = "architect-transfer/1"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A node's certificate (and what leads to the authority), its key, the authorities to believe; PEM."""

    certificate: str
    key: str = field(repr=False)
    authority: str

    def server(self) -> ssl.SSLContext:
        """To be asked by other nodes. Raises Refused when the PEMs are none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0  # nobody comes back often enough for resuming sessions
        return self._filled(context)

    def client(self) -> ssl.SSLContext:
        """To ask other nodes. Raises Refused when the PEMs are none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # `peer` is asked instead
        return self._filled(context)

    def _filled(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols([_PROTOCOL])
        try:
            context.load_verify_locations(cadata=self.authority)
            _show(context, self.certificate, self.key)
        except (OSError, ValueError) as error:
            raise Refused(f"this node's own certificate can not be used: {error}") from error
        return context


def peer(connection: ssl.SSLSocket) -> str:
    """The name of the node at the other end. Raises Refused when its certificate names none, or several."""
    if connection.selected_alpn_protocol() != _PROTOCOL:
        raise Refused(f"the other side does not speak {_PROTOCOL}")
    certificate = connection.getpeercert() or {}
    alternatives = certificate.get("subjectAltName", ())
    names = [str(pair[1]) for pair in alternatives if pair[0] == "DNS"]
    if len(names) != 1:
        raise Refused(f"the other side's certificate has {len(names)} DNS names; a node's has one")
    return names[0]


def end(connection: socket.socket) -> None:
    """Ends a connection from any thread: whoever waits for it is woken."""
    try:
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # of TLS, the one of SSLSocket forgets its state
    except OSError:
        pass  # it has ended already


def _show(context: ssl.SSLContext, certificate: str, key: str) -> None:
    # ssl reads files only; these are in no file system, so that the key is never on a disk.
    shown = os.memfd_create("certificate", os.MFD_CLOEXEC)
    secret = os.memfd_create("key", os.MFD_CLOEXEC)
    try:
        for descriptor, content in ((shown, certificate), (secret, key)):
            with open(descriptor, "w", encoding="ascii", closefd=False) as file:
                file.write(content)
        context.load_cert_chain(f"/proc/self/fd/{shown}", f"/proc/self/fd/{secret}", password="")
    finally:
        os.close(shown)
        os.close(secret)
