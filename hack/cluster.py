#!/usr/bin/env python3
"""A Kubernetes cluster of nodes in boxes on this machine: one that stays, or one for a command.

Nothing on the host changes but the cache directory; processes, mounts, network and cgroups are the box's and
end with it. One cluster can stay at a time. The trap: whoever waits for `up` must not share its terminal with
the cluster, which has a session of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import IO, NoReturn

import box
import images
import previous
import programs
import recipe
import shipped
import trees

_STAYING = recipe.CACHE + "/cluster"
"""Of the cluster that stays: kubeconfig, bin/, pid, pid of its box, log."""
_LOCK = recipe.CACHE + "/cluster.lock"
"""Held by the process whose life is the cluster's."""
_DOWN_SECONDS = 60.0
_UP = ["python3", "-m", "hack.cluster_up", "--"]


class Failed(Exception):
    """What was asked for cannot be; the sentence says why."""


def obstacle() -> str:
    """Why this host cannot run a cluster; "" when it can."""
    return box.obstacle(_flavour())


def run(argv: list[str], *, stays: bool = False) -> int:
    """Run `argv` beside the control plane of a fresh cluster and return its exit status.

    It has KUBECONFIG, kubectl and helm; the node `node-1` is `hack.nodes.Node(1)` to it. Raises
    box.Impossible, trees.BuildFailed, programs.Unknown.
    """
    binds = {
        "/opt/images": images.directory(),
        "/opt/kubernetes": programs.kubernetes(),
        "/opt/helm": programs.helm(),
        "/opt/prometheus": programs.prometheus(),
        **shipped.binds(),
        **previous.binds(),
    }
    for name in set(recipe.CLUSTER):
        binds[f"/opt/trees/{name}"] = trees.tree(name)
    made_of = {"nodes": [f"/opt/trees/{name}" for name in recipe.CLUSTER], "cgroups": _flavour().cgroups}
    contents = box.Contents(
        binds={**binds, "/host": _STAYING} if stays else binds,
        writable=("/host",),
        disks=("/var/lib/nodes", "/var/lib/etcd"),
        environment={**_environment(), "CLUSTER": json.dumps(made_of)},
        nests=True,
        pid_file=f"{_STAYING}/box.pid" if stays else "",
    )
    return box.run(_flavour(), [*_UP, *argv], contents=contents)


def _environment() -> dict[str, str]:
    """What a command beside the control plane has in its environment."""
    path = f"{box.ENVIRONMENT['PATH']}:/opt/kubernetes:/opt/helm:/opt/prometheus"
    return {**box.ENVIRONMENT, "PATH": path, "KUBECONFIG": "/etc/kubernetes/admin.conf"}


def _flavour() -> recipe.Flavour:
    """What the control plane's box is; nodes have the same cgroups."""
    first = recipe.FLAVOURS["forky-v1"]
    return recipe.FLAVOURS["forky-v2"] if box.obstacle(first) else first


