"""Process 1 of a box: makes it a node (containerd, pod network, images), runs the command, reaps orphans.

Runs on the box's own Python. When the command ends this process does, and the kernel ends everything else.
It leaves the mounts to box.py. The trap: orphans of shims become children of this process; an unreaped one
would look alive to whoever waits for its pid.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import containerd

_SOURCE = "/opt/architect/src"


def main(arguments: Sequence[str]) -> int:
    """Make the node if asked to (`--node`), run what follows `--`; returns its exit status.

    `--plain`: nothing of Architect is there, as on a node before its installation.
    """
    cut = arguments.index("--")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command
    _set_up()
    if "--plain" not in arguments[:cut]:
        _add_architect()
    if "--node" in arguments[:cut]:
        containerd.start_node(_SOURCE)
    status = _run(arguments[cut + 1 :])
    _end_everything()
    return status


def _set_up() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)
    # The pods' bridge would not answer on its IPv6 address for the first seconds: nobody else can have it.
    for which in ("all", "default"):
        _write(f"/proc/sys/net/ipv6/conf/{which}/accept_dad", "0")
    for path in ("/etc/containerd", "/etc/cni/net.d", "/run/containerd", "/var/log/pods"):
        os.makedirs(path, exist_ok=True)


def _add_architect() -> None:
    os.makedirs("/run/architect", exist_ok=True)
    os.makedirs("/opt/architect/bin", exist_ok=True)
    os.symlink(f"{_SOURCE}/shim/{containerd.SHIM}", f"/opt/architect/bin/{containerd.SHIM}")
    for name, module in (("architect", "architect.cli"), ("architectd", "daemon")):
        _write(f"/usr/local/bin/{name}", f'#!/bin/sh\nexec python3 -m {module} "$@"\n')
        os.chmod(f"/usr/local/bin/{name}", 0o755)


def _run(argv: Sequence[str]) -> int:
    terminal = sys.stdin.isatty()
    command = subprocess.Popen(argv, preexec_fn=_take_terminal if terminal else _restore_signals)
    while True:
        pid, status = os.wait()  # orphans included
        if pid == command.pid:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code


def _end_everything() -> None:
    """Kill all other processes: the kernel would wait for ever for those that cgroup v1 holds frozen."""
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return
    for path, _, names in os.walk("/sys/fs/cgroup"):
        if "freezer.state" in names:
            _write(f"{path}/freezer.state", "THAWED")
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def _restore_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _take_terminal() -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # or taking the terminal would stop us
    os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    _restore_signals()


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
