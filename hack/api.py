"""The Kubernetes API for tests and start-up, by the standard library: blocking calls and watches.

Paths are the API's ("/api/v1/nodes"), objects are JSON. Nobody sleeps to wait: `await_list` watches.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, Final

Object = dict[str, Any]
SECONDS: Final = 60.0
_PATCHES: Final = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
}


class Refused(Exception):
    """The API's answer is an error; `status` is HTTP's, `reason` Kubernetes'."""

    def __init__(self, status: int, answer: Object) -> None:
        super().__init__(f"{status}: {answer.get('message', answer)}")
        self.status = status
        self.reason = str(answer.get("reason", ""))


class Api:
    """One API server, as a kubeconfig (written in JSON) names it; with `token`, as whom that belongs to."""

    def __init__(self, kubeconfig: str = "", token: str = "") -> None:
        with open(kubeconfig or os.environ["KUBECONFIG"], encoding="utf-8") as file:
            config = json.load(file)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._host = urllib.parse.urlsplit(cluster["server"]).netloc
        self._tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._token = token or user["token"]

    def get(self, path: str, **query: str) -> Object:
        """An object, or a list of them."""
        return self._call("GET", path, query=query)

    def create(self, path: str, body: Object) -> Object:
        """Create an object in the collection at `path`, or post to a subresource."""
        return self._call("POST", path, body)

    def replace(self, path: str, body: Object) -> Object:
        """Replace the object at `path`."""
        return self._call("PUT", path, body)

    def patch(self, path: str, body: Any, kind: str = "strategic") -> Object:
        """Patch the object at `path`; `kind` is merge, strategic or json."""
        return self._call("PATCH", path, body, content=_PATCHES[kind])

    def delete(self, path: str, **query: str) -> Object:
        """Delete what is at `path`."""
        return self._call("DELETE", path, query=query)

    def text(self, path: str, **query: str) -> str:
        """What is at `path` and no JSON: logs, /readyz."""
        return self._request("GET", path, query=query).decode()

    def await_ready(self, seconds: float = SECONDS) -> None:
        """Wait until the API server says it is ready. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.text("/readyz")
            except (OSError, Refused, http.client.HTTPException) as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"the API server is not ready after {seconds:.0f} s: {error}"
                    ) from error
                time.sleep(0.05)  # before it listens there is nobody to tell
            else:
                return

    def await_list(
        self, path: str, condition: Callable[[list[Object]], Any], seconds: float = SECONDS, **query: str
    ) -> list[Object]:
        """Watch the collection at `path` until `condition` holds for its objects; returns them.

        `query` may name labelSelector and fieldSelector. Raises TimeoutError with the objects' last state.
        """
        deadline = time.monotonic() + seconds
        known: dict[str, Object] = {}
        try:
            for items in self._states(path, query, deadline):
                known = items
                if condition(list(known.values())):
                    return list(known.values())
        except TimeoutError:
            pass
        state = json.dumps([{**each, "metadata": _name(each)} for each in known.values()], indent=1)
        raise TimeoutError(f"{path} {query}: not within {seconds:.0f} s; last seen:\n{state}")

    def await_object(self, path: str, condition: Callable[[Object], Any], seconds: float = SECONDS) -> Object:
        """Watch the object at `path`, which may not exist yet, until `condition` holds for it; returns it."""
        collection, _, name = path.rpartition("/")
        (found,) = self.await_list(
            collection,
            lambda items: bool(items) and condition(items[0]),
            seconds,
            fieldSelector=f"metadata.name={name}",
        )
        return found

    def await_gone(self, path: str, seconds: float = SECONDS) -> None:
        """Watch until there is no object at `path`."""
        collection, _, name = path.rpartition("/")
        self.await_list(collection, lambda items: not items, seconds, fieldSelector=f"metadata.name={name}")

    def _states(self, path: str, query: dict[str, str], deadline: float) -> Iterator[dict[str, Object]]:
        """The collection's objects by uid, now and after every change, until the deadline."""
        while True:
            listed = self.get(path, **query)
            known = {each["metadata"]["uid"]: each for each in listed["items"]}
            yield known
            version = listed["metadata"]["resourceVersion"]
            for event in self._watch(path, {**query, "resourceVersion": version}, deadline):
                if event["type"] == "ERROR":
                    break  # the version is too old: list again
                item = event["object"]
                known[item["metadata"]["uid"]] = item
                if event["type"] == "DELETED":
                    del known[item["metadata"]["uid"]]
                yield known

    def _watch(self, path: str, query: dict[str, str], deadline: float) -> Iterator[Object]:
        connection = self._connection(max(deadline - time.monotonic(), 0.1))
        try:
            connection.request("GET", _url(path, {**query, "watch": "true"}), headers=self._headers())
            response = connection.getresponse()
            while line := response.readline():
                yield json.loads(line)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                if connection.sock:
                    connection.sock.settimeout(left)
        finally:
            connection.close()

    def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, str] | None = None,
        content: str = "application/json",
    ) -> Object:
        answer: Object = json.loads(self._request(method, path, body, query=query or {}, content=content))
        return answer

    def _request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, str],
        content: str = "application/json",
    ) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        connection = self._connection(SECONDS)
        try:
            connection.request(method, _url(path, query), data, {**self._headers(), "Content-Type": content})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise Refused(response.status, _status(answer))
        return answer

    def _connection(self, seconds: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._host, context=self._tls, timeout=seconds)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}


def has_condition(item: Object, kind: str, status: str = "True") -> bool:
    """Whether the object's status has that condition with that status."""
    conditions = item.get("status", {}).get("conditions", [])
    return any(each["type"] == kind and each["status"] == status for each in conditions)


def _url(path: str, query: dict[str, str]) -> str:
    return f"{path}?{urllib.parse.urlencode(query)}" if query else path


def _name(item: Object) -> Object:
    return {key: item["metadata"].get(key) for key in ("name", "namespace", "labels", "deletionTimestamp")}


def _status(answer: bytes) -> Object:
    try:
        status: Object = json.loads(answer)
    except ValueError:
        return {"message": answer.decode(errors="replace")[:500]}
    return status
