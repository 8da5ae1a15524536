"""What users get, made here without Docker: the folder for nodes, and the images as OCI archives.

Everything comes out the same from the same sources: times are fixed, entries sorted. `deploy/images/` has the
Dockerfiles that make the like elsewhere; both use `node_tree.py` for the folder and `packages.py` for what an
image holds of PyPI's packages.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator

import images as oci
import recipe
import trees

_KEPT = 4
KINDS = ("node", "control")
ENVIRONMENT = (
    "PATH=/usr/bin",
    "PYTHONPATH=/usr/lib/architect:/usr/lib/architect/packages",
    "PYTHONDONTWRITEBYTECODE=1",
    "LANG=C.UTF-8",
)
_ON_NODES = ("architect", "daemon", "shim")
_SHIPPED = (*_ON_NODES, "controlplane", "webhook")


def node() -> str:
    """The directory that holds `<digest>/`, the folder for `/opt/architect/`; built first if need be."""
    sources = {path: recipe.file_digest(os.path.join(recipe.CHECKOUT, path)) for path in _sources(_ON_NODES)}
    script = recipe.file_digest(os.path.join(recipe.CHECKOUT, "hack", "node_tree.py"))
    key = recipe.digest(os.path.basename(trees.tree("forky")), sources, script)
    return _product(f"shipped/node-{key}", _build_node)


def _build_node(at: str, log: str) -> None:
    argv = ["/usr/bin/python3", "-B", "/source/hack/node_tree.py", "/source", "/out"]
    trees.in_tree(trees.tree("forky"), argv, log, {recipe.CHECKOUT: "/source", at: "/out"})


def _sources(folders: tuple[str, ...]) -> Iterator[str]:
    """The files of folders of the checkout, sorted; byte code left out."""
    for top in folders:
        for folder, inner, names in os.walk(os.path.join(recipe.CHECKOUT, top)):
            inner[:] = sorted(name for name in inner if name != "__pycache__")
            for name in sorted(names):
                yield os.path.relpath(os.path.join(folder, name), recipe.CHECKOUT)


def images() -> str:
    """The directory that holds `node.tar` and `control.tar`, OCI archives; built first if need be."""
    folder = node()
    sources = {path: recipe.file_digest(os.path.join(recipe.CHECKOUT, path)) for path in _sources(_SHIPPED)}
    scripts = [
        recipe.file_digest(os.path.join(recipe.CHECKOUT, "hack", name))
        for name in ("image_root.py", "images.py", "shipped.py")
    ]
    packages = recipe.file_digest(recipe.LOCK_FILE)
    key = recipe.digest(os.path.basename(folder), sources, scripts, packages)
    return _product(f"shipped/images-{key}", lambda at, log: _build_images(folder, at, log))


def _build_images(folder: str, at: str, log: str) -> None:
    for kind in KINDS:
        root = f"{at}/{kind}"
        os.mkdir(root)
        argv = ["/opt/venv/bin/python", "-B", "/source/hack/image_root.py", "/source", "/node", "/out", kind]
        binds = {
            recipe.CHECKOUT: "/source",
            folder: "/node",
            root: "/out",
            trees.environment("forky"): "/opt/venv",
        }
        trees.in_tree(trees.tree("forky"), argv, log, binds)
        archive = oci.Archive(f"{at}/{kind}.tar")
        parts = [_entries(f"{root}/{name}") for name in ("base", "packages", "rooms")]
        layers = [archive.layer(part, timeless=True) for part in parts]
        archive.image(f"architect-{kind}", layers, ["/usr/bin/python3"], version(), ENVIRONMENT)
        archive.close()
        shutil.rmtree(root)


def _product(place: str, build: Callable[[str, str], None]) -> str:
    """trees.product, of which only the last used are kept: each change of a source makes a new one."""
    path = trees.product(place, build)
    os.utime(path)
    kept = re.sub("-[0-9a-f]+$", "-", path)
    found = [entry.path for entry in os.scandir(os.path.dirname(path)) if entry.is_dir()]
    same = [each for each in found if re.fullmatch(re.escape(kept) + "[0-9a-f]+", each)]
    for old in sorted(same, key=os.path.getmtime, reverse=True)[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
        for file in (".lock", ".log"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(old + file)
    return path


def binds() -> dict[str, str]:
    """Where a box has all of it: path in the box to directory on the host."""
    return {"/opt/shipped/node": node(), "/opt/shipped/images": images()}


def version() -> str:
    """The product's version, which is its images' tag."""
    with open(os.path.join(recipe.CHECKOUT, "pyproject.toml"), encoding="utf-8") as file:
        found = re.search(r'^version = "(.+)"$', file.read(), re.MULTILINE)
    assert found
    return found[1]


def _entries(top: str) -> Iterator[tuple[str, str]]:
    """(path, path in the image) of everything below `top`, folders first, sorted."""
    for folder, folders, names in os.walk(top):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        inner = os.path.relpath(folder, top)
        if inner != ".":
            yield folder, f"/{inner}"
        for name in sorted([*links, *names]):
            yield os.path.join(folder, name), os.path.normpath(f"/{inner}/{name}")


def main() -> int:
    """Build all of it and print where it is."""
    try:
        print(node())
        for kind in KINDS:
            print(f"{images()}/{kind}.tar")
    except trees.BuildFailed as error:
        print(f"shipped.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
