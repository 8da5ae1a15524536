"""Engines: ways to put a container to sleep on disk and to wake it in place.

An engine is given a running container's facts (`Subject`) and an image directory. It never decides when: the
shim does. It never loses state: a dump that fails, or that the caller declines at the last moment, leaves the
container as it was; a restore that fails leaves the image as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from architect.engine.cgroup import Cgroup
from architect.engine.children import Ended
from architect.engine.errors import Declined, EngineError, Refused

__all__ = ["Adapted", "Cgroup", "Declined", "Ended", "Engine", "EngineError", "Refused", "Subject"]

Decide = Callable[[Mapping[str, Any]], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Subject:
    """A container as an engine needs to know it.

    `streams`: descriptors 0-2 of the container's first process, to the shim's duplicates of the same pipes.
    """

    container_id: str
    spec: Mapping[str, Any]
    rootfs: str
    netns: str
    cgroup: Cgroup
    streams: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Adapted:
    """What it takes to go on with another container's image: its `extra`, and what some files become."""

    extra: Mapping[str, Any]
    files: Mapping[str, bytes]


class Engine(Protocol):
    """What the shim needs of any engine."""

    @property
    def name(self) -> str:
        """The engine's name in image manifests."""

    def refusal(self, subject: Subject) -> str:
        """Why this container can not be put to sleep, as a sentence; "" when it can."""

    def prepare(self, subject: Subject) -> None:
        """Starts ahead what `sleep` will need, to spare frozen time; failing to is no error.

        Raises Refused for what is seen to forbid a dump only while the container still runs.
        """

    async def sleep(
        self, subject: Subject, pid: int, image: str, log_dir: str, decide: Decide, *, final: bool = False
    ) -> None:
        """Dumps the frozen container whose first process is `pid` into directory `image` and ends its
        processes.

        When everything is on disk and before anything is ended, `decide(extra)` is awaited, `extra` being
        what `wake` will need; False stops the dump. Raises Declined then, EngineError when the dump failed;
        in both cases the container is still frozen, and whole. `final`: it does not come back here, so what
        has come and nobody has read is lost anyway, and stops nothing.
        """

    async def ready(self, subject: Subject) -> None:
        """Prepares for the wake of a container that has just fallen asleep; failing to is no error."""

    async def wake(
        self,
        subject: Subject,
        image: str,
        log_dir: str,
        extra: Mapping[str, Any],
        sound: Callable[[], Awaitable[bool]],
    ) -> tuple[int, asyncio.Future[Ended]]:
        """Restores and resumes; returns the first process's new pid and its end.

        Before the processes run, `sound()` (is the image what was written?) is awaited; False stops the
        restore. Raises EngineError when it failed: nothing of it runs then.
        """

    def adapt(
        self, subject: Subject, pid: int, image: str, extra: Mapping[str, Any], addresses: Collection[str]
    ) -> Adapted:
        """What `wake` will need to restore in this container, created and not started, whose first process is
        `pid`, an image that another one left; nothing is changed.

        `addresses`: those of its pod. Connections that the image holds will come back closed. Raises Refused
        when it does not fit, OSError.
        """

    def cut_short(self, container_id: str) -> None:
        """Ends a `sleep` or `wake` under way at once: it raises EngineError. The container's processes must
        be killed then. With nothing under way there is nothing to end.
        """

    async def forget(self, container_id: str) -> None:
        """Drops what `prepare` or `ready` made and nothing has used."""
