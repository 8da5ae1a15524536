"""What the webhook can be told on its command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from webhook import VERSION

LEVELS: Final = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Settings:
    """The webhook's settings."""

    port: int
    """Where it serves, on all addresses; 0 lets the kernel choose."""
    certificate_dir: str
    """Where another, cert-manager for one, puts and renews tls.crt and tls.key; "": it makes its own."""
    service: str
    namespace: str
    """The Service in front of it: whose names the certificate is for."""
    configuration: str
    """The MutatingWebhookConfiguration whose caBundles it writes, if it makes its own certificates."""
    secret: str
    """The Secret in `namespace` that its replicas share, if so."""
    kubeconfig: str
    """For use outside of a pod."""
    log_level: str


def parse(argv: Sequence[str]) -> Settings:
    """Reads the arguments; ends the program with a usage message when they make no sense."""
    parser = argparse.ArgumentParser("webhook", description="Makes the pods that ask for it fit to sleep.")
    parser.add_argument("--version", action="version", version=f"webhook {VERSION}")
    parser.add_argument("--port", type=_port, default=8443, help="serves HTTPS here (default: %(default)s)")
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--certificate-dir", default="", metavar="DIR", help="where tls.crt and tls.key are")
    origin.add_argument("--self-signed", action="store_true", help="makes and renews its own certificates")
    for name, default, what in (
        ("service", "architect-webhook", "the Service in front of it"),
        ("namespace", "architect", "that Service's namespace"),
        ("configuration", "architect-webhook", "the MutatingWebhookConfiguration to write caBundles into"),
        ("secret", "architect-webhook-certificates", "the Secret that its replicas share"),
        ("kubeconfig", "", "a kubeconfig, outside of a pod"),
    ):
        shown = f"{what} (default: {default})" if default else what
        parser.add_argument(f"--{name}", default=default, metavar="NAME", help=shown)
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="default: %(default)s")
    given = vars(parser.parse_args(argv))
    given.pop("self_signed")
    return Settings(**given)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)
