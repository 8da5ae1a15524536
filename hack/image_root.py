#!/usr/bin/env python3
"""Makes the root file system of an image: the interpreter of the folder for nodes, packages, our rooms.

    image_root.py CHECKOUT NODE OUT node|control

`NODE` is what node_tree.py wrote. Runs as the Python of an environment with everything that requirements.lock
names; of that, the image gets what its rooms need. No distribution lies underneath: no shell, nothing else to
execute, nothing to be patched but what is ours. Three folders are written, to be layers from the one that
changes least: `OUT/base`, `OUT/packages`, `OUT/rooms`.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LIBRARY = "usr/lib/architect"
_ROOMS = {"node": ("architect", "daemon"), "control": ("architect", "controlplane", "webhook")}
_NOT_ON_NODES = {"kubernetes-asyncio", "pyroute2"}
_COMMANDS = {
    "node": {"architect": "architect.cli", "architectd": "daemon"},
    "control": {"architect": "architect.cli"},
}
_LEFT_OUT = re.compile(r"(^|/)(__pycache__|tests?|include)/|\.(c|h|pxd|pyx|pyi)$")
_PASSWD = "root:x:0:0:root:/:/sbin/nologin\narchitect:x:65532:65532:architect:/:/sbin/nologin\n"
_GROUP = "root:x:0:\narchitect:x:65532:\n"


def main(checkout: str, node: str, out: str, kind: str) -> int:
    """Write the layers."""
    digest = next(name for name in sorted(os.listdir(node)) if re.fullmatch("[0-9a-f]{12}", name))
    home = f"opt/architect/{digest}"
    shutil.copytree(f"{node}/{digest}", f"{out}/base/{home}", symlinks=True)
    for folder in ("etc", "proc", "run", "sys", "tmp", "usr/bin", "var"):
        os.makedirs(f"{out}/base/{folder}")
    os.chmod(f"{out}/base/tmp", 0o1777)
    os.symlink("../run", f"{out}/base/var/run")
    os.symlink(f"/{home}/bin/python3", f"{out}/base/usr/bin/python3")
    _write(f"{out}/base/etc/passwd", _PASSWD)
    _write(f"{out}/base/etc/group", _GROUP)
    with open(f"{checkout}/pyproject.toml", "rb") as file:
        wanted = tomllib.load(file)["project"]["dependencies"]
    left_out = _NOT_ON_NODES if kind == "node" else set[str]()
    for name in sorted(_closure({_name(each) for each in wanted} - left_out)):
        _copy_distribution(name, f"{out}/packages/{LIBRARY}/packages")
    _add_libraries(f"{out}/packages", f"{out}/base/{home}/lib")
    for room in _ROOMS[kind]:
        shutil.copytree(f"{checkout}/{room}", f"{out}/rooms/{LIBRARY}/{room}", ignore=_no_byte_code)
    for command, module in _COMMANDS[kind].items():
        path = f"{out}/rooms/usr/bin/{command}"
        _write(
            path, f"#!/usr/bin/python3\nimport runpy\n\nrunpy.run_module({module!r}, run_name='__main__')\n"
        )
        os.chmod(path, 0o755)
    for layer in ("packages", "rooms"):
        argv = [sys.executable, "-IS", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
                "-s", f"{out}/{layer}", "-p", "/", f"{out}/{layer}"]  # fmt: skip
        subprocess.run(argv, check=True, env={"PYTHONHASHSEED": "0"})
    return 0


def _name(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)


def _closure(names: set[str]) -> set[str]:
    """Distributions with everything they require."""
    found: set[str] = set()
    ahead = list(names)
    while ahead:
        name = ahead.pop()
        if name in found:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                ahead.append(canonicalize_name(requirement.name))
    return found


def _copy_distribution(name: str, to: str) -> None:
    distribution = importlib.metadata.distribution(name)
    for path in distribution.files or []:
        inner = str(path)
        if (
            inner.startswith("..")
            or _LEFT_OUT.search(inner)
            or os.path.basename(inner) in ("RECORD", "INSTALLER")
        ):
            continue  # commands for a shell, sources of what is compiled, how it was installed
        target = f"{to}/{inner}"
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(str(distribution.locate_file(path)), target)


def _add_libraries(packages: str, have: str) -> None:
    """Libraries that compiled packages need and the interpreter's folder lacks."""
    for folder, _, names in os.walk(packages):
        for name in names:
            if ".so" not in name:
                continue
            listed = subprocess.run(
                ["ldd", f"{folder}/{name}"], capture_output=True, text=True, check=True
            ).stdout
            for path in re.findall(r"(/\S+) \(0x", listed):
                library = os.path.basename(path)
                if not os.path.exists(f"{have}/{library}") and not path.startswith(packages):
                    os.makedirs(f"{packages}/usr/lib", exist_ok=True)
                    shutil.copyfile(path, f"{packages}/usr/lib/{library}")


def _no_byte_code(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
