"""The installer's command line: `install` and `uninstall`, in the node image's container or on the node.

In a container (privileged, in the node's process namespace) it enters the node's mount namespace, copies the
install there, and goes on as that install's own interpreter: everything that follows sees the node as
containerd does, and an interpreter that does not run there is noticed before anything was changed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from daemon.installer import node, places
from daemon.installer.containerd import SOCKET
from daemon.installer.errors import Refused

SOURCE: Final = places.HOME
"""Of the node image: it runs on the same interpreter that it installs."""
_NODE: Final = "/proc/1/ns/mnt"


def main(argv: Sequence[str] | None = None, digest: str = "") -> int:
    """Run one command; its exit code. `digest`: the install on the node that this runs from, if it does."""
    options = _parser().parse_args(argv)
    configure = not options.leave_containerd
    wishes = node.Wishes(options.containerd_socket, options.containerd_restart, configure, options.moves)
    try:
        if not digest:
            _enter_and_go_on(options)
        install = options.action == "install"
        steps = node.install(digest, wishes) if install else node.uninstall(wishes)
        for step in steps:
            print(step, flush=True)
    except Refused as refusal:
        print(f"installer: {refusal}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python3 -m daemon.installer", description=__doc__)
    parser.add_argument("action", choices=("install", "uninstall"))
    parser.add_argument(
        "--source", default=SOURCE, metavar="DIR", help="what is installed (default: %(default)s)"
    )
    parser.add_argument("--containerd-socket", default=SOCKET, metavar="PATH", help="default: %(default)s")
    parser.add_argument(
        "--containerd-restart",
        choices=("auto", "signal", "never"),
        default="auto",
        help="when its configuration changed: ask systemd; end it, as somebody starts it again; or leave it"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--leave-containerd", action="store_true", help="do not touch containerd's configuration"
    )
    parser.add_argument(
        "--moves",
        action="store_true",
        help="pods move between nodes: none begins unasked",
    )
    return parser


def _enter_and_go_on(options: argparse.Namespace) -> None:
    """Enter the node, put the install there, go on as its interpreter; returns if nothing is installed."""
    if options.action == "install":
        digest = _bring(options.source)
    else:
        _enter()
        digest = places.current()
        if not digest:
            return
    home = f"{places.HOME}/{digest}"
    argv = [f"{home}/bin/python3", "-IS", f"{home}/daemon/installer/run.py", options.action,
            f"--containerd-socket={options.containerd_socket}",
            f"--containerd-restart={options.containerd_restart}",
            *(["--leave-containerd"] if options.leave_containerd else []),
            *(["--moves"] if options.moves else [])]  # fmt: skip
    _execute(argv)


def _bring(source: str) -> str:
    """Enter the node and put the install there; its digest."""
    found = places.digests(source)
    if len(found) != 1:
        raise Refused(f"{source} holds {len(found)} installs instead of one: this is not the node image")
    folder = os.open(f"{source}/{found[0]}", os.O_RDONLY | os.O_DIRECTORY)
    _enter()
    places.copy(folder, found[0])
    os.close(folder)
    return found[0]


def _enter() -> None:
    """Enter the mount namespace of the node, by its process 1."""
    target = os.open(_NODE, os.O_RDONLY)
    if os.fstat(target).st_ino != os.stat("/proc/self/ns/mnt").st_ino:
        os.setns(target, os.CLONE_NEWNS)
    os.close(target)
    os.chdir("/")


def _execute(argv: list[str]) -> NoReturn:
    try:
        os.execve(argv[0], argv, {"PATH": os.environ.get("PATH", ""), "LANG": "C"})
    except OSError as error:
        raise Refused(
            f"{argv[0]} does not run on this node: {error.strerror}; is /opt mounted noexec?"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
