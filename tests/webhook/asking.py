"""An API server's side of an admission review, over TLS that trusts one bundle."""

from __future__ import annotations

import base64
import io
import json
import ssl
from typing import Any

import aiohttp

SERVICE = "architect-webhook.architect.svc"


def review(pod: Any, **more: Any) -> dict[str, Any]:
    request = {
        "uid": "6f1e",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "operation": "CREATE",
        "namespace": "default",
        "object": pod,
        "dryRun": False,
    } | more
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


class Asking:
    """Connections to a webhook at a port of loopback, each a new one."""

    def __init__(self, port: int, bundle: str) -> None:
        self._port = port
        self._tls = ssl.create_default_context(cadata=bundle)

    async def get(self, path: str) -> tuple[int, str]:
        return await self._request("GET", path)

    async def post(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        status, text = await self._request("POST", path, body)
        answer: dict[str, Any] = json.loads(text)
        return status, answer

    async def about(self, pod: Any, path: str = "/mutate", **more: Any) -> dict[str, Any]:
        """The response to a review of `pod`, its patch decoded."""
        status, answer = await self.post(path, json.dumps(review(pod, **more)).encode())
        assert status == 200
        assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
        response: dict[str, Any] = answer["response"]
        assert response["uid"] == "6f1e"
        if "patch" in response:
            assert response["patchType"] == "JSONPatch"
            response["patch"] = json.loads(base64.b64decode(response["patch"]))
        return response

    async def _request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
        connector = aiohttp.TCPConnector(force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(
                method,
                f"https://127.0.0.1:{self._port}{path}",
                data=None if body is None else io.BytesIO(body),
                ssl=self._tls,
                server_hostname=SERVICE,
                timeout=aiohttp.ClientTimeout(60),
            ) as answer,
        ):
            return answer.status, await answer.text()
