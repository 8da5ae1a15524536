"""What a bundle and containerd's create options say of a container: read once, typed from here on."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from architect.engine.errors import Refused
from architect.engine.plan import namespace_paths
from architect.engine.spec import MAX_BYTES, read_spec
from architect.files import read_whole
from architect.ttrpc import containerd
from architect.ttrpc.codec import DecodeError, decode, encode, full_name
from architect.ttrpc.server import Code, RpcError

_SAFE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_OPTIONS_MAX: Final = 64 << 10
RUNC_ROOT: Final = "/run/containerd/runc"


def safe_id(value: str) -> str:
    """`value` if it is an id of containerd's kind (it becomes part of paths). Raises RpcError otherwise."""
    if not _SAFE_ID.fullmatch(value):
        raise RpcError(Code.INVALID_ARGUMENT, f"{value[:80]!r} is no container id")
    return value


@dataclass(frozen=True, slots=True)
class Bundle:
    """A container's bundle: its directory, OCI spec and annotations, and the network namespace of its pod."""

    container_id: str
    path: str
    spec: Mapping[str, Any]

    @classmethod
    def load(cls, container_id: str, path: str) -> Bundle:
        """Reads `path`/config.json. Raises RpcError when there is none or it is no OCI spec."""
        if not path.startswith("/") or "\0" in path:
            raise RpcError(Code.INVALID_ARGUMENT, f"container {container_id}: {path[:200]!r} is no bundle")
        try:
            spec = read_spec(read_whole(os.path.join(path, "config.json"), MAX_BYTES))
        except (OSError, Refused) as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"container {container_id}: {error}") from error
        return cls(safe_id(container_id), path, spec)

    @property
    def rootfs(self) -> str:
        """Where the container's root file system is: in the bundle, or where the spec says."""
        return os.path.join(self.path, self.spec.get("root", {}).get("path") or "rootfs")

    @property
    def annotations(self) -> Mapping[str, str]:
        """The OCI annotations; what is no string is left out."""
        found = self.spec.get("annotations", {})
        return {key: value for key, value in found.items() if isinstance(value, str)}

    @property
    def netns(self) -> str:
        """The path of the pod's network namespace; "" when the container has the host's or one of its own."""
        return namespace_paths(self.spec).get("network", "")


def runtime_options(options: containerd.Any | None) -> containerd.Options:
    """The runc options in either form containerd sends them: runc's own message, or a config file's path or
    body.

    Raises RpcError for a message that is neither.
    """
    if options is None or not options.type_url:
        return containerd.Options()
    kind = options.type_url.rsplit("/", 1)[-1]
    try:
        if kind == full_name(containerd.Options):
            found = decode(containerd.Options, options.value)
        elif kind == full_name(containerd.RuntimeOptions):
            found = _from_toml(decode(containerd.RuntimeOptions, options.value))
        else:
            raise RpcError(Code.INVALID_ARGUMENT, f"runtime options of type {kind[:200]} are not known here")
    except DecodeError as error:
        raise RpcError(Code.INVALID_ARGUMENT, f"the runtime options do not parse: {error}") from error
    if "\0" in found.binary_name + found.root:
        raise RpcError(Code.INVALID_ARGUMENT, "the runtime options name a path with a NUL in it")
    return found


def _from_toml(options: containerd.RuntimeOptions) -> containerd.Options:
    """Reads the generic form: TOML with the keys of containerd's runc options."""
    import tomllib  # rarely needed, and half a megabyte in every shim

    body = options.config_body
    try:
        if not body and options.config_path:
            body = read_whole(os.path.realpath(options.config_path), _OPTIONS_MAX)
        if len(body) > _OPTIONS_MAX:
            raise ValueError(f"{len(body)} bytes; {_OPTIONS_MAX} are allowed")
        table = tomllib.loads(body.decode())
        result = containerd.Options()
        for key, attribute in _TOML_KEYS.items():
            value = table.get(key)
            if type(value) is type(getattr(result, attribute)):  # a boolean is an int to Python
                setattr(result, attribute, value)
        encode(result)  # a number may be beyond what its field can hold
    except (OSError, ValueError, RecursionError) as error:  # the parser descends with every bracket
        raise RpcError(Code.INVALID_ARGUMENT, f"the runtime options do not parse: {error}") from error
    return result


_TOML_KEYS: Final = {
    "NoPivotRoot": "no_pivot_root",
    "NoNewKeyring": "no_new_keyring",
    "ShimCgroup": "shim_cgroup",
    "IoUid": "io_uid",
    "IoGid": "io_gid",
    "BinaryName": "binary_name",
    "Root": "root",
    "SystemdCgroup": "systemd_cgroup",
}
