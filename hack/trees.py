"""Builds what boxes are made of into the cache: root file systems, Python environments.

Each product is built beside its place and renamed into it, under a lock of its name: two builds that race
make it once, and a build that is killed leaves only a directory that the next one removes. The trap: CRIU is
moved out of Debian's package with its own loader and libraries, so that it runs on any node (the one of
trixie, 4.1, cannot dump TCP sockets on kernels from 6.16 on).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import linux
import recipe

_BUILD_SECONDS = 3600


class BuildFailed(Exception):
    """Something could not be made; the sentence names the log."""


def tree(name: str) -> str:
    """The root file system `name` ("forky", "trixie"); built first if need be. Read-only for everybody."""
    key = recipe.digest(name, recipe.PACKAGES[name], recipe.MIRROR, recipe.PACKAGES["forky"], _CRIU_SCRIPT)
    if name in recipe.SUITES:
        key = recipe.digest(name, recipe.PACKAGES[name], recipe.MIRROR)
    return product(f"trees/{name}-{key}", lambda at, log: _build_tree(name, at, log))


def environment(name: str) -> str:
    """The virtual environment (`/opt/venv` in the box) of tree `name` with what requirements.lock pins."""
    root = tree(name)
    key = recipe.digest(os.path.basename(root), recipe.file_digest(recipe.LOCK_FILE))
    return product(f"venvs/{name}-{key}", lambda at, log: _build_environment(root, at, log))


def product(place: str, build: Callable[[str, str], None]) -> str:
    """The directory `place` of the cache, made by `build(directory, log file)` if it is not there."""
    path = os.path.join(recipe.CACHE, place)
    if os.path.isdir(path):
        return path
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with _lock(path + ".lock"):
        if os.path.isdir(path):
            return path
        print(f"building {place} in {recipe.CACHE} ...", file=sys.stderr, flush=True)
        log, unfinished = path + ".log", path + ".unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        os.mkdir(unfinished, 0o755)
        build(unfinished, log)
        os.rename(unfinished, path)
    return path


@contextlib.contextmanager
def _lock(path: str) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(argv: list[str], log: str) -> None:
    """Run a build step with its output in `log`. Raises BuildFailed with the log's end."""
    with open(log, "ab") as file:
        result = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=_BUILD_SECONDS, check=False
        )
    if result.returncode:
        with open(log, errors="replace") as file:
            tail = "".join(file.readlines()[-15:])
        raise BuildFailed(f"{argv[0]} ended with {result.returncode}; {log} ends with:\n{tail}")


def _need_mmdebstrap(log: str) -> None:
    missing = [tool for tool in ("mmdebstrap",) if not shutil.which(tool)]
    if not os.path.exists("/usr/share/keyrings/debian-archive-keyring.gpg"):
        missing.append("debian-archive-keyring")  # Ubuntu does without it
    install(missing, log)


def install(packages: list[str], log: str) -> None:
    """Install Debian packages on the host; the one thing that changes it."""
    if packages:
        run(["apt-get", "update"], log)
        run(["apt-get", "install", "--yes", "--no-install-recommends", *packages], log)


def _build_tree(name: str, at: str, log: str) -> None:
    _need_mmdebstrap(log)
    argv = [
        *("unshare", "--mount", "--propagation=private"),  # its mounts end with it, even when it is killed
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--include=" + ",".join(recipe.PACKAGES[name]),
        '--aptopt=Acquire::Check-Valid-Until "false"',  # mirrors of a suite in the making lag behind
        *(f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "info", "locale", "man")),
        recipe.SUITES.get(name, name),
        at,
        recipe.MIRROR,
    ]
    run(argv, log)
    if name in recipe.SUITES:
        return
    os.makedirs(at + "/opt/architect", exist_ok=True)
    if name == "forky":
        in_tree(at, ["/bin/sh", "-euc", _CRIU_SCRIPT], log)
    else:
        shutil.copytree(tree("forky") + recipe.CRIU, at + recipe.CRIU, symlinks=True)


