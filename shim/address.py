"""Where shims are found, and their version: what both the command line and its late helpers know."""

VERSION = "0.1.0"
RUN_DIR = "/run/architect"
SHIM_DIR = RUN_DIR + "/shims"
_SUN_PATH_MAX = 107


def socket_path(namespace: str, group: str) -> str:
    """The socket of the shim that serves pod `group` of a containerd namespace."""
    path = f"{SHIM_DIR}/{namespace}-{group}.sock"
    if len(path) <= _SUN_PATH_MAX:
        return path
    import hashlib  # ids of kubelet and CRI are short enough; people's own may not be

    return f"{SHIM_DIR}/{hashlib.sha256(f'{namespace}/{group}'.encode()).hexdigest()}.sock"
