"""A daemon by its socket, also in another mount namespace: what it follows, what it is asked for, its pid."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from dataclasses import dataclass
from typing import Any, Final

from hack.control import SECONDS

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Refused(Exception):
    """The daemon's answer is an error; `status` is HTTP's."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(f"{status}: {sentence}")
        self.status = status


@dataclass(frozen=True)
class Door:
    """The socket of a daemon, at `path`."""

    path: str

    def ask(self, method: str, url: str) -> dict[str, Any]:
        """Its answer. Raises OSError, Refused."""
        line = http.client.HTTPConnection("architectd", timeout=SECONDS)
        line.sock = self._connected()
        try:
            line.request(method, url)
            response = line.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            line.close()
        if response.status >= 400:
            raise Refused(response.status, str(answer.get("error")))
        return answer

    def followed(self, phase: str) -> int:
        """How many managed containers it knows to be in `phase`."""
        found = self.ask("GET", "/v1/containers")["containers"]
        return sum(1 for each in found if each["managed"] and each["state"] == phase)

    def pid(self) -> int:
        """Its process, as this process would call it."""
        with self._connected() as line:
            sent = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(sent)[0])

    def _connected(self) -> socket.socket:
        line = socket.socket(socket.AF_UNIX)
        try:
            line.settimeout(SECONDS)
            line.connect(self.path)
        except OSError:
            line.close()
            raise
        return line
