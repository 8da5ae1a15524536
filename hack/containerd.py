"""containerd in a box: its configuration, the pods' network, start, images. Runs in the box.

Two versions of its configuration file, for 1.x and 2.x. The traps: a container may not lower its OOM score
where CAP_SYS_RESOURCE is missing, and runc then fails every sandbox (hence `restrict_oom_score_adj`); what
listens on its socket does so only once everything else is loaded.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

SOCKET = "/run/containerd/containerd.sock"
LOG = "/var/log/containerd.log"
IMAGES = "/opt/images/images.tar"
SHIM = "containerd-shim-runc-architect-v1"
ADDRESSES = ("10.88.0.0/16", "fd00:88::/64")
"""What pods of a node that stands alone get addresses from."""
NETWORK = "/etc/cni/net.d/10-pods.conflist"
_CONFIGURATION = "/etc/containerd/config.toml"
_CONTROLLERS = "/sys/fs/cgroup/cgroup.controllers"
_READY_SECONDS = 30.0 * float(os.environ.get("NODE_SLOWNESS", "1"))

_RUNC = """
[plugins."{runtime}".containerd]
default_runtime_name = "runc"

[plugins."{runtime}".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."{runtime}".containerd.runtimes.runc.options]
SystemdCgroup = false
"""
_RUNC_ARCHITECT = """
[plugins."{runtime}".containerd.runtimes.runc-architect]
runtime_type = "io.containerd.runc.v2"
runtime_path = "/opt/architect/bin/{shim}"
pod_annotations = ["architect.loopholelabs.io/*"]
container_annotations = ["io.kubernetes.container.*"]
[plugins."{runtime}".containerd.runtimes.runc-architect.options]
SystemdCgroup = false
"""
_VERSION_2 = """version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/local/pause:1"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
"""
_VERSION_3 = """version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "docker.io/local/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
"""


def start_node(source: str) -> None:
    """Make this box a node with the handler runc-architect of the checkout at `source`, or exit."""
    if os.path.exists(_CONTROLLERS) and "cpu" not in _read(_CONTROLLERS).split():
        os.rename("/usr/sbin/runc", "/usr/sbin/runc.real")
        os.symlink(f"{source}/hack/runc-without-controllers", "/usr/sbin/runc")
    configure(ADDRESSES, with_architect=True)
    with open(LOG, "ab") as log:
        process = subprocess.Popen(["containerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        byte_code = subprocess.Popen(
            ["/usr/bin/python3", "-m", "compileall", "-q", f"{source}/architect", f"{source}/shim"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    _write("/run/containerd/containerd.pid", str(process.pid))
    _await_socket(process)
    load_images()
    byte_code.wait(timeout=_READY_SECONDS)


def configure(addresses: Sequence[str], *, with_architect: bool) -> None:
    """Write containerd's configuration and the pods' network, whose pods get an address of each range."""
    runtime = "io.containerd.grpc.v1.cri" if _is_first() else "io.containerd.cri.v1.runtime"
    runtimes = _RUNC + _RUNC_ARCHITECT if with_architect else _RUNC
    head = _VERSION_2 if _is_first() else _VERSION_3
    _write(_CONFIGURATION, head + runtimes.format(runtime=runtime, shim=SHIM))
    _write(NETWORK, json.dumps(_network(addresses)))


def _network(addresses: Sequence[str]) -> dict[str, Any]:
    everywhere = [{"dst": "::/0" if ":" in each else "0.0.0.0/0"} for each in addresses]
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": each}] for each in addresses],
            "routes": everywhere,
        },
    }
    forward = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, forward]}


def _await_socket(process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(SOCKET)
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.01)  # nothing tells when it listens
                continue
            return
    _give_up(f"containerd did not come up in {_READY_SECONDS:.0f} s")


def load_images(archive: str = IMAGES) -> None:
    """Import an archive of images, without unpacking them: containerd does it for those used. May exit."""
    ctr = ["ctr", "--namespace", "k8s.io", "images", "import"]
    options = [] if _is_first() else ["--local"]  # 2.x: the transfer service takes a second longer
    result = subprocess.run(
        [*ctr, *options, "--no-unpack", archive],
        capture_output=True,
        timeout=_READY_SECONDS,
        text=True,
        check=False,
    )
    if result.returncode:
        _give_up(f"{archive} could not be imported: {result.stderr}")


def _is_first() -> bool:
    """Whether this is containerd 1.x."""
    version = subprocess.run(
        ["containerd", "--version"], capture_output=True, check=True, timeout=10, text=True
    )
    return version.stdout.split()[2].lstrip("v").startswith("1.")


def _give_up(sentence: str) -> NoReturn:
    with open(LOG, errors="replace") as log:
        tail = "".join(log.readlines()[-20:])
    sys.exit(f"{sentence}; {LOG} ends with:\n{tail}")


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
