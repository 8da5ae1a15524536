"""What the shims tell of containers becomes what the API server says of pods.

It follows the node's pods, and brings each in line with its containers whenever either changes (`wanted.py`
says how, `rounds.py` when). It looks at how things are, never at what has changed: after hours without an API
server, or without a daemon, the next round is right. It is the one writer of the fields it writes.

Nothing here is waited for by a sleep or a wake.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from architect.kube import ApiError, Client, Conflict, NotFound, Refused, pod_path, pods_path
from architect.kube.following import Backoff, Following
from architect.states import Phase
from architect.ttrpc.shim_v1 import ContainerStatus
from daemon.containers import Container, Containers, Pod
from daemon.kubernetes.events import Events
from daemon.kubernetes.happenings import Happening, happened
from daemon.kubernetes.pods import PodView, view
from daemon.kubernetes.rounds import Rounds
from daemon.kubernetes.steps import take
from daemon.kubernetes.wanted import Resize, State, keeps_because, next_step, released
from daemon.supervision import Tasks

_STEPS: Final = 8
"""In one round; more are only needed when somebody else writes to the pod all the time."""
_REFUSED_FIRST_SECONDS: Final = 2.0
_REFUSED_LONGEST_SECONDS: Final = 3600.0
_REFUSED_FORGOTTEN_SECONDS: Final = 120.0
_STATES: Final = {
    Phase.RUNNING: State.RUNNING,
    Phase.HIBERNATING: State.RUNNING,
    Phase.SCALED_DOWN: State.SCALED_DOWN,
    Phase.STOPPED: State.ENDED,
}

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Refusal:
    """A resize that was refused, and the time until it is tried again."""

    sentence: str
    until: float
    pauses: Backoff
    told: bool


@dataclass(slots=True)
class _Known:
    """A pod of this node, and how it goes with it."""

    pod: PodView
    backoff: Backoff = field(default_factory=Backoff)
    refusals: dict[bool, _Refusal] = field(default_factory=dict)
    """By direction; True: raising."""
    failing: str = ""
    """Why the last round came to nothing, "" when it did not."""
    told: str = ""
    """The pending resize that was told of by an Event."""


def states(containers: Iterable[Container]) -> dict[str, State]:
    """What is to be said of a pod's containers, by name; of two with one name, of the living one."""
    found: dict[str, State] = {}
    for container in containers:
        status = container.status
        if status.managed and status.name:
            state = (
                _STATES.get(Phase(status.phase), State.CHANGING)
                if status.phase in Phase.__members__
                else None
            )
            if state is not None and found.get(status.name, State.ENDED) is State.ENDED:
                found[status.name] = state
    return found


