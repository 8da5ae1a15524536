"""What the control plane can be told on its command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from controlplane import VERSION

LEVELS: Final = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Settings:
    """The control plane's settings. Ports are served on all addresses; 0 lets the kernel choose."""

    port: int
    """For nodes that have a certificate."""
    certify_port: int
    """For those that want one."""
    health_port: int
    address: str
    """Where other nodes reach this replica, if it leads: a pod's own IP address."""
    service: str
    """The Service in front of it: whose names its certificate is for."""
    namespace: str
    secret: str
    """The Secret with the authorities, and the ConfigMap with whom to trust, in `namespace`."""
    lease: str
    node_account: str
    """The service account of the node pods, in `namespace`."""
    kubeconfig: str
    log_level: str


def parse(argv: Sequence[str]) -> Settings:
    """Reads the arguments; ends the program with a usage message when they make no sense."""
    parser = argparse.ArgumentParser("controlplane", description="Brings pods' memory from node to node.")
    parser.add_argument("--version", action="version", version=f"controlplane {VERSION}")
    for name, port, what in (
        ("port", 1337, "nodes with a certificate"),
        ("certify-port", 1338, "nodes that want a certificate"),
        ("health-port", 9645, "health, readiness and metrics"),
    ):
        parser.add_argument(
            f"--{name}", type=_port, default=port, help=f"serves {what} here (default: {port})"
        )
    for name, default, what in (
        ("address", "127.0.0.1", "where nodes reach this replica"),
        ("service", "architect-controlplane", "the Service in front of it"),
        ("namespace", "architect", "that Service's namespace"),
        (
            "secret",
            "architect-migration",
            "the Secret with the authorities; the ConfigMap with whom to trust",
        ),
        ("lease", "architect-controlplane", "the Lease that who leads holds"),
        ("node-account", "architectd", "the service account of nodes"),
        ("kubeconfig", "", "a kubeconfig, outside of a pod"),
    ):
        shown = f"{what} (default: {default})" if default else what
        parser.add_argument(f"--{name}", default=default, metavar="NAME", help=shown)
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="default: %(default)s")
    return Settings(**vars(parser.parse_args(argv)))


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)
