"""Test images without a registry: one OCI archive, made of Debian's files and the programs in images/.

The archive is built into the cache from the forky tree (its Python, its compiler) and loaded by init.py.
Layers are plain tars, so that loading costs no decompression. Names must be canonical
(`docker.io/local/web:1`) or the CRI does not find what `ctr` imported.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import tarfile
from collections.abc import Iterable
from typing import Any

import recipe
import trees

_PROGRAMS = os.path.join(recipe.CHECKOUT, "hack", "images")
_PYTHON_PACKAGES = re.compile(
    r"(dash|libc6|libexpat1|libffi8|python3-minimal|(lib)?python3\.\d+-(minimal|stdlib)|zlib1g)(:\w+)?\.list"
)
_TOOLS = ("cat", "env", "sleep", "true")
"""What tests execute in a container, of coreutils' 18 MB."""
_LEFT_OUT = re.compile(r"/usr/(share|include)/|/(test|idlelib|ensurepip|pydoc_data|config-[^/]*)/")
_IMAGES = {name: f"{name}.py" for name in ("web", "udp", "holder", "busy", "uring", "ledger", "clocks")}
_STATIC = {"pause": "pause.c", "small": "small.c"}


def directory() -> str:
    """The directory with the archive of all images; built first if need be."""
    sources = sorted(os.listdir(_PROGRAMS))
    digests = [recipe.file_digest(os.path.join(_PROGRAMS, name)) for name in sources]
    key = recipe.digest(
        os.path.basename(trees.tree("forky")), sources, digests, recipe.file_digest(os.path.abspath(__file__))
    )
    return trees.product(f"images/{key}", _build)


def _build(at: str, log: str) -> None:
    root = trees.tree("forky")
    archive = Archive(os.path.join(at, "images.tar"))
    for name, source in _STATIC.items():
        binary = os.path.join(at, name)
        compiler = ["gcc", "-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror", "-o", f"/out/{name}"]
        trees.in_tree(root, ["/usr/bin/" + compiler[0], *compiler[1:], f"/programs/{source}"], log,
                      {at: "/out", _PROGRAMS: "/programs"})  # fmt: skip
        layer = archive.layer([(binary, f"/{name}")])
        archive.image(name, [layer], [f"/{name}"])
        os.unlink(binary)
    python = archive.layer([*_python_files(root), (os.path.join(_PROGRAMS, "tar.py"), "/usr/bin/tar")])
    for name, source in _IMAGES.items():
        paths = [(os.path.join(_PROGRAMS, file), f"/app/{file}") for file in (source, "service.py")]
        archive.image(name, [python, archive.layer(paths)], ["/usr/bin/python3", "-B", f"/app/{source}"])
    archive.close()


def _python_files(root: str) -> list[tuple[str, str]]:
    """(path on the host, path in the image) of everything in the layer under the Python programs."""
    known = root + "/var/lib/dpkg/info"
    wanted = {f"/usr/bin/{tool}" for tool in _TOOLS}
    for listing in os.listdir(known):
        if _PYTHON_PACKAGES.fullmatch(listing):
            with open(f"{known}/{listing}") as file:
                wanted.update(line.strip() for line in file)
    for path in [path for path in wanted if path.endswith(".py")]:
        folder, name = os.path.split(path)
        wanted.update(f"{folder}/__pycache__/{name[:-2]}{tag}.pyc" for tag in _byte_code_tags(root))
    links = ["/bin", "/lib", "/lib64", "/sbin"]
    paths = {path for path in wanted if not _LEFT_OUT.search(path + "/") and _is_file(root + path)}
    return [(root + path, path) for path in [*links, *sorted(paths)]]


def _byte_code_tags(root: str) -> set[str]:
    """Such as {"cpython-314"}: compiled when Python was installed, and added so that programs start fast."""
    found = (re.fullmatch(r"python3\.(\d+)", name) for name in os.listdir(root + "/usr/lib"))
    return {f"cpython-3{match[1]}" for match in found if match}


def _is_file(path: str) -> bool:
    return os.path.islink(path) or os.path.isfile(path)


class Archive:
    """An OCI image layout in a tar: blobs are added as they come, the index is written last."""

    def __init__(self, path: str) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  (`close` ends it)
        self._have: set[str] = set()
        self._index: list[dict[str, Any]] = []

    def layer(self, files: Iterable[tuple[str, str]], *, timeless: bool = False) -> dict[str, Any]:
        """A layer of `files` as its descriptor; everything belongs to root.

        `timeless`: without the files' times. Not for byte code that Python compares with its source.
        """
        buffer = io.BytesIO()
        made = _timeless if timeless else _owned_by_root
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for source, target in files:
                tar.add(source, target.lstrip("/"), recursive=False, filter=made)
        return self._blob("application/vnd.oci.image.layer.v1.tar", buffer.getvalue())

    def image(
        self,
        name: str,
        layers: list[dict[str, Any]],
        command: list[str],
        tag: str = "1",
        environment: Iterable[str] = ("PATH=/usr/sbin:/usr/bin",),
    ) -> None:
        """The image docker.io/local/NAME:TAG that runs `command`."""
        config = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
            "os": "linux",
            "config": {"Entrypoint": command, "Env": list(environment), "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self._json("application/vnd.oci.image.config.v1+json", config),
            "layers": layers,
        }
        entry = self._json(manifest["mediaType"], manifest)
        entry["annotations"] = {"io.containerd.image.name": f"docker.io/local/{name}:{tag}"}
        self._index.append(entry)

    def close(self) -> None:
        """Write the index; before this the archive is not one."""
        index = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": self._index,
        }
        self._add("index.json", json.dumps(index).encode())
        self._add("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        self._tar.close()

    def _json(self, kind: str, value: Any) -> dict[str, Any]:
        return self._blob(kind, json.dumps(value).encode())

    def _blob(self, kind: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._have:
            self._have.add(digest)
            self._add(f"blobs/sha256/{digest}", data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    def _add(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _timeless(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime = 0
    return _owned_by_root(entry)
