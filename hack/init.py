"""Process 1 of a box: makes it a node (containerd, pod network, images), runs the command, reaps orphans.

Runs on the box's own Python. When the command ends this process does, and the kernel ends everything else.
It leaves the mounts to box.py. The trap: orphans of shims become children of this process; an unreaped one
would look alive to whoever waits for its pid.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

CONTAINERD = "/run/containerd/containerd.sock"
CONTAINERD_LOG = "/var/log/containerd.log"
IMAGES = "/opt/images/images.tar"
_CONTROLLERS = "/sys/fs/cgroup/cgroup.controllers"
_READY_SECONDS = 30.0 * float(os.environ.get("NODE_SLOWNESS", "1"))
_SHIM = "containerd-shim-runc-architect-v1"
_SOURCE = "/opt/architect/src"

_NETWORK = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}

_RUNTIMES = """
[plugins."{runtime}".containerd]
default_runtime_name = "runc"

[plugins."{runtime}".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."{runtime}".containerd.runtimes.runc.options]
SystemdCgroup = false

[plugins."{runtime}".containerd.runtimes.runc-architect]
runtime_type = "io.containerd.runc.v2"
runtime_path = "/opt/architect/bin/{shim}"
pod_annotations = ["architect.loopholelabs.io/*"]
container_annotations = ["io.kubernetes.container.*"]
[plugins."{runtime}".containerd.runtimes.runc-architect.options]
SystemdCgroup = false
"""

# A container may not lower its OOM score where CAP_SYS_RESOURCE is missing: runc then fails every sandbox.
_CONFIG_1 = """version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/local/pause:1"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
""" + _RUNTIMES.format(runtime="io.containerd.grpc.v1.cri", shim=_SHIM)

_CONFIG_2 = """version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "docker.io/local/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
""" + _RUNTIMES.format(runtime="io.containerd.cri.v1.runtime", shim=_SHIM)


def main(arguments: Sequence[str]) -> int:
    """Make the node if asked to (`--node`), run what follows `--`; returns its exit status."""
    cut = arguments.index("--")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command
    _set_up()
    if "--node" in arguments[:cut]:
        _start_node()
    status = _run(arguments[cut + 1 :])
    _end_everything()
    return status


def _set_up() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)
    # The pods' bridge would not answer on its IPv6 address for the first seconds: nobody else can have it.
    for which in ("all", "default"):
        _write(f"/proc/sys/net/ipv6/conf/{which}/accept_dad", "0")
    os.makedirs("/opt/architect/bin", exist_ok=True)
    os.symlink(f"{_SOURCE}/shim/{_SHIM}", f"/opt/architect/bin/{_SHIM}")
    for name, module in (("architect", "architect.cli"), ("architectd", "daemon")):
        _write(f"/usr/local/bin/{name}", f'#!/bin/sh\nexec python3 -m {module} "$@"\n')
        os.chmod(f"/usr/local/bin/{name}", 0o755)
    for path in ("/etc/containerd", "/etc/cni/net.d", "/run/containerd", "/run/architect", "/var/log/pods"):
        os.makedirs(path, exist_ok=True)


def _start_node() -> None:
    if os.path.exists(_CONTROLLERS) and "cpu" not in _read(_CONTROLLERS).split():
        os.rename("/usr/sbin/runc", "/usr/sbin/runc.real")
        os.symlink(f"{_SOURCE}/hack/runc-without-controllers", "/usr/sbin/runc")
    version = subprocess.run(
        ["containerd", "--version"], capture_output=True, check=True, timeout=10, text=True
    )
    first = version.stdout.split()[2].lstrip("v").startswith("1.")
    _write("/etc/containerd/config.toml", _CONFIG_1 if first else _CONFIG_2)
    _write("/etc/cni/net.d/10-pods.conflist", json.dumps(_NETWORK))
    with open(CONTAINERD_LOG, "ab") as log:
        containerd = subprocess.Popen(["containerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        byte_code = subprocess.Popen(
            ["/usr/bin/python3", "-m", "compileall", "-q", f"{_SOURCE}/architect", f"{_SOURCE}/shim"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    _write("/run/containerd/containerd.pid", str(containerd.pid))
    _await_socket(containerd)
    ctr = ["ctr", "--namespace", "k8s.io", "images", "import"]
    _load_images(ctr if first else [*ctr, "--local"])  # 2.x: the transfer service takes a second longer
    byte_code.wait(timeout=_READY_SECONDS)


def _await_socket(containerd: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while containerd.poll() is None and time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(CONTAINERD)
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.01)  # it listens only once everything else is loaded
                continue
            return
    _give_up(f"containerd did not come up in {_READY_SECONDS:.0f} s")


def _load_images(ctr: Sequence[str]) -> None:
    # Not unpacked: containerd does it for the images that are used.
    result = subprocess.run(
        [*ctr, "--no-unpack", IMAGES], capture_output=True, timeout=_READY_SECONDS, text=True, check=False
    )
    if result.returncode:
        _give_up(f"{IMAGES} could not be imported: {result.stderr}")


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


def _give_up(sentence: str) -> NoReturn:
    with open(CONTAINERD_LOG, errors="replace") as log:
        tail = "".join(log.readlines()[-20:])
    sys.exit(f"{sentence}; {CONTAINERD_LOG} ends with:\n{tail}")


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
