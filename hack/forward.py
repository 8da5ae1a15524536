"""Lets the host reach the cluster: what connects to the socket on standard input talks to the API server.

That socket listens on the host's loopback; it was opened there and handed into the box, so that the host
needs no link, route or rule. Meanwhile a containerd that ends is started again, as systemd would. Says
"ready" on standard output when the host's kubeconfig is written.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from contextlib import ExitStack

from hack.nodes import CONTROL_PLANE, Node

_HOST = "/host"


async def main() -> None:
    """Write /host/kubeconfig, then forward for ever."""
    listening = socket.socket(fileno=os.dup(0))
    listening.setblocking(False)
    with open(os.environ["KUBECONFIG"], encoding="utf-8") as file:
        config = json.load(file)
    cluster = config["clusters"][0]["cluster"]
    cluster["server"] = f"https://127.0.0.1:{listening.getsockname()[1]}"
    with open(cluster.pop("certificate-authority"), "rb") as file:
        cluster["certificate-authority-data"] = base64.b64encode(file.read()).decode()
    descriptor = os.open(f"{_HOST}/kubeconfig", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)
    server = await asyncio.start_server(_serve, sock=listening)
    with ExitStack() as kept:
        for number, _ in enumerate(json.loads(os.environ["CLUSTER"])["nodes"], 1):
            kept.enter_context(Node(number).keep("containerd"))
        print("ready", flush=True)
        async with server:
            await server.serve_forever()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        there, back = await asyncio.open_connection(CONTROL_PLANE, 6443)
    except OSError:  # it is being restarted
        writer.close()
        return
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_copy(reader, back), name="to the API server")
        tasks.create_task(_copy(there, writer), name="to the host")
    for each in (writer, back):
        each.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except (ConnectionError, OSError):
        writer.transport.abort()


if __name__ == "__main__":
    asyncio.run(main())
