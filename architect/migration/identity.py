"""A node's key and certificate: made here, signed by the control plane, renewed long before they end.

The key is made by a program of its own (`request.py`), and never leaves the process that asked for it but to
whoever in it speaks TLS.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc

from architect.migration import methods
from architect.migration.v1 import migration_pb2 as v1

CALL_SECONDS: Final = 15.0
_AGAIN_SECONDS: Final = (0.5, 1, 2, 5, 10, 30)
_MAKING_SECONDS: Final = 60.0
_MAKER: Final = "architect.migration.request"
_KEY_ENDS: Final = b"-----END PRIVATE KEY-----\n"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is, PEM. Its certificate names it as a client and as a server: DNS:<node>."""

    node: str
    certificate: str
    key: str
    authorities: str
    """Whom it trusts."""
    renew_seconds: float


@dataclass(frozen=True, slots=True)
class Issuer:
    """Where certificates come from. `trusted` and `token` are read each time: both are renewed."""

    address: str
    """host:port of the Service, the port for newcomers."""
    server_name: str
    """The name in its certificate."""
    trusted: Callable[[], str]
    """Whom to trust, PEM: as the control plane's ConfigMap says. May raise OSError."""
    token: Callable[[], str]
    """A service account token for the audience methods.AUDIENCE. May raise OSError."""


async def certified(issuer: Issuer) -> Identity:
    """A new key and its certificate. Raises grpc.aio.AioRpcError, OSError."""
    key, request = await new_request()
    credentials = grpc.ssl_channel_credentials(issuer.trusted().encode())
    options = (("grpc.ssl_target_name_override", issuer.server_name),)
    async with grpc.aio.secure_channel(issuer.address, credentials, options) as channel:
        call = channel.unary_unary(
            methods.CERTIFY.path,
            request_serializer=v1.CertifyRequest.SerializeToString,
            response_deserializer=v1.CertifyResponse.FromString,
        )
        asked = v1.CertifyRequest(token=issuer.token(), request=request)
        found: v1.CertifyResponse = await call(asked, timeout=CALL_SECONDS, wait_for_ready=True)
    return Identity(found.node, found.certificate, key, found.authorities, found.renew_after_seconds)


async def new_request() -> tuple[str, bytes]:
    """A new key, PEM, and a PKCS #10 request for it, DER. Raises OSError."""
    making = await asyncio.create_subprocess_exec(
        sys.executable, "-m", _MAKER, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_MAKING_SECONDS):
            made, _ = await making.communicate()
    except TimeoutError:
        raise OSError(f"a key was not made within {_MAKING_SECONDS:g} s") from None
    finally:
        if making.returncode is None:
            making.kill()
            await making.wait()
    key, end, asked = made.partition(_KEY_ENDS)
    if making.returncode or not end:
        raise OSError(f"the program that makes keys ended with {making.returncode}")
    return (key + end).decode("ascii"), asked


async def keep(issuer: Issuer, renewed: Callable[[Identity], None]) -> None:
    """Gets an identity, and a new one whenever it is time, until cancelled; `renewed` is told of each."""
    failures = 0
    while True:
        try:
            found = await certified(issuer)
        except (grpc.aio.AioRpcError, OSError) as error:
            said = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            log.warning("the node's certificate is not renewed", extra={"reason": said})
            await asyncio.sleep(_AGAIN_SECONDS[min(failures, len(_AGAIN_SECONDS) - 1)])
            failures += 1
        else:
            failures = 0
            log.info("the node has a certificate", extra={"node": found.node})
            renewed(found)
            await asyncio.sleep(found.renew_seconds)
