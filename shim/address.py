"""Where shims are found, and their version: what the command line knows without importing anything."""

from os import unlink

VERSION = "0.1.0"
RUN_DIR = "/run/architect"
SHIM_DIR = RUN_DIR + "/shims"
SANDBOX_ID = "io.kubernetes.cri.sandbox-id"
"""The annotation by which containerd's CRI names the pod of a container; a sandbox names itself."""
DELETED = "architect-deleted"
"""The file in a bundle with the answer to `delete`, when a shim has removed all else of the container."""
_SUN_PATH_MAX = 107


class Usage(Exception):
    """The command line or the bundle is not what containerd's protocol promises."""


def plain(value: str) -> str:
    """`value` if it may be part of a path. Raises Usage."""
    if not value or not all(c.isalnum() or c in "_.-" for c in value) or value.startswith("."):
        raise Usage(f"{value[:80]!r} is no id or namespace")
    return value


def remove_sockets(namespace: str, group: str) -> None:
    """Removes the sockets that a shim which is gone may have left. Raises OSError."""
    path = socket_path(namespace, group)
    for stale in (path, path.removesuffix(".sock") + ".gate"):
        try:
            unlink(stale)
        except FileNotFoundError:
            continue


def socket_path(namespace: str, group: str) -> str:
    """The socket of the shim that serves pod `group` of a containerd namespace."""
    path = f"{SHIM_DIR}/{namespace}-{group}.sock"
    if len(path) <= _SUN_PATH_MAX:
        return path
    import hashlib  # ids of kubelet and CRI are short enough; people's own may not be

    return f"{SHIM_DIR}/{hashlib.sha256(f'{namespace}/{group}'.encode()).hexdigest()}.sock"
