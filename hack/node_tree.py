#!/usr/bin/env python3
"""Makes the folder that is installed on nodes: shim, interpreter, CRIU and their libraries, all in one place.

    node_tree.py CHECKOUT OUT

writes `OUT/<digest>/`, to be installed as `/opt/architect/<digest>/` and nowhere else. It runs as root on a
Debian that has python3, criu, tar, gzip and patchelf: in the forky tree (`shipped.py`) or in the node image's
Dockerfile.

The programs bring their own loader and C library, because a node's may be older, or another one altogether.
The kernel wants an absolute path for an ELF interpreter and for a script's `#!`: everything is built for a
path of the same length as the last one, the digest is taken of that, and written over it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

HOME = "/opt/architect/"
_UNNAMED = HOME + "0" * 12
_PROGRAMS = {"/usr/bin/python3": "bin/python3", "/usr/sbin/criu": "bin/criu",
             # CRIU archives a container's tmpfs with these, and needs more of them than busybox offers.
             "/usr/bin/tar": "tools/tar", "/usr/bin/gzip": "tools/gzip"}  # fmt: skip
_ROOMS = ("architect", "daemon/installer", "shim")
_SHIMS = ("containerd-shim-runc-architect-v1",)
_LEFT_OUT = re.compile(
    r"(^|/)(__pycache__|cli|kube|tests?|unittest|idlelib|tkinter|turtledemo|ensurepip|pydoc_data|lib2to3|venv)/|"
    r"(^|/)(curses|sqlite3|dbm|xmlrpc|__phello__|config-[^/]*|[^/]*\.pyc)/|"
    r"(^|/)(turtle|antigravity|this|doctest|kube)\.py/|"
    r"/(_?(test|xx)[^/]*|_ctypes_test|_curses[^/]*|_g?dbm|_sqlite3|_tkinter|readline|_codecs_[cjkt][^/]*)\.[^/]*so/"
)
"""Of the standard library and of our folders; matched against a path with a slash at its end."""


def main(checkout: str, out: str) -> int:
    """Build it and print its digest."""
    at = out + "/unnamed"
    shutil.rmtree(at, ignore_errors=True)
    os.makedirs(at)
    for source, target in _PROGRAMS.items():
        _copy(os.path.realpath(source), f"{at}/{target}")
    standard = os.path.dirname(os.__file__)
    _copy_folder(standard, f"{at}/lib/{os.path.basename(standard)}")
    for room in _ROOMS:
        _copy_folder(f"{checkout}/{room}", f"{at}/{room}")
    _copy(f"{checkout}/daemon/__init__.py", f"{at}/daemon/__init__.py")
    _copy(f"{checkout}/LICENSE", f"{at}/LICENSE")
    _gather_libraries(at)
    for target in _PROGRAMS.values():
        _own_loader(f"{at}/{target}")
    for name in _SHIMS:
        _own_interpreter(f"{at}/shim/{name}")
        os.symlink(f"../shim/{name}", f"{at}/bin/{name}")
    _compile(at)
    digest = _digest(at)
    _name(at, digest)
    shutil.rmtree(f"{out}/{digest}", ignore_errors=True)
    os.rename(at, f"{out}/{digest}")
    print(digest)
    return 0


def _copy(source: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copyfile(source, target)
    os.chmod(target, 0o755 if os.access(source, os.X_OK) else 0o644)


def _copy_folder(source: str, target: str) -> None:
    for path in _files(source):
        inner = os.path.relpath(path, source)
        if not _LEFT_OUT.search(f"{inner}/"):
            _copy(path, f"{target}/{inner}")


def _files(top: str) -> Iterator[str]:
    for folder, folders, names in os.walk(top):
        folders.sort()
        yield from (f"{folder}/{name}" for name in sorted(names))


def _is_elf(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def _gather_libraries(at: str) -> None:
    """Copy the loader and every library that one of the programs and modules asks for into `lib/`."""
    wanted = set()
    for path in list(_files(at)):
        if not _is_elf(path):
            continue
        listed = _output(["ldd", path])
        if "not found" in listed:
            sys.exit(f"{path} lacks a library:\n{listed}")
        wanted.update(re.findall(r"(/\S+) \(0x", listed))
    for library in sorted(wanted):
        _copy(library, f"{at}/lib/{os.path.basename(library)}")


def _own_loader(program: str) -> None:
    loader = os.path.basename(_output(["patchelf", "--print-interpreter", program]).strip())
    # RPATH, not RUNPATH: it holds for libraries of libraries and for Python's modules, too. In two runs, in
    # this order: patchelf 0.18, given both at once, makes a Python that crashes.
    _output(["patchelf", "--set-rpath", "$ORIGIN/../lib", "--force-rpath", program])
    _output(["patchelf", "--set-interpreter", f"{_UNNAMED}/lib/{loader}", program])


def _own_interpreter(script: str) -> None:
    with open(script, encoding="utf-8") as file:
        first, rest = file.readline(), file.read()
    if not first.startswith("#!/usr/bin/python3 "):
        sys.exit(f"{script} does not start with #!/usr/bin/python3")
    with open(script, "w", encoding="utf-8") as file:
        file.write(first.replace("/usr/bin/python3", f"{_UNNAMED}/bin/python3") + rest)


def _compile(at: str) -> None:
    """Byte code that is never checked against its source: nothing here changes, a start saves the looks."""
    argv = [sys.executable, "-IS", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
            "-s", at, "-p", _UNNAMED, at]  # fmt: skip
    subprocess.run(argv, check=True, env={"PYTHONHASHSEED": "0"})


def _digest(at: str) -> str:
    total = hashlib.sha256()
    for path in _files(at):
        if os.path.islink(path):
            kind, content = "link", os.readlink(path).encode()
        else:
            kind = "program" if os.access(path, os.X_OK) else "file"
            with open(path, "rb") as file:
                content = file.read()
        total.update(f"{kind} {os.path.relpath(path, at)} {len(content)}\n".encode() + content)
    return total.hexdigest()[:12]


def _name(at: str, digest: str) -> None:
    for path in _files(at):
        if os.path.islink(path):
            continue
        with open(path, "rb") as file:
            content = file.read()
        if _UNNAMED.encode() in content:
            with open(path, "wb") as file:
                file.write(content.replace(_UNNAMED.encode(), f"{HOME}{digest}".encode()))


def _output(argv: list[str]) -> str:
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode and argv[0] != "ldd":  # which fails for what is linked statically
        sys.exit(f"{' '.join(argv)} ended with {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