def up() -> None:
    """Start a cluster that stays, unless there is one, and print how to use it. Raises Failed."""
    if not _runs():
        shutil.rmtree(_STAYING, ignore_errors=True)
        os.makedirs(f"{_STAYING}/bin", mode=0o700)
        # Built by us, not by the process that nobody sees.
        for directory, name in ((programs.kubernetes(), "kubectl"), (programs.helm(), "helm")):
            os.symlink(f"{directory}/{name}", f"{_STAYING}/bin/{name}")
        images.directory()
        with open(f"{_STAYING}/log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), "serve"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        assert process.stdout
        if process.stdout.readline() != b"ready\n":
            status = process.wait()
            with open(f"{_STAYING}/log", errors="replace") as log:
                raise Failed(f"the cluster did not come up (exit status {status}):\n{log.read()[-4000:]}")
        with open(f"{_STAYING}/log") as log:
            print(log.read(), end="")
    print(f"export KUBECONFIG={_STAYING}/kubeconfig PATH={_STAYING}/bin:$PATH")


def _serve() -> int:
    """Be the cluster that stays, until SIGTERM."""
    with open(_LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with open(f"{_STAYING}/pid", "w") as file:
            file.write(str(os.getpid()))
        with socket.create_server(("127.0.0.1", 0)) as listening:
            os.dup2(listening.fileno(), 0)  # the box's command gets our standard streams
        return run(["python3", "-m", "hack.forward"], stays=True)


def down() -> None:
    """End the cluster that stays; returns when nothing of it is left. Raises Failed."""
    if _runs():
        with open(f"{_STAYING}/pid") as file:
            os.kill(int(file.read()), signal.SIGTERM)
        deadline = time.monotonic() + _DOWN_SECONDS
        while _runs():
            if time.monotonic() > deadline:
                raise Failed(f"the cluster still runs after {_DOWN_SECONDS:.0f} s; see {_STAYING}/log")
            time.sleep(0.1)  # the lock tells nobody with a deadline
    shutil.rmtree(_STAYING, ignore_errors=True)


def _runs() -> bool:
    with _open_lock() as lock, contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    return True


@contextlib.contextmanager
def _open_lock() -> Iterator[IO[str]]:
    os.makedirs(recipe.CACHE, exist_ok=True)
    with open(_LOCK, "a") as lock:
        yield lock


def load(path: str) -> None:
    """Import the image archive `path` on every node of the cluster that stays. Raises Failed."""
    for number in range(1, len(recipe.CLUSTER) + 1):
        argv = ["ctr", "--namespace", "k8s.io", "images", "import", "-"]
        with open(path, "rb") as archive:
            status = subprocess.run(_inside(f"node-{number}", argv), stdin=archive, check=False).returncode
        if status:
            raise Failed(f"node-{number} could not import {path}")


def execute(node: str, argv: list[str]) -> NoReturn:
    """Become `argv` on a node of the cluster that stays, or beside its control plane. Raises Failed."""
    command = _inside(node, argv or ["bash"])
    os.execvp(command[0], command)


def _inside(node: str, argv: list[str]) -> list[str]:
    if not _runs():
        raise Failed("no cluster stays here: `make cluster` starts one")
    with open(f"{_STAYING}/box.pid") as file:
        pid = file.read()
    kinds = ("mount", "uts", "ipc", "net", "pid", "cgroup")
    enter = ["nsenter", f"--target={pid}", *(f"--{kind}" for kind in kinds), f"--wdns={box.SOURCE}", "--"]
    environment = {**_environment(), "TERM": os.environ.get("TERM", "dumb")}
    enter += ["env", "-i", *(f"{key}={value}" for key, value in environment.items())]
    if node == "control-plane":
        return [*enter, *argv]
    return [*enter, "/usr/bin/python3", "-IS", f"{box.SOURCE}/hack/cluster_node.py", "exec", node, *argv]


def main() -> int:
    """Parse the command line and do it; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("up", help="start one that stays; prints how to use it")
    verbs.add_parser("down", help="end the one that stays")
    verbs.add_parser("serve", help="be the one that stays; for `up`")
    loading = verbs.add_parser("load", help="import an image archive on every node of the one that stays")
    loading.add_argument("archive")
    entering = verbs.add_parser("exec", help="run a command on a node of the one that stays")
    names = [f"node-{number}" for number in range(1, len(recipe.CLUSTER) + 1)]
    entering.add_argument("node", choices=["control-plane", *names])
    running = verbs.add_parser("run", help="run a command, or a shell, beside a fresh one")
    for each in (entering, running):
        each.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- command", help="default: bash")
    arguments = parser.parse_args()
    argv = getattr(arguments, "argv", [])
    argv = [part for part in argv[:1] if part != "--"] + argv[1:]
    try:
        if arguments.verb == "run":
            return run(argv or ["bash"])
        if arguments.verb == "serve":
            return _serve()
        if arguments.verb == "load":
            load(arguments.archive)
        elif arguments.verb == "exec":
            execute(arguments.node, argv)
        else:
            {"up": up, "down": down}[arguments.verb]()
    except (Failed, box.Impossible, trees.BuildFailed, programs.Unknown) as error:
        print(f"cluster.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
