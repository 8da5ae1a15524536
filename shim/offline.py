"""What the shim binary does without a serving process: `delete` after a shim's death, and `-info`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Final

from architect.engine.runc import locate
from architect.gate import GateError, PodGate
from architect.ttrpc import containerd, runtime_info
from architect.ttrpc.codec import DecodeError, decode, encode
from architect.ttrpc.rpc import RpcError
from shim import mounts
from shim.address import DELETED, SANDBOX_ID, VERSION, remove_sockets
from shim.bundle import RUNC_ROOT, Bundle, runtime_options, safe_id

RUNTIME_FILE = "architect-runtime.json"


FEATURES: Final = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
"""Type URL of the JSON that `runc features` prints."""


def info(name: str, question: bytes) -> bytes:
    """The answer to `-info`, an encoded RuntimeInfo; `question`: an encoded Any with the runtime's options.

    Kubernetes learns from the features whether pods may have user namespaces and recursive read-only mounts.
    Raises ValueError when the question is none.
    """
    try:
        options = decode(containerd.Any, question)
        binary = locate(runtime_options(options).binary_name)
    except (DecodeError, RpcError) as error:
        raise ValueError(f"the runtime options do not parse: {error}") from error
    answer = runtime_info.RuntimeInfo(name=name, version=runtime_info.RuntimeVersion(version=VERSION))
    if options.type_url:
        answer.options = options
    features = _features(binary)
    if features:
        answer.features = containerd.Any(type_url=FEATURES, value=features)
    return encode(answer)


def _features(binary: str) -> bytes:
    """What `runc features` prints; b"" from a runtime that has no such command."""
    reader, writer = os.pipe()
    try:
        child = os.posix_spawn(
            binary,
            [binary, "features"],
            {"PATH": os.environ.get("PATH", "")},
            file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_CLOSE, reader)],
        )
    except OSError as error:
        os.close(reader)
        print(f"{binary} cannot tell its features: {error.strerror}", file=sys.stderr)
        return b""
    finally:
        os.close(writer)
    with os.fdopen(reader, "rb") as output:
        printed = output.read()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        return b""
    return printed


def remember_runtime(bundle: str, binary: str, root: str) -> None:
    """Leaves in the bundle what `delete` will need when the shim is gone."""
    with open(os.path.join(bundle, RUNTIME_FILE), "w", encoding="utf-8") as file:
        json.dump({"binary": binary, "root": root}, file)


def remember_deleted(bundle: str) -> None:
    """Leaves in the bundle what `delete` will answer: a shim has removed all else. Raises OSError."""
    with open(os.path.join(bundle, DELETED), "wb") as file:
        file.write(_answer(bundle))


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
        binary, root = locate(""), os.path.join(RUNC_ROOT, namespace)
    try:
        child = os.posix_spawn(
            binary,
            [binary, "--root", root, "delete", "--force", container_id],
            {"PATH": os.environ.get("PATH", "")},
            file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)],
        )
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
            print(f"runc could not delete {container_id}", file=sys.stderr)
    except OSError as error:  # the rest goes all the same
        print(f"{binary} could not delete {container_id}: {error.strerror}", file=sys.stderr)
    mounts.unmount(os.path.join(bundle, "rootfs"))
    _open_gate(container_id, bundle)
    remove_sockets(namespace, container_id)
    return _answer(bundle)


def _answer(bundle: str) -> bytes:
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
