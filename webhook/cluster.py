"""What the webhook has in the cluster: the Secret with its certificates, and its configuration.

The rights that this takes: get, watch and patch of these two objects, and to create Secrets in its namespace.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote

from architect.kube import ApiError, Client, NotFound

ENTRY: Final = "generations.json"

_CONFIGURATIONS: Final = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"


class Missing(Exception):
    """The webhook's configuration is not there: nobody asks the webhook anything."""


class Secret(NamedTuple):
    """The Secret's text; "" and no version when there is no Secret."""

    text: str = ""
    version: str = ""


class Trust(NamedTuple):
    """What the API server trusts: the bundles of all webhooks of the configuration, and its version."""

    bundles: tuple[str, ...]
    version: str


class Cluster(Protocol):
    """What certificates are kept in. All raise ApiError; writing raises Conflict when another came first."""

    async def secret(self) -> Secret: ...
    async def write_secret(self, text: str, version: str) -> None: ...
    async def trust(self) -> Trust:
        """Raises Missing."""
        ...

    async def write_trust(self, bundle: str, version: str) -> None: ...
    async def changed(self, version: str, seconds: int) -> None:
        """Returns when the configuration is no longer `version`, or after about `seconds`."""
        ...


class ApiCluster:
    """The real one."""

    def __init__(self, client: Client, *, namespace: str, secret: str, configuration: str) -> None:
        self._client = client
        self._secrets = f"/api/v1/namespaces/{quote(namespace, safe='')}/secrets"
        self._secret = secret
        self._name = configuration
        self._configuration = f"{_CONFIGURATIONS}/{quote(configuration, safe='')}"

    async def secret(self) -> Secret:
        try:
            found = await self._client.get(f"{self._secrets}/{quote(self._secret, safe='')}")
        except NotFound:
            return Secret()
        return Secret(_decoded((found.get("data") or {}).get(ENTRY)), found["metadata"]["resourceVersion"])

    async def write_secret(self, text: str, version: str) -> None:
        data = {ENTRY: base64.b64encode(text.encode()).decode()}
        if version:
            body = {"metadata": {"resourceVersion": version}, "data": data}
            await self._client.patch(f"{self._secrets}/{quote(self._secret, safe='')}", body)
        else:
            metadata = {"name": self._secret, "labels": {"app.kubernetes.io/name": "architect-webhook"}}
            await self._client.create(self._secrets, {"metadata": metadata, "type": "Opaque", "data": data})

    async def trust(self) -> Trust:
        found = await self._read()
        bundles = (_decoded(each["clientConfig"].get("caBundle")) for each in found.get("webhooks") or [])
        return Trust(tuple(bundles), found["metadata"]["resourceVersion"])

    async def write_trust(self, bundle: str, version: str) -> None:
        found = await self._read()
        webhooks = found.get("webhooks") or []
        for each in webhooks:
            each["clientConfig"]["caBundle"] = base64.b64encode(bundle.encode()).decode()
        # The list is replaced as a whole; the version guards that it is the one that was read.
        body = {"metadata": {"resourceVersion": version}, "webhooks": webhooks}
        await self._client.patch(self._configuration, body)

    async def changed(self, version: str, seconds: int) -> None:
        field = f"metadata.name={self._name}"
        try:
            async with (
                asyncio.timeout(seconds + 30),
                self._client.watch(
                    _CONFIGURATIONS, version=version, seconds=seconds, fieldSelector=field
                ) as events,
            ):
                async for kind, _ in events:
                    if kind != "BOOKMARK":
                        return
        except TimeoutError:
            return

    async def _read(self) -> dict[str, Any]:
        try:
            return await self._client.get(self._configuration)
        except NotFound as error:
            raise Missing(f"there is no MutatingWebhookConfiguration {self._name}") from error


def _decoded(value: object) -> str:
    if not isinstance(value, str):
        return ""
    try:
        return base64.b64decode(value).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return ""


__all__ = ["ApiCluster", "ApiError", "Cluster", "Missing", "Secret", "Trust"]
