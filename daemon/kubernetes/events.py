"""Events on pods: one object for what happens again and again, its count raised, and never a flood.

Of each (container, reason) the first is written at once. While it goes on happening it is counted here, and
the count is written at growing intervals. So a pod that flaps all day costs some requests an hour, and no
count is lost. Core Events are used, since `kubectl describe` shows their count and last sentence; of the
newer kind only the series may change.

While the API server is away they wait here: so many and no more, the oldest go first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from architect.kube import ApiError, Busy, Client, Conflict, NotFound, Refused, Unreachable
from architect.kube.following import Backoff
from daemon.containers import Pod
from daemon.kubernetes.happenings import Happening

KEPT: Final = 1024
"""Different (container, reason) that are remembered."""
FIRST_INTERVAL_SECONDS: Final = 2.0
LONGEST_INTERVAL_SECONDS: Final = 300.0
_FORGET_SECONDS: Final = 900.0  # quiet for so long, it begins a new Event
COMPONENT: Final = "architectd"

log = logging.getLogger(__name__)
Key = tuple[str, str, str]
"""Pod uid, container, reason."""


@dataclass(slots=True)
class _Entry:
    pod: Pod
    container: str
    happening: Happening
    first: datetime
    last: datetime
    count: int = 0
    wanted: str = ""
    """The name that the Event has been created by, perhaps: who got no answer does not know."""
    name: str = ""
    """The Event's name once it exists."""
    written: int = 0
    """The count that the API server knows."""
    due: float = 0.0
    """Not written before this moment (monotonic)."""
    interval: float = 0.0


class Events:
    """The Events of this node's pods. `run` writes what `happened` notes."""

    def __init__(
        self, client: Client, node: str, *, clock: Callable[[], float] = time.monotonic, kept: int = KEPT
    ) -> None:
        self._client = client
        self._node = node
        self._clock = clock
        self._kept = kept
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._news = asyncio.Event()
        self._heard = asyncio.Event()
        self._backoff = Backoff()
        self.dropped = 0
        """Happenings that nobody will read of: too many at once, or invalid."""

    def happened(self, pod: Pod, container: str, happening: Happening) -> None:
        """Notes something that has happened to a container."""
        key = pod.uid, container, happening.reason
        now, moment = datetime.now(UTC), self._clock()
        entry = self._entries.get(key)
        if entry is not None and moment - entry.due > _FORGET_SECONDS and entry.written == entry.count:
            entry = None
        if entry is None:
            entry = self._entries[key] = _Entry(pod, container, happening, now, now, due=moment)
        entry.happening, entry.last = happening, now
        entry.count += 1
        self._entries.move_to_end(key)
        while len(self._entries) > self._kept:
            _, oldest = self._entries.popitem(last=False)
            self.dropped += oldest.count - oldest.written
        self._news.set()

    def reachable(self) -> None:
        """The API server has answered somebody: what waited for it need not wait longer."""
        self._heard.set()

    async def run(self) -> None:
        """Writes for as long as it is let."""
        while True:
            self._news.clear()
            waiting = [entry for entry in self._entries.values() if entry.written < entry.count]
            entry = min(waiting, key=lambda entry: entry.due, default=None)
            wait = None if entry is None else max(0.0, entry.due - self._clock())
            if entry is None or wait:
                await _until(self._news, wait)
                continue
            self._heard.clear()
            await self._write(entry)

    async def _write(self, entry: _Entry) -> None:
        count = entry.count
        try:
            if entry.name:
                await self._client.patch(_path(entry.pod, entry.name), _again(entry))
            else:
                made = await self._client.create(_path(entry.pod), self._event(entry))
                entry.name = str(made["metadata"]["name"])
        except NotFound:
            if entry.name:
                entry.name = entry.wanted = ""  # an Event lives for an hour; this one is written anew
                return
            self._drop(entry, count, "its namespace is gone")  # and with it the pod
        except Conflict:
            if not entry.name:
                entry.name = entry.wanted  # an attempt without an answer has made it
                return
        except (Busy, Unreachable) as error:
            await _until(self._heard, self._backoff.pause(error.after))
            return
        except Refused as error:
            # An API server that has just started knows no rights yet, and rights may be given later.
            if error.status not in (401, 403):
                self._drop(entry, count, str(error))
            else:
                log.info("an Event waits", extra={"reason": str(error)})
                count = entry.written
        except (ApiError, KeyError, TypeError) as error:
            self._drop(entry, count, str(error))
        else:
            self._backoff.reset()
        entry.written = count
        entry.interval = min(max(2 * entry.interval, FIRST_INTERVAL_SECONDS), LONGEST_INTERVAL_SECONDS)
        entry.due = self._clock() + entry.interval

    def _drop(self, entry: _Entry, count: int, reason: str) -> None:
        self.dropped += count - entry.written
        fields = {"event": entry.happening.reason, "pod": f"{entry.pod.namespace}/{entry.pod.name}"}
        log.warning("an Event was not taken", extra={**fields, "reason": reason})

    def _event(self, entry: _Entry) -> dict[str, Any]:
        pod = entry.pod
        # As others name theirs: the pod, and a number that no other Event of it has.
        entry.wanted = entry.wanted or f"{pod.name[:200]}.{time.time_ns():x}"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": entry.wanted, "namespace": pod.namespace},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": pod.namespace,
                "name": pod.name,
                "uid": pod.uid,
                "fieldPath": f"spec.containers{{{entry.container}}}",
            },
            "reason": entry.happening.reason,
            "message": entry.happening.sentence,
            "type": "Warning" if entry.happening.warning else "Normal",
            "source": {"component": COMPONENT, "host": self._node},
            "reportingComponent": f"architect.loopholelabs.io/{COMPONENT}",
            "reportingInstance": self._node,
            "firstTimestamp": _stamp(entry.first),
            "lastTimestamp": _stamp(entry.last),
            "count": entry.count,
        }


async def _until(event: asyncio.Event, seconds: float | None) -> None:
    """Waits for it, so long and no longer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _again(entry: _Entry) -> dict[str, Any]:
    return {"count": entry.count, "lastTimestamp": _stamp(entry.last), "message": entry.happening.sentence}


def _path(pod: Pod, name: str = "") -> str:
    path = f"/api/v1/namespaces/{pod.namespace}/events"
    return f"{path}/{name}" if name else path


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
