"""A node's calls go on with another replica of the control plane when the one that was asked ends."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from architect.migration import methods
from architect.migration.client import ControlPlane, Refused
from architect.migration.identity import Identity
from architect.migration.v1 import migration_pb2 as v1


class Replica:
    """Answers Leave with these statuses, one after the other, then with a verdict."""

    def __init__(self, *statuses: grpc.StatusCode) -> None:
        self._statuses = [*statuses]

    async def leave(self, _: v1.LeaveRequest, context: Any) -> v1.LeaveResponse:
        if self._statuses:
            await context.abort(self._statuses.pop(0), "it ends")
        return v1.LeaveResponse(verdict=v1.LeaveResponse.Verdict.MOVES)

    async def __aenter__(self) -> str:
        _, service, name = methods.LEAVE.path.split("/")
        handler = grpc.unary_unary_rpc_method_handler(
            self.leave, v1.LeaveRequest.FromString, v1.LeaveResponse.SerializeToString
        )
        self._server = grpc.aio.server()
        handlers = grpc.method_handlers_generic_handler(service, {name: handler})
        self._server.add_generic_rpc_handlers([handlers])
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)


@pytest.fixture(autouse=True)
def _in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is who is not asked here."""
    monkeypatch.setattr(grpc, "ssl_channel_credentials", lambda *_: None)
    plain = grpc.aio.insecure_channel
    monkeypatch.setattr(grpc.aio, "secure_channel", lambda address, _, options: plain(address, options))


@pytest.mark.parametrize("status", [grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE])
async def test_a_replica_that_ends_while_it_is_asked_is_no_answer(status: grpc.StatusCode) -> None:
    async with Replica(status) as at, ControlPlane(at, "control", _somebody()) as calls:
        answer = await calls.call(methods.LEAVE, v1.LeaveRequest(), timeout=10)
        assert answer.verdict == v1.LeaveResponse.Verdict.MOVES


async def test_a_refusal_is_one() -> None:
    async with Replica(grpc.StatusCode.ABORTED) as at, ControlPlane(at, "control", _somebody()) as calls:
        with pytest.raises(Refused, match="it ends"):
            await calls.call(methods.LEAVE, v1.LeaveRequest(), timeout=10)


def _somebody() -> Identity:
    return Identity(node="node-1", certificate="", key="", authorities="", renew_seconds=3600)
