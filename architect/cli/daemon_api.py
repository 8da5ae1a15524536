"""The daemon's HTTP API over its unix socket, with the standard library: one request, one answer.

The trap: what listens on the socket may be anything; only JSON objects with a plain status pass.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, Final
from urllib.parse import quote

LONGEST_ANSWER: Final = 64 << 20


class Down(Exception):
    """The daemon cannot be asked; the message says why and what to do."""


class Failed(Exception):
    """The daemon's answer is an error; the message is its sentence."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("architectd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path: str, method: str, resource: str, *, timeout: float) -> dict[str, Any]:
    """The daemon's answer to one request on its socket at `path`, within `timeout` s. Raises Down, Failed."""
    connection = _Connection(path, timeout)
    try:
        connection.request(method, resource)
        with connection.getresponse() as answer:
            body = answer.read(LONGEST_ANSWER)
            status = answer.status
    except PermissionError as error:
        raise Down(f"{path} is not yours to use: run this as root on the node") from error
    except FileNotFoundError as error:
        raise Down(f"architectd does not run on this node: there is no {path}") from error
    except ConnectionRefusedError as error:
        raise Down(f"architectd does not run on this node: nobody listens on {path}") from error
    except TimeoutError as error:
        raise Down(f"architectd gave no answer in {timeout:g} s; its log may say why") from error
    except (OSError, http.client.HTTPException) as error:
        raise Down(f"what answers on {path} is not architectd: {type(error).__name__} {error}") from error
    finally:
        connection.close()
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Down(f"what answers on {path} is not architectd: it does not speak JSON") from error
    if not isinstance(found, dict):
        raise Down(f"what answers on {path} is not architectd: its answer is no object")
    if status != http.client.OK:
        raise Failed(str(found.get("error") or f"the daemon answered with status {status}"))
    return found


def resource(container: str, action: str) -> str:
    """The path of an action on a container."""
    return f"/v1/containers/{quote(container, safe='/')}/{action}"
