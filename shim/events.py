"""Events to containerd: in order, over its ttrpc socket, kept and sent again while containerd is away."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Final

from architect.ttrpc import containerd
from architect.ttrpc.client import Client
from architect.ttrpc.server import RpcError

_KEPT: Final = 4096
_SEND_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = (0.05, 0.2, 1.0, 5.0)

log = logging.getLogger(__name__)


class Publisher:
    """Sends events one after the other; `run` is its task."""

    def __init__(self, address: str, namespace: str) -> None:
        self._address = address
        self._namespace = namespace
        self._queue: deque[containerd.Envelope] = deque(maxlen=_KEPT)
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def publish(self, event: Any) -> None:
        """Queues one event; never waits."""
        self._queue.append(containerd.envelope(self._namespace, event))
        self._idle.clear()
        self._news.set()

    async def run(self) -> None:
        """Sends until cancelled. What containerd did not take is sent again when it is back."""
        client: Client | None = None
        failures = 0
        while True:
            if not self._queue:
                self._idle.set()
                self._news.clear()
                await self._news.wait()
            envelope = self._queue[0]
            try:
                client = client or await Client.connect(self._address, timeout=_SEND_SECONDS)
                await client.call(
                    containerd.EVENTS,
                    "Forward",
                    containerd.ForwardRequest(envelope=envelope),
                    containerd.Empty,
                    timeout=_SEND_SECONDS,
                )
            except RpcError as error:
                log.warning("containerd refused event %s: %s", envelope.topic, error)
            except (OSError, TimeoutError) as error:
                if client is not None:
                    await client.close()
                    client = None
                delay = _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)]
                failures += 1
                log.info("containerd takes no events, trying again in %.2f s: %s", delay, error)
                await asyncio.sleep(delay)
                continue
            failures = 0
            if self._queue and self._queue[0] is envelope:
                self._queue.popleft()

    async def drain(self, seconds: float) -> None:
        """Waits until everything is sent, at most `seconds`."""
        await asyncio.wait({asyncio.ensure_future(self._idle.wait())}, timeout=seconds)
