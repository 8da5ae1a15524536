"""Containers that leave this node: whether they do, as their shims ask; what a daemon before has left; what
is kept because nobody has taken it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from architect.images import ImageDir
from architect.kube import ApiError, Client, pod_path
from architect.migration import methods
from architect.migration.client import Refused, Unavailable
from architect.migration.v1 import migration_pb2 as v1
from architect.states import Phase
from architect.ttrpc import node_v1
from architect.ttrpc.rpc import Code, RpcError
from architect.ttrpc.shim_v1 import ContainerStatus
from daemon.containers import Pod
from daemon.kubernetes.happenings import Happening
from daemon.moving import telling, volumes
from daemon.moving.custody import Custody, Left
from daemon.moving.departing import MARGIN_SECONDS, Around, Departing
from daemon.moving.link import Link
from daemon.moving.parts import Departure
from daemon.moving.places import Places
from daemon.moving.runtime import Runtime
from daemon.moving.telling import MoveMetrics, Tell
from daemon.supervision import Tasks

LEAVE_SECONDS: Final = 14.0
"""In which it has to be known whether a pod moves: another replica leads twelve seconds after one was lost.
Meanwhile the container runs on, and its grace period passes:
"""
_OF_GRACE: Final = 0.4
"""as much of that, and no more."""
_UNKNOWN_SECONDS: Final = 4.0
"""While its grace period is not known."""
_SWEEP_SECONDS: Final = 3600.0

log = logging.getLogger(__name__)


class Leaving:
    """What of this node leaves. `containers`: the statuses of a pod's containers, by its uid."""

    def __init__(
        self,
        link: Link,
        places: Places,
        client: Client,
        containers: Callable[[str], Iterable[ContainerStatus]],
        tell: Tell,
        metrics: MoveMetrics,
    ) -> None:
        self.custody = Custody(places)
        self._places = places
        self._client = client
        self._containers = containers
        self._runtime = Runtime(places.runtime)
        self._kept = asyncio.Event()
        self._around = Around(link, self.custody, tell, metrics, self._kept.set)
        self._tasks = Tasks()
        self._pods: dict[str, Departing] = {}
        self._asking: dict[str, asyncio.Task[node_v1.LeavesResponse]] = {}
        metrics.leaving.set_function(self._waiting)
        metrics.kept.set_function(lambda: len(self.custody.kept()))

    def _waiting(self) -> int:
        parts = (part for each in self._pods.values() for part in each.parts.values())
        return sum(not part.kept_until for part in parts)

    async def start(self) -> None:
        """Goes on with what a daemon before this one has left. Raises OSError."""
        for departure, parts in await asyncio.to_thread(lambda: list(self.custody.departures())):
            self._begin(Departing(departure, self._around, parts))
        self._tasks.start("kept", self._sweep())

    async def close(self) -> None:
        """Ends; a successor goes on."""
        await self._tasks.close()

    async def leaves(self, asked: node_v1.Container, *, asleep: bool, image: str) -> node_v1.LeavesResponse:
        """Whether a container that was told to end moves with its state. `image`: where that is to be."""
        answer = await self._leaves(asked, asleep=asleep)
        known = self._pods.get(asked.pod_uid)
        if answer.moves and not asleep and known is not None:
            try:
                known.follow(self._image(asked, image))
            except RpcError as error:  # it is fetched when it is whole, then
                log.warning("an image is not followed", extra={"reason": error.message})
        return answer

    async def _leaves(self, asked: node_v1.Container, *, asleep: bool) -> node_v1.LeavesResponse:
        known = self._pods.get(asked.pod_uid)
        if known is not None:
            return _verdict(known, asked.name)
        # One answer for the pod, whichever of its containers asks first.
        task = self._asking.get(asked.pod_uid)
        if task is None:
            task = self._asking[asked.pod_uid] = self._tasks.start("leave", self._ask(asked, asleep=asleep))
            task.add_done_callback(lambda _: self._asking.pop(asked.pod_uid, None))
        answer = await asyncio.shield(task)
        known = self._pods.get(asked.pod_uid)
        return _verdict(known, asked.name) if known is not None else answer

    async def left(self, request: node_v1.LeftRequest) -> None:
        """Takes a container's state over. Raises RpcError: it is still the shim's then."""
        asked = request.container or node_v1.Container()
        known = self._pods.get(asked.pod_uid)
        if known is None:
            raise RpcError(Code.FAILED_PRECONDITION, f"nobody said that {asked.name[:80]} moves")
        left = Left(
            asked.name, self._image(asked, request.image), request.layer, request.asleep, request.freeze_us
        )
        if reason := await known.save(left):
            raise RpcError(Code.ABORTED, f"{asked.name} could not be saved: {reason}")

    def _image(self, asked: node_v1.Container, path: str) -> ImageDir:
        """The image of a container at `path`. Raises RpcError."""
        try:
            image = ImageDir.at(path)
        except ValueError as error:
            raise RpcError(Code.INVALID_ARGUMENT, str(error)) from error
        if (image.root, image.pod_uid, image.container) != (self._places.images, asked.pod_uid, asked.name):
            raise RpcError(Code.INVALID_ARGUMENT, f"{path[:200]!r} is no image of {asked.name[:80]}")
        return image

    async def kept(self) -> list[dict[str, Any]]:
        """What is kept because nobody took it, for people."""
        return [
            {
                "name": part.reference,
                "migration": part.migration,
                "path": self.custody.directory(part),
                "bytes": part.size,
                "asleep": part.asleep,
                "saved": part.saved,
                "kept_until": part.kept_until,
                "reason": part.reason,
            }
            for part in await asyncio.to_thread(self.custody.kept)
        ]

    async def _ask(self, asked: node_v1.Container, *, asleep: bool) -> node_v1.LeavesResponse:
        pod = v1.Pod(namespace=asked.pod_namespace, name=asked.pod_name, uid=asked.pod_uid)
        sleeping = self._managed(asked.pod_uid) | {asked.name: asleep}
        containers = [v1.LeavingContainer(name=name, asleep=slept) for name, slept in sleeping.items()]
        request = v1.LeaveRequest(pod=pod, containers=containers)
        about = {"container": f"{pod.namespace}/{pod.name}/{asked.name}"}
        began = asyncio.get_running_loop().time()
        seconds = _UNKNOWN_SECONDS

        async def read() -> dict[str, Any]:
            nonlocal seconds
            found = await self._client.get(pod_path(pod.namespace, pod.name))
            seconds = patience(found)
            limit.reschedule(began + seconds)
            return found

        try:
            async with asyncio.timeout(seconds) as limit:
                answer, found, images = await asyncio.gather(
                    self._around.link.call(methods.LEAVE, request, timeout=LEAVE_SECONDS),
                    read(),
                    self._runtime.images(pod.uid),
                )
        except (Refused, Unavailable, ApiError, TimeoutError) as error:
            reason = str(error) or f"there was no answer within {seconds:g} s"
            log.warning("whether a pod moves could not be asked", extra=about | {"reason": reason})
            self._around.metrics.left.labels("unasked").inc()
            self._tell(pod, telling.unasked(asked.name, reason), asked.name)
            return node_v1.LeavesResponse(moves=False, reason=reason)
        if answer.verdict != v1.LeaveResponse.Verdict.MOVES:
            log.info("a container ends in the ordinary way", extra=about | {"reason": answer.reason})
            return node_v1.LeavesResponse(moves=False, reason=answer.reason, stays=_stays(found, pod.uid))
        departure = Departure(
            namespace=pod.namespace,
            migration=answer.migration,
            pod=pod.name,
            pod_uid=pod.uid,
            until=int(time.time()) + max(1, answer.seconds_left - MARGIN_SECONDS),
            keep_seconds=answer.keep_seconds,
            volumes={name: volumes.mounted(found, name) for name in sleeping},
            images={name: images[name] for name in sleeping if name in images},
        )
        known = Departing(departure, self._around)
        try:
            await asyncio.to_thread(self.custody.begin, departure)
        except (OSError, ValueError) as error:
            known.give_up(f"its node cannot save it: {error}")
        self._begin(known)
        return _verdict(known, asked.name)

    def _managed(self, pod_uid: str) -> dict[str, bool]:
        """The containers of a pod that can be saved, and whether they sleep."""
        return {
            status.name: status.phase == Phase.SCALED_DOWN
            for status in self._containers(pod_uid)
            if status.managed and status.name and not status.refusal and status.phase != Phase.STOPPED
        }

    def _begin(self, known: Departing) -> None:
        self._pods[known.departure.pod_uid] = known
        self._tasks.start(f"leaving {known.departure.migration}", self._run(known))

    async def _run(self, known: Departing) -> None:
        await known.run()
        del self._pods[known.departure.pod_uid]

    def _tell(self, pod: v1.Pod, happened: Happening, container: str) -> None:
        self._around.tell(Pod(namespace=pod.namespace, name=pod.name, uid=pod.uid), container, happened)

    async def _sweep(self) -> None:
        """Removes what was kept long enough."""
        while True:
            self._kept.clear()
            try:
                due = await asyncio.to_thread(self.custody.sweep, time.time())
            except (OSError, ValueError) as error:
                log.warning("kept copies cannot be swept", extra={"reason": str(error)})
                due = time.time() + _SWEEP_SECONDS
            try:
                async with asyncio.timeout(max(1.0, due - time.time()) if due else None):
                    await self._kept.wait()
            except TimeoutError:
                continue


def _stays(pod: Mapping[str, Any], uid: str) -> bool:
    """Whether nobody has told the pod to go; `pod`: what there is now by its name."""
    metadata, conditions = pod.get("metadata") or {}, (pod.get("status") or {}).get("conditions") or []
    told = any(each.get("type") == "DisruptionTarget" and each.get("status") == "True" for each in conditions)
    return metadata.get("uid") == uid and not metadata.get("deletionTimestamp") and not told


def patience(pod: Mapping[str, Any]) -> float:
    """Seconds in which it has to be known whether the pod moves: most of its grace period is left then, for
    its containers to end as ever.
    """
    grace = (pod.get("metadata") or {}).get("deletionGracePeriodSeconds")
    if grace is None:
        grace = (pod.get("spec") or {}).get("terminationGracePeriodSeconds")
    return min(LEAVE_SECONDS, _OF_GRACE * (30 if grace is None else int(grace)))


def _verdict(known: Departing, name: str) -> node_v1.LeavesResponse:
    if reason := known.refusal(name):
        return node_v1.LeavesResponse(moves=False, reason=reason)
    return node_v1.LeavesResponse(
        moves=True, reason="its pod is replaced, and its state moves there", seconds=max(1, known.seconds)
    )
