"""`architect.shim.v1.Shim`: how the daemon drives this shim (proto/shim_v1.proto)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from architect.ttrpc import shim_v1
from architect.ttrpc.server import Code, Method, RpcError, Stream

if TYPE_CHECKING:
    from shim.pod import Pod
    from shim.sleeper import Sleeper

_CAUSE_MAX: Final = 64


class ControlService:
    """The daemon's calls, over the containers of one pod."""

    def __init__(self, pod: Pod) -> None:
        self._pod = pod

    def methods(self) -> dict[str, Method[Any, Any] | Stream[Any, Any]]:
        """The service's methods, for the ttrpc server."""
        return {
            "Describe": Method(shim_v1.DescribeRequest, self.describe),
            "Hibernate": Method(shim_v1.HibernateRequest, self.hibernate),
            "Wake": Method(shim_v1.WakeRequest, self.wake),
            "Watch": Stream(shim_v1.WatchRequest, self.watch),
        }

    async def describe(self, request: shim_v1.DescribeRequest) -> shim_v1.DescribeResponse:
        """The pod and its containers."""
        identity = self._pod.identity
        return shim_v1.DescribeResponse(
            version=shim_v1.VERSION,
            sandbox_id=identity.sandbox_id,
            pod_namespace=identity.pod_namespace,
            pod_name=identity.pod_name,
            pod_uid=identity.pod_uid,
            netns=self._pod.netns,
            containers=[self._pod.status(container) for container in self._pod.containers.values()],
            shim_pid=os.getpid(),
            containerd_namespace=self._pod.namespace,
        )

    async def hibernate(self, request: shim_v1.HibernateRequest) -> shim_v1.HibernateResponse:
        """Puts a container to sleep; answers when it sleeps."""
        sleeper = self._sleeper(request.container_id)
        await sleeper.hibernate()
        return shim_v1.HibernateResponse(status=self._pod.status(self._pod.get(request.container_id)))

    async def wake(self, request: shim_v1.WakeRequest) -> shim_v1.WakeResponse:
        """Wakes a container; answers when it runs. One that runs already is success."""
        await self._sleeper(request.container_id).wake(request.cause[:_CAUSE_MAX] or "request")
        return shim_v1.WakeResponse(status=self._pod.status(self._pod.get(request.container_id)))

    async def watch(self, request: shim_v1.WatchRequest) -> AsyncIterator[shim_v1.WatchEvent]:
        """Every container as it is now, then every change."""
        async for event in self._pod.watch():
            yield event

    def _sleeper(self, container_id: str) -> Sleeper:
        container = self._pod.get(container_id)
        if container.sleeper is None:
            why = self._pod.status(container).settings_error
            why = why or "the pod's managed-containers annotation does not name it"
            raise RpcError(
                Code.FAILED_PRECONDITION, f"container {container_id} is not managed by Architect: {why}"
            )
        return container.sleeper