class Reports:
    """Reports of the containers of `node` to the API server behind `client`."""

    def __init__(self, client: Client, node: str, containers: Containers) -> None:
        self._client = client
        self._node = node
        self._containers = containers
        self._tasks = Tasks()
        self._pods: dict[str, _Known] = {}
        self._connected = asyncio.Event()
        self.rounds = Rounds(self._tasks, self._round)
        self.events = Events(client, node)
        self.appeared: Callable[[PodView], None] = lambda _: None
        """Told of each pod that was not known before."""
        self.lost_because = "the API server has not answered yet"

    def start(self) -> None:
        """Begins to report."""
        selector = f"spec.nodeName={self._node}"
        following = Following(self._client, pods_path(), self, view, fieldSelector=selector)
        self._tasks.start("pods of this node", following.run())
        self._tasks.start("events", self.events.run())

    async def close(self) -> None:
        """Ends it. What has not been said the successor will say."""
        self.rounds.close()
        await self._tasks.close()

    # ---- what the shims tell

    def heard(self, container: Container, before: ContainerStatus | None) -> None:
        """A container is so now; `before` it was so."""
        for happening in happened(before, container.status):
            self.happened(container, happening)
        if before is None or (before.phase, before.managed) != (
            container.status.phase,
            container.status.managed,
        ):
            self._ask(container.pod.uid)

    def happened(self, container: Container, happening: Happening) -> None:
        """Something that has an Event of its own."""
        if container.pod.uid and container.status.name:
            self.events.happened(container.pod, container.status.name, happening)

    # ---- what the API server tells

    def listed(self, items: list[PodView]) -> None:
        """All pods of the node."""
        self._connected.set()
        self.events.reachable()
        self.lost_because = ""
        present = {pod.uid for pod in items}
        for uid in self._pods.keys() - present:
            self._forget(uid)
        for pod in items:
            self.changed(pod)

    def changed(self, item: PodView) -> None:
        """A pod is so now."""
        if item.uid:
            self._learn(item)
            self._ask(item.uid)

    def deleted(self, item: PodView) -> None:
        """A pod is gone."""
        self._forget(item.uid)

    def lost(self, reason: str) -> None:
        """The API server does not answer."""
        self._connected.clear()
        self.lost_because = reason
        log.warning("the API server cannot be followed; reports wait", extra={"reason": reason})

    # ---- what people are told

    def health(self) -> str:
        """Connected, or why not."""
        return self.lost_because or "connected"

    def explained(self, container: Container) -> dict[str, Any]:
        """`kubernetes` and more `sentences` for a container."""
        known = self._pods.get(container.pod.uid)
        said = [f"Kubernetes is not told at the moment: {self.lost_because}."] if self.lost_because else []
        facts: dict[str, Any] = {"connected": not self.lost_because, "pod_known": known is not None}
        if known is None:
            return {"kubernetes": facts, "sentences": said}
        name = container.status.name
        back = released(known.pod, name)
        facts |= {"requests_released": back, "resize": known.pod.pending, "failing": known.failing}
        if back:
            amounts = ", ".join(f"{resource} {value}" for resource, value in back.items())
            said.append(f"Its requests are released: {amounts}.")
        elif container.status.managed and (reason := keeps_because(known.pod, name)):
            said.append(reason)
        for raising, refusal in known.refusals.items():
            what = "given back" if raising else "released"
            said.append(f"Its requests could not be {what}: {refusal.sentence}")
        if known.pod.pending:
            said.append(
                f"Kubelet has not carried out a resize ({known.pod.pending}): {known.pod.pending_sentence}"
            )
        if known.failing:
            said.append(f"Reporting to Kubernetes fails: {known.failing}")
        return {"kubernetes": facts, "sentences": said}

    # ---- a round

    def _ask(self, uid: str) -> None:
        """A pod may have to be brought in line: one of ours, with something to say of it."""
        if uid in self._pods:
            self.rounds.ask(uid)

    def _of(self, uid: str) -> list[Container]:
        return [container for container in self._containers if container.pod.uid == uid]

    async def _round(self, uid: str) -> float | None:
        """Brings a pod in line; the answer is when to come again."""
        await self._connected.wait()
        known = self._pods.get(uid)
        found = states(self._of(uid))
        if known is None or not found:
            return None
        try:
            await self._bring_in_line(known, found)
        except NotFound:
            return None  # the watch will say so, too
        except ApiError as error:
            known.failing = str(error)
            log.info("a pod's report waits", extra={"pod": _path(known.pod), "reason": str(error)})
            return known.backoff.pause(error.after)
        known.backoff.reset()
        known.failing = ""
        self._tell_of_pending(known)
        waits = [refusal.until - time.monotonic() for refusal in known.refusals.values()]
        return min((wait for wait in waits if wait > 0), default=None)

    async def _bring_in_line(self, known: _Known, found: Mapping[str, State]) -> None:
        for _ in range(_STEPS):
            if known.pod.pending == "Infeasible" and any(released(known.pod, name) for name in found):
                self._refuse(
                    known, raising=False, sentence=known.pod.pending_sentence or "kubelet cannot do it"
                )
            blocked = self._blocked(known)
            step = next_step(known.pod, found, may_lower=False not in blocked, may_raise=True not in blocked)
            if step is None:
                return
            try:
                self._learn(await take(self._client, known.pod, step))
            except Conflict:  # somebody wrote meanwhile; the watch may take its time to say so
                fresh = view(await self._client.get(pod_path(known.pod.namespace, known.pod.name)))
                if fresh.uid != known.pod.uid:
                    return  # another pod of the same name
                self._learn(fresh, anyway=True)
            except Refused as error:
                if not isinstance(step, Resize):
                    raise
                self._refuse(known, raising=step.raising, sentence=str(error))

    def _blocked(self, known: _Known) -> set[bool]:
        """The directions not to be tried now. What has not been refused again for a while is forgotten."""
        now = time.monotonic()
        for raising, refusal in list(known.refusals.items()):
            if refusal.until + _REFUSED_FORGOTTEN_SECONDS < now:
                del known.refusals[raising]
        return {raising for raising, refusal in known.refusals.items() if refusal.until > now}

    def _refuse(self, known: _Known, *, raising: bool, sentence: str) -> None:
        before = known.refusals.get(raising)
        if before is not None and before.until > time.monotonic():
            return
        pauses = before.pauses if before else Backoff(_REFUSED_FIRST_SECONDS, _REFUSED_LONGEST_SECONDS)
        # Said when it is refused again: an API server that has just started may not know our rights yet.
        tell = before is not None and not before.told
        told = before is not None
        known.refusals[raising] = _Refusal(sentence, time.monotonic() + pauses.pause(), pauses, told)
        if tell:
            what = "given back" if raising else "released"
            self._tell(
                known, Happening("ResizeRefused", f"Requests are not {what}: {sentence}", warning=True)
            )

    def _tell_of_pending(self, known: _Known) -> None:
        """An Event when kubelet does not carry out a resize; kubelet itself tries again."""
        pending = known.pod.pending
        if pending and pending != known.told:
            reason = {"Deferred": "ResizeDeferred", "Infeasible": "ResizeInfeasible"}.get(
                pending, "ResizeFailed"
            )
            sentence = f"Requests are not changed yet: {known.pod.pending_sentence or pending}"
            self._tell(known, Happening(reason, sentence, warning=True))
        known.told = pending

    def _tell(self, known: _Known, happening: Happening) -> None:
        for container in self._of(known.pod.uid):
            if container.status.managed:
                self.happened(container, happening)
                return

    # ---- what is known of pods

    def _learn(self, pod: PodView, *, anyway: bool = False) -> None:
        """Takes in a pod, unless it is older than what is known: answers and the watch may overtake."""
        known = self._pods.get(pod.uid)
        if known is None:
            self._pods[pod.uid] = _Known(pod)
            self.appeared(pod)
        elif anyway or not _older(pod.version, known.pod.version):
            known.pod = pod

    def _forget(self, uid: str) -> None:
        self._pods.pop(uid, None)
        self.rounds.forget(uid)


def _older(version: str, than: str) -> bool:
    """Whether one version of an object is older than another: they are numbers that grow (by contract since
    Kubernetes 1.35, and as etcd has always made them).
    """
    return version.isdigit() and than.isdigit() and int(version) < int(than)


def _path(pod: PodView | Pod) -> str:
    return f"{pod.namespace}/{pod.name}"
