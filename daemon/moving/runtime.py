"""What containerd knows of a pod's containers: the digests of their images, which no name tells for sure.

Asked by its CRI (k8s.io/cri-api, `runtime.v1`), of which only what is needed here is declared. Who cannot be
asked is no hindrance: names decide then, as the shim compares them.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Final

import grpc

from architect.ttrpc.codec import INT64, STRING, DecodeError, decode, encode, field, message

SECONDS: Final = 2.0
_LIST: Final = "/runtime.v1.RuntimeService/ListContainers"
_POD_UID: Final = "io.kubernetes.pod.uid"
_NAME: Final = "io.kubernetes.container.name"
_DIGEST: Final = re.compile("sha256:[0-9a-f]{64}")

log = logging.getLogger(__name__)


@message("runtime.v1.ContainerFilter")
@dataclass(slots=True)
class _Filter:
    labels: dict[str, str] = field(4, STRING, mapped=True)


@message("runtime.v1.ListContainersRequest")
@dataclass(slots=True)
class _Request:
    filter: _Filter | None = field(1, _Filter)


@message("runtime.v1.Container")
@dataclass(slots=True)
class _Container:
    """`image`: what containerd calls an image's id, the digest of its configuration."""

    image: str = field(5, STRING)
    created_ns: int = field(7, INT64)
    labels: dict[str, str] = field(8, STRING, mapped=True)


@message("runtime.v1.ListContainersResponse")
@dataclass(slots=True)
class _Response:
    containers: list[_Container] = field(1, _Container, repeated=True)


class Runtime:
    """The containerd that listens at `path`."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def images(self, pod_uid: str) -> dict[str, str]:
        """The digest of each container's image, by the container's name, as far as it is known."""
        request = encode(_Request(_Filter({_POD_UID: pod_uid})))
        try:
            async with grpc.aio.insecure_channel(f"unix:{self._path}") as channel:
                call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_LIST)
                found = decode(_Response, await call(request, timeout=SECONDS))
        except (grpc.aio.AioRpcError, DecodeError) as error:
            said = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            log.warning(
                "the images of a pod are compared by name only: containerd does not tell their digests",
                extra={"uid": pod_uid, "reason": said},
            )
            return {}
        return _newest(found, pod_uid)


def _newest(found: _Response, pod_uid: str) -> dict[str, str]:
    """Of containers of one name the one that was created last: it is the one that runs."""
    ours = [each for each in found.containers if each.labels.get(_POD_UID) == pod_uid]
    ours.sort(key=lambda each: each.created_ns)
    return {each.labels.get(_NAME, ""): each.image for each in ours if _DIGEST.fullmatch(each.image)}
