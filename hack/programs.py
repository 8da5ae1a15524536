"""Builds a cluster's programs into the cache: Kubernetes and Helm from Go modules, etcd and Prometheus from
Debian.

What is built is pinned by the go.mod and go.sum files in kubernetes/, what builds it is the "builder" tree's
Go; the host needs neither. Each set is a product of its own, so that a new Helm does not build Kubernetes
again. The trap: a module's version is in none of its files; without the linker's -X, programs say v0.0.0.
"""

from __future__ import annotations

import os
import re
import shutil

import recipe
import trees

_MODULES = os.path.join(recipe.CHECKOUT, "hack", "kubernetes")
_GO = "/usr/lib/go-1.26/bin/go"
_FLAGS = "-s -w -X k8s.io/component-base/version.gitVersion={version}"
_SCRIPT = """
cd /module
nice {go} build -mod=readonly -trimpath -buildvcs=false -ldflags "{flags}" -o /to/ tool
chmod -R u+w /to/build
rm -rf /to/build
"""
_PROMETHEUS = """
cd /to
apt="apt-get --quiet --option Acquire::Check-Valid-Until=false --option APT::Sandbox::User=root"
$apt update
$apt download prometheus
dpkg-deb --fsys-tarfile prometheus_*.deb | tar --extract --strip-components=3 ./usr/bin/prometheus
rm prometheus_*.deb
./prometheus --version
"""


class Unknown(Exception):
    """Nothing is pinned for the version that was asked for."""


def kubernetes() -> str:
    """The directory with etcd, the six programs of Kubernetes `recipe.KUBERNETES`, built first if need be.

    That takes some seven minutes on two processors. Raises Unknown.
    """
    known = sorted(name for name in os.listdir(_MODULES) if name[0].isdigit())
    if recipe.KUBERNETES not in known:
        raise Unknown(f"KUBERNETES is {recipe.KUBERNETES!r}; pinned are {', '.join(known)}")
    return _product(f"kubernetes-{recipe.KUBERNETES}", recipe.KUBERNETES, with_etcd=True)


def helm() -> str:
    """The directory with `helm`, built first if need be."""
    return _product("helm", "helm", with_etcd=False)


def prometheus() -> str:
    """The directory with `prometheus`, unpacked first if need be, without what else its package wants."""
    key = recipe.digest(os.path.basename(trees.tree("forky")), _PROMETHEUS)
    return trees.product(f"programs/prometheus-{key}", _unpack_prometheus)


def _unpack_prometheus(at: str, log: str) -> None:
    binds = {at: "/to", "/etc/resolv.conf": "/etc/resolv.conf"}
    trees.in_tree(trees.tree("forky"), ["/bin/sh", "-euc", _PROMETHEUS], log, binds)


def _product(name: str, module: str, *, with_etcd: bool) -> str:
    source = os.path.join(_MODULES, module)
    builder = trees.tree("builder")
    files = [recipe.file_digest(os.path.join(source, file)) for file in ("go.mod", "go.sum")]
    key = recipe.digest(os.path.basename(builder), files, _SCRIPT, _FLAGS)
    return trees.product(f"programs/{name}-{key}", lambda at, log: _build(source, at, log, with_etcd))


def _build(source: str, at: str, log: str, with_etcd: bool) -> None:
    builder = trees.tree("builder")
    os.mkdir(f"{at}/build")  # Go's caches: 4 GB that nobody needs afterwards
    script = _SCRIPT.format(go=_GO, flags=_FLAGS.format(version=_version(source)))
    environment = {
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "HOME": "/to/build",
        "GOCACHE": "/to/build/cache",
    }
    argv = ["/usr/bin/env", *(f"{key}={value}" for key, value in environment.items())]
    binds = {
        at: "/to",
        source: "/module",
        "/etc/ssl/certs": "/etc/ssl/certs",
        "/etc/resolv.conf": "/etc/resolv.conf",
    }
    trees.in_tree(builder, [*argv, "/bin/sh", "-euc", script], log, binds)
    if with_etcd:
        shutil.copy2(f"{builder}/usr/bin/etcd", at)


def _version(source: str) -> str:
    """Such as v1.35.4; for a module without Kubernetes "" (Helm knows its own)."""
    with open(f"{source}/go.mod") as file:
        found = re.search(r"k8s\.io/kubernetes (v\S+)", file.read())
    return found[1] if found else ""