# CRIU with its loader and libraries in one folder: ELF interpreter and search path point there.
_CRIU_SCRIPT = f"""
to={recipe.CRIU}
mkdir -p "$to/lib"
cp /usr/sbin/criu "$to/criu"
ldd /usr/sbin/criu | while read -r name arrow path rest; do
    case "$name" in /*) path="$name";; esac
    case "$path" in /*) cp -L "$path" "$to/lib/";; esac
done
loader="$(patchelf --print-interpreter "$to/criu")"
patchelf --set-interpreter "$to/lib/${{loader##*/}}" --set-rpath "$to/lib" --force-rpath "$to/criu"
for library in "$to"/lib/*; do
    case "$library" in
        */ld-linux*|*/libc.so*) ;;
        *) patchelf --set-rpath "$to/lib" --force-rpath "$library";;
    esac
done
"$to/criu" --version
"""


def _build_environment(root: str, at: str, log: str) -> None:
    options = ["--no-cache-dir", "--no-compile", "--require-hashes", "--only-binary=:all:"]
    script = (
        "python3 -m venv /opt/venv; if [ -e /requirements.lock ]; then"
        f" /opt/venv/bin/pip install {' '.join(options)} -r /requirements.lock; fi;"
        " /opt/venv/bin/python -m compileall -q -j 2 /opt/venv/lib"
    )
    binds = {at: "/opt/venv", "/etc/ssl/certs": "/etc/ssl/certs"}
    for file in ("/etc/resolv.conf", recipe.LOCK_FILE):
        if os.path.exists(file):
            binds[file] = "/etc/resolv.conf" if file == "/etc/resolv.conf" else "/requirements.lock"
    in_tree(root, ["/bin/sh", "-euc", script], log, binds)


def in_tree(root: str, argv: list[str], log: str, binds: dict[str, str] | None = None) -> None:
    """Run a build step with `root` as its root and the host's network.

    What it writes there stays only below `binds` (host path -> path in the tree) and, while the tree is being
    built, in the tree itself.
    """
    helper = [sys.executable, os.path.abspath(__file__), root, *_flat(binds or {}), "--", *argv]
    run(["unshare", "--mount", "--propagation=private", *helper], log)


def _flat(binds: dict[str, str]) -> list[str]:
    return [f"{source}={target}" for source, target in binds.items()]


def _inside(root: str, binds: list[str], argv: list[str]) -> None:
    if root.endswith(".unfinished"):
        linux.bind(root, root)
    else:  # finished: what is written goes to memory and is forgotten
        layers = recipe.CACHE + "/scratch"
        os.makedirs(layers, exist_ok=True)
        linux.mount("tmpfs", layers, "tmpfs")
        for part in ("upper", "work", "root"):
            os.mkdir(f"{layers}/{part}")
        options = f"lowerdir={root},upperdir={layers}/upper,workdir={layers}/work"
        root = f"{layers}/root"
        linux.mount("overlay", root, "overlay", data=options)
    linux.mount("proc", root + "/proc", "proc")
    linux.bind("/dev", root + "/dev")
    for pair in binds:
        source, _, target = pair.partition("=")
        if os.path.isdir(source):
            os.makedirs(root + target, exist_ok=True)
        else:
            with open(root + target, "a"):
                pass
        linux.bind(source, root + target)
    keep = (
        "GOPROXY",
        "GOSUMDB",
        "PIP_",
        "SSL_",
        "http_",
        "https_",
        "HTTP_",
        "HTTPS_",
        "no_proxy",
        "NO_PROXY",
    )
    environ = {key: value for key, value in os.environ.items() if key.startswith(keep)}
    environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    os.chroot(root)
    os.chdir("/")
    os.execve(argv[0], argv, environ)


if __name__ == "__main__":
    cut = sys.argv.index("--")
    _inside(sys.argv[1], sys.argv[2:cut], sys.argv[cut + 1 :])
