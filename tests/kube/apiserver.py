"""A real API server: etcd and kube-apiserver, alone, on loopback. No kubelet: tests play its part."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from architect.kube import Access, ApiError, Client
from architect.kube.access import trusting

READY_SECONDS = 300.0
WAIT_SECONDS = float(os.environ.get("WAIT", "60"))
ADMIN, DAEMON = "token-of-the-admin", "token-of-the-daemon"
RULES: list[dict[str, Any]] = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "patch"]},
    {"apiGroups": [""], "resources": ["pods/resize"], "verbs": ["patch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
    {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": ["architect-migration"],
        "verbs": ["list", "watch"],
    },
]
"""All that the daemon may do, as its roles say."""


def lacking() -> str:
    """Which program is missing, "" when none is."""
    return next((name for name in ("etcd", "kube-apiserver", "openssl") if shutil.which(name) is None), "")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert isinstance(port, int)
        return port


@dataclass
class ApiServer:
    """A running API server. The daemon's rights are those of its ClusterRole."""

    directory: Path
    port: int = field(default_factory=free_port)
    etcd_port: int = field(default_factory=free_port)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def access(self, token: str = ADMIN) -> Access:
        context: ssl.SSLContext = trusting(str(self.directory / "apiserver.crt"))
        return Access(self.url, tls=lambda: context, token=lambda: token)

    def kubeconfig(self, token: str = ADMIN, namespace: str = "default") -> str:
        """A file for programs that are told by one."""
        path = self.directory / f"kubeconfig-{token}-{namespace}"
        cluster = {"server": self.url, "certificate-authority": "apiserver.crt"}
        path.write_text(
            yaml.safe_dump(
                {
                    "current-context": "here",
                    "contexts": [
                        {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": namespace}}
                    ],
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {"token": token}}],
                }
            )
        )
        return str(path)

    def start(self) -> None:
        at = self.directory
        if "etcd" not in self._processes:
            client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{free_port()}"
            self._run(
                "etcd",
                f"--data-dir={at}/etcd",
                *(f"--{kind}-client-urls={client}" for kind in ("listen", "advertise")),
                f"--listen-peer-urls={peer}",
                "--unsafe-no-fsync",
            )
            key = str(at / "key.pem")
            subprocess.run(
                ["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True, timeout=60
            )
            (at / "tokens.csv").write_text(
                f'{ADMIN},admin,1,"system:masters"\n{DAEMON},architectd,2,"architect"\n'
            )
        self._run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--secure-port={self.port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--cert-dir={at}",
            f"--token-auth-file={at}/tokens.csv",
            "--authorization-mode=RBAC",
            "--allow-privileged",
            "--disable-admission-plugins=ServiceAccount",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://here",
            f"--service-account-signing-key-file={at}/key.pem",
            f"--service-account-key-file={at}/key.pem",
        )

    def _run(self, name: str, *arguments: str) -> None:
        with open(self.directory / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen([name, *arguments], stdout=log, stderr=log)

    def kill(self) -> None:
        """The API server is gone, etcd stays."""
        process = self._processes.pop("kube-apiserver")
        process.kill()
        process.wait()

    def end(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGKILL)
            process.wait()
        self._processes.clear()

    async def ready(self) -> None:
        """Waits until it serves, and the default namespace is there."""
        async with asyncio.timeout(READY_SECONDS):
            while True:
                try:
                    async with Client(self.access()) as client:
                        await client.get("/api/v1/namespaces/default")
                        await client.get("/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin")
                        return
                except (ApiError, OSError):  # its certificate is not there yet, either
                    assert all(p.poll() is None for p in self._processes.values()), self.said()
                    await asyncio.sleep(0.1)

    async def settle(self) -> None:
        """Gives the daemon its rights."""
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        async with Client(self.access()) as client:
            await client.create(f"{rbac}/clusterroles", {"metadata": {"name": "architectd"}, "rules": RULES})
            reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "architectd"}
            subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "architect"}
            body = {"metadata": {"name": "architectd"}, "roleRef": reference, "subjects": [subject]}
            await client.create(f"{rbac}/clusterrolebindings", body)

    def said(self) -> str:
        """The end of the logs."""
        logs = sorted(self.directory.glob("*.log"))
        return "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-1500:]}" for log in logs)


@contextmanager
def api_server(directory: Path) -> Iterator[ApiServer]:
    server = ApiServer(directory)
    try:
        server.start()
        asyncio.run(server.ready())
        asyncio.run(server.settle())
        yield server
    finally:
        server.end()


def pod(name: str, *containers: dict[str, Any], node: str = "node-1", **metadata: Any) -> dict[str, Any]:
    """A pod that is bound to a node already."""
    default = {
        "name": "app",
        "image": "local/app:1",
        "resources": {
            "requests": {"cpu": "250m", "memory": "64Mi"},
            "limits": {"cpu": "1", "memory": "128Mi"},
        },
    }
    return {
        "metadata": {"name": name, **metadata},
        "spec": {"nodeName": node, "containers": list(containers) or [default]},
    }


async def until(condition: Callable[[], Any]) -> Any:
    """Waits until what `condition` says, or what it promises, is true; answers that."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            found = condition()
            found = await found if asyncio.iscoroutine(found) else found
            if found:
                return found
            await asyncio.sleep(0.02)
