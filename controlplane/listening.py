"""The two gRPC ports, with certificates that change while they serve: the next handshake gets the newest.

Nodes without a certificate come to one port, and can only ask for one there. The other is for those with one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from architect import generations
from controlplane import authorities
from controlplane.authorities import Authority

GRACE_SECONDS: Final = 2.0
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 256 << 10),
    ("grpc.max_metadata_size", 16 << 10),
    # A stream may be silent for hours: whoever is gone is found out by pings, of either side.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
)


@dataclass(slots=True)
class Identity:
    """The certificate of this process, and whom it trusts. Handshakes ask for it on threads of gRPC's own."""

    names: Sequence[str]
    _mutual: grpc.ServerCertificateConfiguration | None = field(default=None, init=False)
    _plain: grpc.ServerCertificateConfiguration | None = field(default=None, init=False)
    _of: tuple[tuple[Authority, ...], int] = field(default=((), 0), init=False)

    def renew(self, known: Sequence[Authority], now: int) -> None:
        """A new certificate, if the authorities have changed or the old one is a third through its life."""
        before, made = self._of
        if before == tuple(known) and now < made + authorities.RENEW_SECONDS:
            return
        shown = authorities.for_service(generations.in_use(known, now), self.names, now)
        pair = [(shown.key.encode(), shown.certificate.encode())]
        trusted = authorities.bundle(known).encode()
        self._mutual = grpc.ssl_server_certificate_configuration(pair, root_certificates=trusted)
        self._plain = grpc.ssl_server_certificate_configuration(pair)
        self._of = tuple(known), now

    def mutual(self) -> grpc.ServerCredentials:
        """For a port where both sides show a certificate. Only after the first `renew`."""
        return self._credentials(lambda: self._mutual, both=True)

    def plain(self) -> grpc.ServerCredentials:
        """For a port where only this side does."""
        return self._credentials(lambda: self._plain, both=False)

    def _credentials(self, newest: Any, *, both: bool) -> grpc.ServerCredentials:
        first = newest()
        assert first is not None, "there is a certificate before there is a port"
        return grpc.dynamic_ssl_server_credentials(first, newest, require_client_authentication=both)


async def listen(
    handlers: grpc.GenericRpcHandler, credentials: grpc.ServerCredentials, port: int
) -> tuple[grpc.aio.Server, int]:
    """A server on all addresses, and its port. Raises RuntimeError when the port cannot be had."""
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((handlers,))
    found = server.add_secure_port(f"[::]:{port}", credentials)
    await server.start()
    return server, found
