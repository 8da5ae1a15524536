"""Asking the node's daemon whether a container leaves the node or comes to it (`proto/node_v1.proto`).

Who cannot be asked is answered for: a container that is told to end ends, one that is created starts. Each
call is a connection of its own: they are rare, and a daemon may be another one by the next. Where there is no
socket, nobody moves containers, unless a daemon was promised: the node has just booted. It is awaited for a
while, as is one that has ended and does not listen on its socket.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from typing import Any, Final

from architect.settings import PodIdentity
from architect.ttrpc import node_v1
from architect.ttrpc.client import Client, Code, RpcError

ASK_SECONDS: Final = 20.0
"""Of a question whose answer somebody waits for: containerd, and behind it kubelet."""
LEAVES_AWAY_SECONDS: Final = 5.0
"""A daemon that has ended is awaited for so long before a container ends: its grace period passes."""
ARRIVES_AWAY_SECONDS: Final = 30.0
"""Before one begins without it: nobody is in such a hurry, and a node that boots begins it late."""
LEFT_SECONDS: Final = 300.0
"""For the daemon to take what leaves: kubelet's patience is shorter, and ends it by SIGKILL."""
_CONNECT_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.5
"""Before a daemon is asked again that was not there: it is being replaced."""

log = logging.getLogger(__name__)


class Unheard(Exception):
    """The daemon did not do it, or could not be asked; the message says what happened. `answered`: it said
    so itself; `doubtful`: it may have done it all the same; `away`: it has ended, and another one may come.
    """

    def __init__(
        self, sentence: str, *, answered: bool = False, doubtful: bool = False, away: bool = False
    ) -> None:
        super().__init__(sentence)
        self.answered = answered
        self.doubtful = doubtful
        self.away = away


class NodeDaemon:
    """The daemon, asked about one container."""

    def __init__(self, identity: PodIdentity, container_id: str) -> None:
        self._container = node_v1.Container(
            sandbox_id=identity.sandbox_id,
            pod_namespace=identity.pod_namespace,
            pod_name=identity.pod_name,
            pod_uid=identity.pod_uid,
            id=container_id,
            name=identity.container,
        )

    async def leaves(self, *, asleep: bool, image: str) -> node_v1.LeavesResponse:
        """Whether it moves to another node, now that it was told to end."""
        request = node_v1.LeavesRequest(self._container, asleep, image)
        try:
            answer: node_v1.LeavesResponse = await self._insist("Leaves", request, LEAVES_AWAY_SECONDS)
        except Unheard as error:
            return node_v1.LeavesResponse(moves=False, reason=str(error))
        return answer

    async def left(self, request: node_v1.LeftRequest, seconds: float) -> None:
        """Returns when its state is the daemon's. Raises Unheard: it is still ours alone, unless `doubtful`.

        A daemon that has ended is awaited for `seconds`. Who may have taken the state is asked until it says
        so, or not: it may have done it before it ended.
        """
        request.container = self._container
        began = asyncio.get_running_loop().time()
        doubtful = False
        while True:
            passed = asyncio.get_running_loop().time() - began
            try:
                await self._call("Left", request, max(ASK_SECONDS, LEFT_SECONDS - passed))
            except Unheard as error:
                doubtful = error.doubtful or (doubtful and not error.answered)
                if passed >= (LEFT_SECONDS if doubtful else 0.0 if error.answered else seconds):
                    raise Unheard(str(error), doubtful=doubtful) from error
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return

    async def arrives(self) -> node_v1.ArrivesResponse:
        """Whether somebody comes to be it. Raises Unheard when the daemon is away, and nobody knows."""
        request = node_v1.ArrivesRequest(self._container)
        try:
            answer: node_v1.ArrivesResponse = await self._insist("Arrives", request, ARRIVES_AWAY_SECONDS)
        except Unheard as error:
            if error.away or error.doubtful:
                raise
            return node_v1.ArrivesResponse(expected=False, reason=str(error))
        return answer

    async def arrival(self) -> node_v1.ArrivalResponse:
        """What has come, when it is known; asks for as long as it takes."""
        request = node_v1.ArrivalRequest(self._container)
        while True:
            try:
                answer: node_v1.ArrivalResponse = await self._call(
                    "Arrival", request, node_v1.ARRIVAL_SECONDS + ASK_SECONDS
                )
            except Unheard as error:
                log.info("what comes for container %s is asked again: %s", self._container.id, error)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            if answer.state != node_v1.State.WAITING:
                return answer

    async def settled(self, *, here: bool, reason: str, restore_us: int) -> None:
        """Tells what became of it, a few times if need be: until then a copy is kept elsewhere."""
        request = node_v1.SettledRequest(self._container, here, reason, restore_us)
        pause = _PAUSE_SECONDS
        for _ in range(8):
            try:
                await self._call("Settled", request, ASK_SECONDS)
            except Unheard as error:
                log.warning("what became of container %s is not told: %s", self._container.id, error)
                await asyncio.sleep(pause)
                pause *= 2
            else:
                return

    async def _insist(self, method: str, request: Any, seconds: float) -> Any:
        """Asks again when the daemon has ended, for so long. Raises Unheard."""
        until = math.inf
        while True:
            try:
                return await self._call(method, request, ASK_SECONDS)
            except Unheard as error:
                now = asyncio.get_running_loop().time()
                until = min(until, now + seconds)
                if not error.away or now >= until:
                    raise
                log.info("container %s waits for the node's daemon: %s", self._container.id, error)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _call(self, method: str, request: Any, seconds: float) -> Any:
        try:
            client = await Client.connect(node_v1.SOCKET, timeout=_CONNECT_SECONDS)
        except FileNotFoundError as error:
            if os.path.exists(node_v1.PROMISE):
                raise Unheard("the daemon of this node has not begun yet", away=True) from error
            raise Unheard("no daemon of this node moves containers") from error
        except (OSError, TimeoutError) as error:
            raise Unheard(f"the daemon of this node is not there ({error})", away=True) from error
        try:
            response = node_v1.METHODS[method][1]
            return await client.call(node_v1.SERVICE, method, request, response, timeout=seconds)
        except RpcError as error:
            late = error.code is Code.DEADLINE_EXCEEDED
            sentence = f"the daemon answered to {method}: {error.message}"
            raise Unheard(sentence, answered=not late, doubtful=late) from error
        except ConnectionError as error:
            sentence = f"the daemon ended before it answered to {method}"
            raise Unheard(sentence, doubtful=True, away=True) from error
        finally:
            await client.close()
