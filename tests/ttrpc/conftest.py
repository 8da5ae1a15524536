"""A server on a unix socket of its own, and the raw bytes to speak to it."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from architect.ttrpc import frames
from architect.ttrpc.client import Client
from architect.ttrpc.codec import decode, encode
from architect.ttrpc.rpc import Request, Response
from architect.ttrpc.server import Server, Services

DEADLINE = 20.0  # seconds for anything that must happen; never measured against


class Raw:
    """A client without manners: writes any bytes, reads frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def request(self, stream: int, service: str, method: str, message: object, flags: int = 0) -> None:
        body = encode(Request(service, method, encode(message)))
        await self.send(frames.pack(stream, frames.REQUEST, flags, body))

    async def frame(self) -> frames.Frame:
        async with asyncio.timeout(DEADLINE):
            header = await self.reader.readexactly(10)
            length, stream = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
            return frames.Frame(stream, header[8], header[9], await self.reader.readexactly(length))

    async def response(self) -> tuple[int, Response]:
        frame = await self.frame()
        assert frame.kind == frames.RESPONSE
        return frame.stream, decode(Response, frame.payload)

    async def ended(self) -> None:
        """Returns when the server has hung up."""
        async with asyncio.timeout(DEADLINE):
            try:
                assert await self.reader.read() == b""
            except ConnectionResetError:
                return


@dataclass
class Node:
    path: str
    server: Server
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def client(self) -> Client:
        client = await Client.connect(self.path, timeout=DEADLINE)
        self.stack.push_async_callback(client.close)
        return client

    async def raw(self) -> Raw:
        reader, writer = await asyncio.open_unix_connection(self.path)
        self.stack.callback(writer.close)
        return Raw(reader, writer)


type Serve = Callable[[Services], Awaitable[Node]]


@pytest.fixture
async def serve(tmp_path: object) -> AsyncIterator[Serve]:
    nodes: list[Node] = []

    async def start(services: Services) -> Node:
        path = os.path.join(str(tmp_path), f"{len(nodes)}.sock")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(path)
        node = Node(path, Server(services))
        await node.server.start(sock)
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        async with asyncio.timeout(DEADLINE):
            await node.stack.aclose()
            await node.server.close()
