"""One request to the API server, one answer. Errors are translated here, and only here (`errors.py`)."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, Final, Self
from urllib.parse import quote
from weakref import WeakSet

import aiohttp

from architect.kube import errors
from architect.kube.access import Access

REQUEST_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 10.0
_CONNECTIONS: Final = 8
_SILENCE_SECONDS: Final = (
    150.0  # a watch hears a bookmark about every minute; this long means: nobody is there
)
_LONGEST_LINE: Final = 16 << 20
_GOODBYE_SECONDS: Final = 1.0
_PAGE: Final = 50  # objects; more at once would only make the process larger
_AGENT: Final = "architect"

Object = dict[str, Any]


class Patch(StrEnum):
    """How a patch is meant; the values are content types."""

    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    JSON = "application/json-patch+json"


def pods_path(namespace: str = "") -> str:
    """The path of a namespace's pods, or of all."""
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/pods" if namespace else "/api/v1/pods"


def pod_path(namespace: str, name: str, subresource: str = "") -> str:
    """The path of a pod, or of one of its subresources (`resize`, `exec`)."""
    path = f"{pods_path(namespace)}/{quote(name, safe='')}"
    return f"{path}/{subresource}" if subresource else path


class Client:
    """Requests to one API server. Every one ends within `timeout` s. All raise ApiError."""

    def __init__(self, access: Access, *, timeout: float = REQUEST_SECONDS) -> None:
        self.access = access
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self._sockets: WeakSet[socket.socket] = WeakSet()

    async def __aenter__(self) -> Self:
        # Trusting the environment would send a node's own traffic, and its token, to whatever proxy is set.
        connector = aiohttp.TCPConnector(
            limit=_CONNECTIONS, ttl_dns_cache=60, socket_factory=self._new_socket
        )
        self._session = aiohttp.ClientSession(
            connector=connector, headers={"User-Agent": _AGENT}, trust_env=False, auto_decompress=True
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
        # Requests that were called off end their TLS in the background, and nobody is told when.
        deadline = time.monotonic() + _GOODBYE_SECONDS
        while any(s.fileno() >= 0 for s in self._sockets) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_GOODBYE_SECONDS / 100)

    def _new_socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        self._sockets.add(made)
        return made

    async def get(self, path: str, **query: str) -> Object:
        """An object, or anything else that answers with one."""
        return await self._object("GET", path, query=query)

    async def create(self, path: str, body: Mapping[str, Any], **query: str) -> Object:
        """Creates an object in the collection at `path`. Raises Conflict when there is one."""
        return await self._object("POST", path, query=query, body=body)

    async def patch(self, path: str, body: Any, kind: Patch = Patch.MERGE, **query: str) -> Object:
        """Changes an object; the answer is the object changed. With metadata.resourceVersion in the patch:
        Conflict when it is not that any more.
        """
        return await self._object("PATCH", path, query=query, body=body, content_type=kind)

    async def delete(self, path: str, **query: str) -> Object:
        """Deletes an object."""
        return await self._object("DELETE", path, query=query)

    async def pages(self, path: str, **query: str) -> AsyncIterator[tuple[list[Object], str]]:
        """A collection, page by page, each with the version of the whole: never all of it in memory at once.

        Raises Expired when it takes so long that the server has forgotten the beginning.
        """
        query = {**query, "limit": str(_PAGE)}
        while True:
            page = await self.get(path, **query)
            metadata = page.get("metadata") or {}
            yield page.get("items") or [], str(metadata.get("resourceVersion") or "")
            query["continue"] = str(metadata.get("continue") or "")
            if not query["continue"]:
                return

    async def all(self, path: str, **query: str) -> list[Object]:
        """A collection as a whole."""
        found: list[Object] = []
        async for items, _ in self.pages(path, **query):
            found.extend(items)
        return found

    @asynccontextmanager
    async def watch(
        self, path: str, *, version: str, seconds: int, **query: str
    ) -> AsyncIterator[AsyncIterator[tuple[str, Object]]]:
        """What changes after `version`, for about `seconds`: (ADDED, MODIFIED, DELETED or BOOKMARK, object).

        Raises Expired when the server has forgotten `version`.
        """
        query = query | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
        async with self._answer("GET", path, query=query, timeout=timeout) as answer:
            yield _events(answer)

    @asynccontextmanager
    async def websocket(
        self, path: str, query: list[tuple[str, str]], protocols: tuple[str, ...]
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A websocket to a subresource."""
        assert self._session is not None, "used within `async with`"
        try:
            async with self._session.ws_connect(
                self.access.server + path,
                params=query,
                protocols=protocols,
                headers=self.access.headers(),
                ssl=self._tls(),
                server_hostname=self.access.server_name or None,
                max_msg_size=_LONGEST_LINE,
                heartbeat=30.0,
            ) as opened:
                yield opened
        except aiohttp.WSServerHandshakeError as error:
            raise errors.from_answer(error.status, b"") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(self.access.server, error) from error

    async def _object(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        body: Any = None,
        content_type: str = "application/json",
    ) -> Object:
        timeout = aiohttp.ClientTimeout(total=self._timeout, sock_connect=CONNECT_SECONDS)
        data = None if body is None else json.dumps(body).encode()
        async with self._answer(
            method, path, query=query, timeout=timeout, data=data, content_type=content_type
        ) as answer:
            return _parsed(await answer.read())

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        data: bytes | None = None,
        content_type: str = "application/json",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer with a status below 400. The block's own failures to read it are translated, too."""
        assert self._session is not None, "used within `async with`"
        try:
            headers = {**self.access.headers(), "Accept": "application/json"}
            if data is not None:
                headers["Content-Type"] = content_type
            async with self._session.request(
                method,
                self.access.server + path,
                params=query,
                data=data,
                headers=headers,
                timeout=timeout,
                ssl=self._tls(),
                server_hostname=self.access.server_name or None,
                allow_redirects=False,  # the token is for this server alone
            ) as answer:
                if answer.status >= 300:
                    said = await answer.content.read(64 << 10)
                    raise errors.from_answer(answer.status, said, answer.headers.get("Retry-After", ""))
                yield answer
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
            raise _unreachable(self.access.server, error) from error

    def _tls(self) -> ssl.SSLContext | bool:
        return self.access.tls() or True


def _unreachable(server: str, error: Exception) -> errors.Unreachable:
    if isinstance(error, TimeoutError):
        return errors.Unreachable(f"{server} did not answer in time")
    return errors.Unreachable(f"{server} cannot be asked: {str(error) or type(error).__name__}")


def _parsed(text: bytes) -> Object:
    """The object that an answer, or a line of one, is."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise errors.Unreachable(f"what answers is no API server: {error}") from error
    if not isinstance(found, dict):
        raise errors.Unreachable("what answers is no API server: its answer is no object")
    return found


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Object]]:
    """The lines of a watch. An answer's own line reader allows 64 KiB a line, which a pod may exceed."""
    buffer = bytearray()
    async for chunk in answer.content.iter_any():
        begin = len(buffer)
        buffer += chunk
        while (end := buffer.find(b"\n", begin)) >= 0:
            line, buffer, begin = bytes(buffer[:end]), buffer[end + 1 :], 0
            if line.strip():
                yield _event(line)
        if len(buffer) > _LONGEST_LINE:
            raise errors.Unreachable("the API server sent a line that does not end")


def _event(line: bytes) -> tuple[str, Object]:
    event = _parsed(line)
    kind, what = event.get("type"), event.get("object")
    if not isinstance(kind, str) or not isinstance(what, dict):
        raise errors.Unreachable("the API server sent an event that is none")
    if kind == "ERROR":
        raise errors.from_status(what)
    return kind, what
