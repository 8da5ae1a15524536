"""A command in a pod, by the API server: `pods/exec` over a websocket, as kubectl does it.

Subprotocol v5.channel.k8s.io (or v4): every message begins with a byte that names the stream: 1 standard
output, 2 standard error, 3 how it ended (a `Status` in JSON). There is no input.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from architect.kube.client import Client, pod_path
from architect.kube.errors import Unreachable, from_status

PROTOCOLS: Final = ("v5.channel.k8s.io", "v4.channel.k8s.io")
LONGEST_OUTPUT: Final = 64 << 20
_OUT, _ERR, _END = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended, with its exit status."""

    status: int
    stdout: bytes
    stderr: bytes


async def run_in_pod(
    client: Client, namespace: str, pod: str, argv: list[str], *, container: str = "", timeout: float
) -> Ran:
    """Runs a command in a pod's container and answers when it has ended. Raises ApiError."""
    query = [("stdout", "true"), ("stderr", "true"), *(("command", part) for part in argv)]
    if container:
        query.append(("container", container))
    streams: dict[int, bytearray] = {_OUT: bytearray(), _ERR: bytearray(), _END: bytearray()}
    try:
        async with (
            asyncio.timeout(timeout),
            client.websocket(pod_path(namespace, pod, "exec"), query, PROTOCOLS) as socket,
        ):
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                    continue
                stream = streams.get(message.data[0])
                if stream is not None:
                    stream += message.data[1:]
                if sum(map(len, streams.values())) > LONGEST_OUTPUT:
                    raise Unreachable(f"{argv[0]} in pod {pod} says more than {LONGEST_OUTPUT} bytes")
    except TimeoutError as error:
        raise Unreachable(f"{argv[0]} in pod {namespace}/{pod} did not end in {timeout:g} s") from error
    return Ran(_exit_status(bytes(streams[_END])), bytes(streams[_OUT]), bytes(streams[_ERR]))


def _exit_status(said: bytes) -> int:
    """The exit status in the last message. Raises ApiError when the command did not run at all."""
    try:
        found: Any = json.loads(said)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unreachable("the connection to the pod ended before the command did")
    if found.get("status") == "Success":
        return 0
    details = found.get("details") or {}
    if found.get("reason") == "NonZeroExitCode":
        for cause in details.get("causes") or []:
            if cause.get("reason") == "ExitCode" and str(cause.get("message")).isdigit():
                return int(cause["message"])
    raise from_status(found)
