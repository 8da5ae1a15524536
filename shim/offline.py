"""What the shim binary does without a serving process: `delete` after a shim's death, and `-info`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from architect.gate import GateError, PodGate
from architect.ttrpc import containerd, runtime_info
from architect.ttrpc.codec import encode
from architect.ttrpc.rpc import RpcError
from shim import mounts
from shim.address import SANDBOX_ID, VERSION, socket_path
from shim.bundle import RUNC_ROOT, Bundle, safe_id

RUNTIME_FILE = "architect-runtime.json"


def info(name: str) -> bytes:
    """The answer to `-info`: an encoded RuntimeInfo."""
    return encode(runtime_info.RuntimeInfo(name=name, version=runtime_info.RuntimeVersion(version=VERSION)))


def remember_runtime(bundle: str, binary: str, root: str) -> None:
    """Leaves in the bundle what `delete` will need when the shim is gone."""
    with open(os.path.join(bundle, RUNTIME_FILE), "w", encoding="utf-8") as file:
        json.dump({"binary": binary, "root": root}, file)


def delete(namespace: str, container_id: str, bundle: str) -> bytes:
    """Removes what a dead shim left of a container; an encoded DeleteResponse saying it was killed.

    The image of a sleeper stays where it is, for diagnosis.
    """
    try:
        safe_id(container_id)
    except RpcError as error:
        raise ValueError(error.message) from error
    bundle = bundle or os.getcwd()
    try:
        with open(os.path.join(bundle, RUNTIME_FILE), encoding="utf-8") as file:
            known = json.load(file)
        binary, root = str(known["binary"]), str(known["root"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        binary, root = "/usr/sbin/runc", os.path.join(RUNC_ROOT, namespace)
    child = os.posix_spawn(
        binary,
        [binary, "--root", root, "delete", "--force", container_id],
        {"PATH": os.environ.get("PATH", "")},
        file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)],
    )
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        print(f"runc could not delete {container_id}", file=sys.stderr)
    mounts.unmount(os.path.join(bundle, "rootfs"))
    _open_gate(container_id, bundle)
    path = socket_path(namespace, container_id)
    for stale in (path, path.removesuffix(".sock") + ".gate"):
        if os.path.lexists(stale):
            os.unlink(stale)
    response = containerd.DeleteResponse(
        pid=_init_pid(bundle),
        exit_status=128 + signal.SIGKILL,
        exited_at=containerd.timestamp(time.time_ns()),
    )
    return encode(response)


def _open_gate(container_id: str, bundle: str) -> None:
    """Takes its rules out of the pod's network namespace: packets meet the truth, instead of nobody.

    Of a sandbox all of them: containerd 1.7 names the namespace to the other containers by a process that
    has died with the shim.
    """
    try:
        known = Bundle.load(container_id, bundle)
        if not known.netns or not os.path.exists(known.netns):
            return
        gate = PodGate(known.netns)
        if known.annotations.get(SANDBOX_ID) == container_id:
            gate.clear()
        else:
            gate.open(container_id)
            gate.unwatch(container_id)
    except (RpcError, GateError) as error:
        print(f"the packet gate of {container_id} was left as it is: {error}", file=sys.stderr)


def _init_pid(bundle: str) -> int:
    """The pid that runc left in the bundle; 0 when there is none."""
    try:
        with open(os.path.join(bundle, "init.pid"), encoding="ascii") as file:
            return int(file.read(16))
    except (OSError, ValueError):
        return 0
