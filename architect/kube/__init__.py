"""The Kubernetes API, as little of it as we need: objects are the dicts that JSON makes of them.

`access.py` knows where the API server is and who we are, `kubeconfig.py` the same outside of pods,
`client.py` makes one request, `following.py` follows a collection for as long as anybody lives,
`execution.py` runs a command in a pod. Retrying is the caller's: it knows whether its reason still holds.

The daemon uses this instead of a generated client, whose import alone is 36 MiB on every node.
"""

from architect.kube.access import Access, NoAccess, in_cluster
from architect.kube.client import Client, Patch, pod_path, pods_path
from architect.kube.errors import (
    ApiError,
    Busy,
    Conflict,
    Expired,
    NotFound,
    Refused,
    Unreachable,
)

__all__ = [
    "Access", "ApiError", "Busy", "Client", "Conflict", "Expired", "NoAccess", "NotFound", "Patch", "Refused",
    "Unreachable", "in_cluster", "pod_path", "pods_path",
]  # fmt: skip
