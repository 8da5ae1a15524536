"""What architectd can be told on its command line: few things, each with a default that serves."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from daemon import VERSION
from daemon.moving.places import CONTAINERD, Places

RUN_DIR: Final = "/run/architect"
METRICS: Final = ("127.0.0.1", 9644)
TOKEN: Final = "/var/run/secrets/architect-migration/token"  # noqa: S105  a file's name
CONTROL_PLANE_NAME: Final = "architect-controlplane.architect.svc"
CERTIFY_PORT: Final = 1338
LEVELS: Final = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Migration:
    """How this node takes part in moves."""

    control_plane: str
    """HOST:PORT of the control plane, for nodes that have a certificate."""
    certificates: str
    """HOST:PORT where those get one that have none."""
    server_name: str
    """The name in the control plane's own certificate."""
    transfer_address: tuple[str, int]
    """Host and TCP port where other nodes fetch what has left this one; port 0 lets the kernel choose."""
    places: Places = field(default_factory=Places)
    token: str = TOKEN
    """A file: the token of the daemon's service account that is for the control plane alone."""
    bytes_per_second: int = 0
    """At most so many leave the node, in all; 0: as many as go."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The daemon's settings."""

    run_dir: str = RUN_DIR
    """Where the sockets are: `shims/` of the shims, `architectd.sock` for people. On a tmpfs, root's alone.
    """
    metrics_address: tuple[str, int] = METRICS
    """Host and TCP port that serve `/metrics`, and nothing else; port 0 lets the kernel choose."""
    restore_limit: int = 2
    """Restores at the same time. More than there are CPUs makes every one of them slower."""
    log_level: str = "info"
    kubernetes: bool = False
    """Whether to report to Kubernetes."""
    node_name: str = ""
    """The name of this node there; needed for that."""
    kubeconfig: str = ""
    """How to reach the API server; "": as every pod does, by its service account."""
    migration: Migration | None = None
    """Nothing moves without it."""


def parse(argv: Sequence[str]) -> Settings:
    """Reads the arguments; ends the program with a usage message when they make no sense."""
    parser = argparse.ArgumentParser(
        "architectd", description="Puts idle containers to sleep and wakes them."
    )
    parser.add_argument("--version", action="version", version=f"architectd {VERSION}")
    parser.add_argument("--run-dir", default=RUN_DIR, metavar="DIR", help="sockets (default: %(default)s)")
    parser.add_argument(
        "--metrics-address",
        type=address,
        default=METRICS,
        metavar="HOST:PORT",
        help="where Prometheus finds /metrics (default: 127.0.0.1:9644)",
    )
    parser.add_argument(
        "--kubernetes",
        choices=["on", "off"],
        default="off",
        help="report to Kubernetes: labels, requests, Events (default: %(default)s)",
    )
    parser.add_argument("--node-name", default="", metavar="NAME", help="this node's name in Kubernetes")
    parser.add_argument(
        "--kubeconfig",
        default="",
        metavar="FILE",
        help="how to reach the API server, where the daemon does not run in a pod",
    )
    parser.add_argument(
        "--restore-limit",
        type=_positive,
        default=max(2, os.cpu_count() or 2),
        metavar="N",
        help="restores at the same time (default: the number of CPUs, at least 2)",
    )
    parser.add_argument(
        "--control-plane",
        metavar="HOST:PORT",
        type=_service,
        help="move the state of pods that are replaced elsewhere, as the control plane there says",
    )
    parser.add_argument(
        "--control-plane-name",
        default=CONTROL_PLANE_NAME,
        metavar="NAME",
        help="the name in its certificate (default: %(default)s)",
    )
    parser.add_argument(
        "--certify-port",
        type=_positive,
        default=CERTIFY_PORT,
        metavar="PORT",
        help="where it gives certificates (default: %(default)s)",
    )
    parser.add_argument(
        "--control-plane-token",
        default=TOKEN,
        metavar="FILE",
        help="of the daemon's service account, for the control plane (default: %(default)s)",
    )
    parser.add_argument(
        "--transfer-address",
        type=address,
        metavar="HOST:PORT",
        help="where other nodes fetch what has left this one",
    )
    parser.add_argument(
        "--transfer-limit",
        type=_amount,
        default=0,
        metavar="BYTES",
        help="how many of them leave this node in a second, at most; 0: as many as go (default: %(default)s)",
    )
    parser.add_argument(
        "--containerd-socket",
        default=CONTAINERD,
        metavar="FILE",
        help="of the node: who is asked which images pods have that move (default: %(default)s)",
    )
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="default: %(default)s")
    given = parser.parse_args(argv)
    if given.kubernetes == "on" and not given.node_name:
        parser.error("--kubernetes=on needs --node-name: only the pods of this node are reported on")
    if given.control_plane and not (given.kubernetes == "on" and given.transfer_address):
        parser.error("--control-plane needs --kubernetes=on and --transfer-address, an address of this node")
    return Settings(
        run_dir=os.path.abspath(given.run_dir),
        metrics_address=given.metrics_address,
        restore_limit=given.restore_limit,
        log_level=given.log_level,
        kubernetes=given.kubernetes == "on",
        node_name=given.node_name,
        kubeconfig=given.kubeconfig,
        migration=_migration(given) if given.control_plane else None,
    )


def _migration(given: argparse.Namespace) -> Migration:
    host, port = given.control_plane
    host = f"[{host}]" if ":" in host else host
    return Migration(
        control_plane=f"{host}:{port}",
        certificates=f"{host}:{given.certify_port}",
        server_name=given.control_plane_name,
        transfer_address=given.transfer_address,
        places=Places(containerd=os.path.abspath(given.containerd_socket)),
        token=os.path.abspath(given.control_plane_token),
        bytes_per_second=given.transfer_limit,
    )


def address(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `[IPV6]:PORT` as a pair. Raises ArgumentTypeError."""
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or (":" in bare) != host.startswith("["):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT; an IPv6 address goes in brackets")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise argparse.ArgumentTypeError(f"{port!r} is no port")
    return bare, int(port)


def _service(text: str) -> tuple[str, int]:
    """As `address`, and as kubelet tells pods of a service: tcp://HOST:PORT. Raises ArgumentTypeError."""
    return address(text.removeprefix("tcp://"))


def _amount(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes")
    return int(text)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 65535")
    return int(text)
