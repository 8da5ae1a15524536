"""What a node in a box is made of: flavours, Debian packages, and where things are kept.

Plain data; `trees.py` builds it, `box.py` enters it. A tree's name carries the digest of everything here that
shapes it, so that a changed recipe builds a new tree beside the old one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CACHE = os.environ.get("ARCHITECT_CACHE", "/var/cache/architect")
OUT = os.path.join(CHECKOUT, "out")
"""What a box may write for its caller; `/out` in there."""
LOCK_FILE = os.path.join(CHECKOUT, "requirements.lock")
MIRROR = "http://deb.debian.org/debian"
CRIU = "/opt/architect/criu"

_NODE = (
    "ca-certificates", "containerd", "containernetworking-plugins", "curl", "iproute2", "iptables",
    "nftables", "procps", "python3", "python3-venv", "runc", "tar", "util-linux",
)  # fmt: skip
PACKAGES = {
    # The workshop as well: CRIU for both trees is taken from here, test images are built here.
    "forky": (*_NODE, "criu", "gcc", "libc6-dev", "patchelf"),
    "trixie": _NODE,
    # Not a node: Go, and etcd, whose packages are no modules.
    "builder": ("ca-certificates", "etcd-server", "golang-1.26-go"),
}
SUITES = {"builder": "forky"}
"""The Debian release of trees that are not named after it."""
CLUSTER = tuple(os.environ.get("CLUSTER_NODES", "forky,trixie").split(","))
"""The trees of a cluster's nodes: containerd 2.1 and 1.7."""
KUBERNETES = os.environ.get("KUBERNETES", "1.35")
"""Which of the versions pinned in kubernetes/ a cluster runs."""


@dataclasses.dataclass(frozen=True)
class Flavour:
    """A kind of node: which Debian, and which version of cgroups it sees."""

    name: str
    tree: str
    cgroups: int


FLAVOURS = {
    flavour.name: flavour
    for flavour in (
        Flavour("forky-v1", "forky", 1),  # containerd 2.1, runc 1.3, Python 3.14
        Flavour("forky-v2", "forky", 2),
        Flavour("trixie-v1", "trixie", 1),  # containerd 1.7, runc 1.1, Python 3.13
        Flavour("trixie-v2", "trixie", 2),
    )
}
TESTED = ("forky-v1", "forky-v2", "trixie-v1")


def digest(*parts: object) -> str:
    """A short name for the recipe `parts` (JSON values)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def file_digest(path: str) -> str:
    """SHA-256 of a file, hexadecimal; of nothing when there is no such file."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except FileNotFoundError:
        return hashlib.sha256(b"").hexdigest()
