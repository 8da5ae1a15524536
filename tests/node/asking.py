"""What the tests of failures ask of a node: the daemon's API, web pages, and what lies about."""

from __future__ import annotations

import http.client
import json
import os
import socket
import urllib.request
from pathlib import Path
from typing import Any

from hack.control import API, describe
from hack.cri import Container, Pod

PODS = Path("/var/lib/architect/pods")
CONTAINERD_LOG = Path("/var/log/containerd.log")


def get(app: Container, path: str = "/", port: int = 8080) -> str:
    """The page of a container over IPv4."""
    with urllib.request.urlopen(f"http://{app.pod.addresses[0]}:{port}{path}", timeout=30) as answer:
        return str(answer.read().decode().strip())


class _Unix(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(API)


def ask(path: str, method: str = "GET") -> tuple[int, dict[str, Any]]:
    """Status and body of the daemon's answer."""
    status, body = _ask(path, method)
    return status, json.loads(body)


def metric(name: str) -> float:
    """One of the daemon's metrics."""
    lines = _ask("/metrics", "GET")[1].decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def _ask(path: str, method: str) -> tuple[int, bytes]:
    connection = _Unix("architectd", timeout=60)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def explain(app: Container) -> dict[str, Any]:
    """What the daemon says of a container; an empty dict while it does not know it."""
    status, body = ask(f"/v1/containers/{app.id}/explain")
    return body if status == 200 else {}


def images_of(app: Container) -> list[Path]:
    """The image directories of a container, whole, half-written or put aside."""
    home = PODS / app.pod.uid / app.name
    return sorted(path for path in home.iterdir() if path.is_dir()) if home.exists() else []


def processes_named(pod: Pod, name: str) -> list[int]:
    """The children of a pod's shim whose program is called `name`."""
    parent = describe(pod).shim_pid
    found = []
    for entry in os.listdir("/proc"):
        try:
            stat = Path(f"/proc/{entry}/stat").read_text() if entry.isdigit() else ""
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if stat:
            command, rest = stat.split("(", 1)[1].rsplit(")", 1)
            if command == name and int(rest.split()[1]) == parent:
                found.append(int(entry))
    return found
