"""Events on the pods that move and on those that replace them: one for each beginning and each end.

While the API server is away they wait here: so many and no more, the oldest go first.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from architect.kube import ApiError, Client, Conflict, NotFound, Refused
from architect.kube.following import Backoff
from controlplane.records import Part, Record, State
from controlplane.times import written

KEPT: Final = 1024
COMPONENT: Final = "architect-controlplane"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Happening:
    """What is told of a container of a pod."""

    namespace: str
    pod: str
    uid: str
    container: str
    reason: str
    sentence: str
    warning: bool = False


def happening(record: Record, part: Part) -> Happening | None:
    """What is told of a container that has just come to this state; None: nothing."""
    source = record.namespace, record.pod, record.pod_uid
    target = record.target
    match part.state:
        case State.LEAVING:
            sentence = f"its memory moves: {record.reason}; see migration {record.name}"
            return Happening(*source, part.name, "MigrationStarted", sentence)
        case State.ARRIVED if target is not None:
            took = f"{part.since - record.since:.1f} s after that was told to go"
            asleep = ", asleep" if part.asleep else ""
            sentence = f"it goes on as {record.pod} of {record.node}{asleep}, {took} ({part.size} bytes)"
            return Happening(
                record.namespace, target.name, target.uid, part.name, "MigrationCompleted", sentence
            )
        case State.KEPT | State.LOST:
            where = (record.namespace, target.name, target.uid) if target is not None else source
            copy = (
                f"its copy is kept on {record.node} for a day: kubectl architect restore {record.name}"
                if part.state is State.KEPT
                else "there is no copy"
            )
            sentence = f"the memory of {record.pod} did not move: {part.reason}; {copy}"
            return Happening(*where, part.name, "MigrationFailed", sentence, warning=True)
        case _:
            return None


class Events:
    """What is told, until it is written. `run` writes it."""

    def __init__(self, client: Client, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._clock = clock
        self._waiting: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._news = asyncio.Event()

    def tell(self, found: Happening) -> None:
        """Notes it."""
        # Named once: an attempt without an answer may have made it, and the next must not make another.
        self._waiting.append(_event(found, written(self._clock())[:19] + "Z"))
        self._news.set()

    async def run(self) -> None:
        """Writes for as long as it is let."""
        backoff = Backoff()
        while True:
            while not self._waiting:
                self._news.clear()
                await self._news.wait()
            event = self._waiting[0]
            about = {"event": event["reason"]}
            path = f"/api/v1/namespaces/{quote(event['metadata']['namespace'], safe='')}/events"
            try:
                await self._client.create(path, event)
            except Conflict:
                log.debug("an Event is there already", extra=about)
            except (NotFound, Refused) as error:  # its namespace goes, or is gone
                log.info("an Event was not taken", extra=about | {"reason": str(error)})
            except ApiError as error:
                log.debug("an Event waits", extra=about | {"reason": str(error)})
                await asyncio.sleep(backoff.pause(error.after))
                continue
            backoff.reset()
            if self._waiting and self._waiting[0] is event:
                self._waiting.popleft()


def _event(found: Happening, moment: str) -> dict[str, Any]:
    return {
        "metadata": {"name": f"{found.pod[:200]}.{secrets.token_hex(8)}", "namespace": found.namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": found.namespace,
            "name": found.pod,
            "uid": found.uid,
            "fieldPath": f"spec.containers{{{found.container}}}",
        },
        "reason": found.reason,
        "message": found.sentence[:1000],
        "type": "Warning" if found.warning else "Normal",
        "source": {"component": COMPONENT},
        "reportingComponent": f"architect.loopholelabs.io/{COMPONENT}",
        "reportingInstance": COMPONENT,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }
