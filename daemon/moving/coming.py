"""One container whose state is on its way here: claimed, fetched, taken, put where its shim finds it.

Until Take is answered, somebody else may still get it, and nothing of it is used. From then on nobody else
ever does, whatever happens here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from architect.images import ImageError
from architect.kube import ApiError, Client, NotFound, pod_path
from architect.migration import methods
from architect.migration.client import Refused, Unavailable
from architect.migration.v1 import migration_pb2 as v1
from daemon.moving import facts, volumes
from daemon.moving.arrival import Arrival, Arrivals, Step
from daemon.moving.link import Link
from daemon.moving.runtime import Runtime
from daemon.transfer import NoSpace, Source, TransferError, fetch
from daemon.transfer import Refused as SourceRefuses

BEAT_SECONDS: Final = 5.0
"""The control plane hears at least so often how far it is."""
PATIENCE_SECONDS: Final = 600.0
"""After so long it is not waited for any more."""
FORESEEN_SECONDS: Final = 1800.0
"""So long the container that it is for may take to begin: the control plane waits as long for a pod."""
_CALL_SECONDS: Final = 10.0
_NEW_TICKET_SECONDS: Final = 15.0
_AGAIN_SECONDS: Final = 0.5
_STATE: Final = v1.ClaimEvent.State
_FINAL: Final = (_STATE.NOBODY, _STATE.TAKEN, _STATE.LOST)

log = logging.getLogger(__name__)


class Lost(Exception):
    """It will not come; the message says why. `ours`: the control plane is to hear that it is given up."""

    def __init__(self, reason: str, *, ours: bool) -> None:
        super().__init__(reason)
        self.ours = ours


class Coming:
    """The way of one arrival, from the control plane's promise until it is here."""

    def __init__(
        self, arrival: Arrival, link: Link, arrivals: Arrivals, client: Client, runtime: Runtime
    ) -> None:
        self.arrival = arrival
        self._link = link
        self._arrivals = arrivals
        self._client = client
        self._runtime = runtime
        self._event = v1.ClaimEvent(state=_STATE.EXPECTED)
        self._changed = asyncio.Event()
        self._received = 0
        self._gone = ""
        """Why the control plane does not wait for it any more."""
        self._wanted = False
        self._until = 0.0
        self._limit = asyncio.timeout(None)

    @property
    def pod(self) -> v1.Pod:
        """The pod that it comes to."""
        return v1.Pod(namespace=self.arrival.namespace, name=self.arrival.pod, uid=self.arrival.pod_uid)

    def hear(self, event: v1.ClaimEvent) -> None:
        """What the control plane says."""
        self._event = event
        self.arrival.asleep = event.asleep
        self._changed.set()

    def wanted(self) -> None:
        """Its container is there, and waits for it. Before, it is fetched and not taken: the pod may never
        come so far.
        """
        if not self._wanted:
            self._wanted = True
            self.arrival.began = int(time.time())
            self._until = asyncio.get_running_loop().time() + PATIENCE_SECONDS
            if self._limit.when() is not None and not self._limit.expired():
                self._limit.reschedule(self._until)
            self._changed.set()

    async def run(self, events: AsyncIterator[v1.ClaimEvent]) -> None:
        """Returns when it is here, and ours. `events`: of the claim. Raises Lost."""
        if not self._wanted:
            self._until = asyncio.get_running_loop().time() + FORESEEN_SECONDS
        self._limit = asyncio.timeout_at(self._until)
        helpers = [asyncio.create_task(self._listen(events)), asyncio.create_task(self._beat())]
        try:
            async with self._limit:
                await self._arrive()
        except TimeoutError:
            what = "it did not come" if self._wanted else "its container did not begin"
            seconds = PATIENCE_SECONDS if self._wanted else FORESEEN_SECONDS
            raise Lost(f"{what} within {seconds:.0f} s", ours=True) from None
        except (TransferError, ImageError, ValueError, ApiError, OSError) as error:
            raise Lost(str(error), ours=True) from error
        finally:
            self._limit = asyncio.timeout(None)  # the one that is over takes no other end
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    async def _arrive(self) -> None:
        arrival = self.arrival
        # Whole already, if the daemon before this one was killed with it here; it appears there all at once.
        whole = os.path.isdir(self._arrivals.parcel(arrival))
        while not whole:
            event = await self._next()
            if event.state != _STATE.READY:
                break
            whole = await self._fetched(event)
        if not whole and self._event.state == _STATE.TAKEN:
            raise Lost("it was taken, and is not whole any more", ours=True)
        if not whole:
            raise Lost(self._event.reason or "nobody comes any more", ours=False)
        await asyncio.to_thread(self._arrivals.unpack, arrival)
        await self._until_wanted()
        # Only now there is a container, made from an image that containerd can tell of.
        needed = self._event.offer.facts
        reason = facts.unfit(needed) if needed.architecture else ""
        if reason := reason or await self._other_image():
            raise Lost(reason, ours=True)
        await self._take()
        await self._fill()
        arrival.step = Step.HERE
        await asyncio.to_thread(self._arrivals.write, arrival)

    async def _until_wanted(self) -> None:
        """Returns when its container waits for it, or has done so before. Raises Lost."""
        while not self._wanted and self._event.state != _STATE.TAKEN:
            if self._gone or self._event.state in _FINAL:
                raise Lost(self._gone or self._event.reason or "nobody comes any more", ours=False)
            self._changed.clear()
            await self._changed.wait()

    async def _next(self) -> v1.ClaimEvent:
        """The next event that says what to do."""
        while True:
            self._changed.clear()
            if self._gone:
                raise Lost(self._gone, ours=False)
            if self._event.state in (*_FINAL, _STATE.READY):
                return self._event
            await self._changed.wait()

    async def _fetched(self, event: v1.ClaimEvent) -> bool:
        """Fetches what is offered; False when something else was said meanwhile."""
        offer = event.offer
        if offer.facts.architecture and (reason := facts.unfit(offer.facts)):
            raise Lost(reason, ours=True)
        if offer.facts.image_digest != self.arrival.image_digest:
            self.arrival.image_digest = offer.facts.image_digest
            await asyncio.to_thread(self._arrivals.write, self.arrival)  # a successor is not told again
        fetching = asyncio.create_task(self._fetch(event))
        try:
            while not fetching.done():
                self._changed.clear()
                if self._gone or not _same(self._event, event):
                    return False
                waiting = asyncio.create_task(self._changed.wait())
                await asyncio.wait({fetching, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
            fetching.result()
        except SourceRefuses as error:
            # Its daemon may have begun anew, and make a new offer.
            log.info("the source refuses", extra=self._about(reason=str(error)))
            if not await self._another(event):
                raise Lost(str(error), ours=True) from error
            return False
        finally:
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)
        return True

    async def _other_image(self) -> str:
        """See `facts.other_image`; containerd knows that of a container only once there is one."""
        arrival = self.arrival
        known = await self._runtime.images(arrival.pod_uid) if arrival.image_digest else {}
        return facts.other_image(arrival.image_digest, known.get(arrival.container, ""))

    async def _another(self, event: v1.ClaimEvent) -> bool:
        """Waits for another event than this; as long as it takes, while what is offered is being written."""
        complete = event.offer.complete
        try:
            async with asyncio.timeout(_NEW_TICKET_SECONDS if complete else None):
                while not self._gone and _same(self._event, event) and self._event.offer.complete == complete:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _fetch(self, event: v1.ClaimEvent) -> None:
        """Raises TransferError, OSError, Lost."""
        arrival, offer = self.arrival, event.offer
        host, _, port = offer.address.rpartition(":")
        if not (host and port.isdigit()):
            raise Lost(f"the source says it is at {offer.address[:80]!r}", ours=True)
        parcel, room = self._arrivals.parcel(arrival), await asyncio.to_thread(self._arrivals.room)
        limit = min(offer.size_bytes, room) if offer.complete else room
        if offer.size_bytes > room:
            raise Lost(f"it has {offer.size_bytes} bytes, and {room} fit on this node's disk", ours=True)
        source = Source(host.strip("[]"), int(port), event.source_node, offer.ticket)
        try:
            received = await fetch(
                source,
                self._link.credentials,
                into=parcel,
                limit=limit,
                seconds=max(1.0, self._until - asyncio.get_running_loop().time()),
                digest=offer.digest,
                progress=self._progress,
            )
        except NoSpace as error:
            raise Lost(f"it does not fit on this node: {error}", ours=True) from error
        offer = self._event.offer
        if offer.digest and offer.digest != received.digest:
            raise Lost(f"what came has the digest {received.digest}; {offer.digest} was announced", ours=True)
        arrival.freeze_us = offer.freeze_us
        log.info(
            "a container's state has come",
            extra=self._about(bytes=received.bytes, wire=received.wire_bytes, seconds=received.seconds),
        )

    def _progress(self, received: int, _: int) -> None:
        self._received = received

    async def _take(self) -> None:
        """Returns when nobody else gets it any more. Raises Lost."""
        arrival = self.arrival
        request = v1.TakeRequest(pod=self.pod, migration=arrival.migration, container=arrival.container)
        while True:
            try:
                await self._link.call(methods.TAKE, request, timeout=_CALL_SECONDS)
            except Unavailable as error:  # it may have heard: that is known only when it answers
                log.info("what has come cannot be taken yet", extra=self._about(reason=str(error)))
                await asyncio.sleep(_AGAIN_SECONDS)
            except Refused as error:
                raise Lost(str(error), ours=False) from error
            else:
                return

    async def _fill(self) -> None:
        arrival = self.arrival
        pod = await self._read_pod()
        if (pod.get("metadata") or {}).get("uid") != arrival.pod_uid:
            raise Lost("its pod is gone", ours=True)
        await asyncio.to_thread(self._arrivals.fill, arrival, volumes.mounted(pod, arrival.container))

    async def _read_pod(self) -> dict[str, Any]:
        """Nobody else gets it by now: an API server that is away is waited for, and one that begins and
        refuses everybody until it knows their rights. Raises NotFound.
        """
        while True:
            try:
                return await self._client.get(pod_path(self.arrival.namespace, self.arrival.pod))
            except NotFound:
                raise
            except ApiError as error:
                log.info("a pod cannot be read yet", extra=self._about(reason=str(error)))
                await asyncio.sleep(max(_AGAIN_SECONDS, error.after))

    async def _listen(self, events: AsyncIterator[v1.ClaimEvent]) -> None:
        """Hears the claim to its end, through any absence of the control plane."""
        try:
            while True:
                try:
                    async for event in events:
                        self.hear(event)
                    return
                except Unavailable as error:
                    log.info("a claim cannot be followed now", extra=self._about(reason=str(error)))
                    await asyncio.sleep(_AGAIN_SECONDS)
                    request = v1.ClaimRequest(pod=self.pod, container=self.arrival.container)
                    events = self._link.stream(methods.CLAIM, request)
        except Refused as error:
            self._give_up(str(error))

    async def _beat(self) -> None:
        """Says now and then how far it is."""
        arrival = self.arrival
        while True:
            request = v1.ProgressRequest(
                pod=self.pod,
                migration=arrival.migration,
                container=arrival.container,
                received_bytes=self._received,
                size_bytes=self._event.offer.size_bytes,
            )
            try:
                await self._link.call(methods.PROGRESS, request, timeout=_CALL_SECONDS)
            except Unavailable:
                pass  # those who take its place give a minute
            except Refused as error:
                if self._event.state not in _FINAL:
                    self._give_up(str(error))
                return
            await asyncio.sleep(BEAT_SECONDS)

    def _give_up(self, reason: str) -> None:
        self._gone = reason
        self._changed.set()

    def _about(self, **more: object) -> dict[str, object]:
        arrival = self.arrival
        path = f"{arrival.namespace}/{arrival.pod}/{arrival.container}"
        return {"container": path, "migration": arrival.migration, **more}


def _same(one: v1.ClaimEvent, other: v1.ClaimEvent) -> bool:
    """Whether the two ask for the same."""
    first, second = one.offer, other.offer
    # Offered while it is written, it is complete one day: that is no other.
    known = bool(first.digest and second.digest)
    return (one.state, first.address, first.ticket, known and first.digest) == (
        other.state, second.address, second.ticket, known and second.digest,
    )  # fmt: skip


def arrival_of(pod: v1.Pod, container: str, event: v1.ClaimEvent) -> Arrival:
    """What is expected, by the first that the control plane says of it."""
    return Arrival(
        namespace=pod.namespace,
        pod=pod.name,
        pod_uid=pod.uid,
        container=container,
        migration=event.migration,
        source=event.source_node,
        began=int(time.time()),
        asleep=event.asleep,
    )
