"""Where the API server is, whom to trust, and who we are: within a pod, or by a kubeconfig (`kubeconfig.py`).

Files rotate while we run: kubelet renews a pod's token within the hour, and the CA now and then. They are
looked at with every request (one `stat`) and read when they have changed.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"


class NoAccess(Exception):
    """The API server cannot be asked; the message says what is missing and what to do."""


class Renewed[T]:
    """What is made of a file, made anew when the file is another."""

    def __init__(self, path: str, make: Callable[[str], T]) -> None:
        self.path = path
        self._make = make
        self._seen: tuple[int, int, int] | None = None
        self._value: T

    def get(self) -> T:
        """The present value. Raises OSError when there never was one; later the last one is kept."""
        try:
            about = os.stat(self.path)  # follows kubelet's symbolic links: a renewed file is another inode
        except OSError:
            if self._seen is None:
                raise
            return self._value
        seen = about.st_ino, about.st_mtime_ns, about.st_size
        if seen != self._seen:
            self._value = self._make(self.path)
            self._seen = seen
        return self._value


def read_token(path: str) -> str:
    """A token file's content."""
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def trusting(ca_file: str) -> ssl.SSLContext:
    """TLS that trusts the CAs in a file, and nobody else."""
    return ssl.create_default_context(cafile=ca_file)


@dataclass(slots=True)
class Access:
    """How to reach an API server. `tls` and `token` are asked with every request."""

    server: str
    """Such as https://10.96.0.1:443, without a slash at its end."""
    namespace: str = "default"
    tls: Callable[[], ssl.SSLContext | None] = field(default=lambda: None)
    token: Callable[[], str] = field(default=lambda: "")
    server_name: str = ""
    """The name in the server's certificate, if it is not the one in `server`."""

    def headers(self) -> dict[str, str]:
        """What identifies us. Raises OSError when the token cannot be read."""
        token = self.token()
        return {"Authorization": f"Bearer {token}"} if token else {}


def in_cluster(directory: str = SERVICE_ACCOUNT) -> Access:
    """The access that every pod with a service account has. Raises NoAccess outside of a pod."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise NoAccess(
            "this is no pod of a cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; "
            "name a kubeconfig instead"
        )
    token = Renewed(os.path.join(directory, "token"), read_token)
    tls = Renewed(os.path.join(directory, "ca.crt"), trusting)
    try:
        token.get()
        tls.get()
        with open(os.path.join(directory, "namespace"), encoding="utf-8") as file:
            namespace = file.read().strip()
    except OSError as error:
        raise NoAccess(f"the pod's service account cannot be read: {error}") from error
    bracketed = f"[{host}]" if ":" in host else host
    return Access(f"https://{bracketed}:{port}", namespace, tls.get, token.get)
