"""The service `architect.node.v1.Node` on its socket: checks what shims send, and passes it on."""

from __future__ import annotations

from architect.ttrpc import node_v1
from architect.ttrpc.rpc import Code, RpcError
from architect.ttrpc.server import Method, Server
from daemon.moving.arriving import Arriving
from daemon.moving.leaving import Leaving
from daemon.moving.places import checked


def server(leaving: Leaving, arriving: Arriving) -> Server:
    """What answers the shims."""

    async def leaves(request: node_v1.LeavesRequest) -> node_v1.LeavesResponse:
        return await leaving.leaves(_of(request.container), asleep=request.asleep, image=request.image)

    async def left(request: node_v1.LeftRequest) -> node_v1.LeftResponse:
        _of(request.container)
        await leaving.left(request)
        return node_v1.LeftResponse()

    async def arrives(request: node_v1.ArrivesRequest) -> node_v1.ArrivesResponse:
        return await arriving.arrives(_of(request.container))

    async def arrival(request: node_v1.ArrivalRequest) -> node_v1.ArrivalResponse:
        return await arriving.arrival(_of(request.container))

    async def settled(request: node_v1.SettledRequest) -> node_v1.SettledResponse:
        _of(request.container)
        await arriving.settled(request)
        return node_v1.SettledResponse()

    return Server(
        {
            node_v1.SERVICE: {
                "Leaves": Method(node_v1.LeavesRequest, leaves),
                "Left": Method(node_v1.LeftRequest, left),
                "Arrives": Method(node_v1.ArrivesRequest, arrives),
                "Arrival": Method(node_v1.ArrivalRequest, arrival, waits=True),
                "Settled": Method(node_v1.SettledRequest, settled),
            }
        }
    )


def _of(container: node_v1.Container | None) -> node_v1.Container:
    """The container that is asked about. Raises RpcError."""
    if container is None or not container.id:
        raise RpcError(Code.INVALID_ARGUMENT, "it has to be said which container")
    try:
        for name in (container.pod_namespace, container.pod_name, container.pod_uid, container.name):
            checked(name)
    except ValueError as error:
        raise RpcError(Code.INVALID_ARGUMENT, f"the container is not named as one is: {error}") from error
    return container
