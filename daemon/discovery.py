"""Finds the shims of the node by their sockets, and keeps one task for each of them.

The kernel tells of sockets that come and go (inotify). The directory is root's alone, so whoever can put a
socket there can do worse; what comes through it is nevertheless read with care.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable
from typing import Final

from architect import inotify
from architect.files import make_private_dirs
from daemon.shim import ShimConnection
from daemon.supervision import Tasks

_MASK: Final = (
    inotify.CREATE
    | inotify.DELETE
    | inotify.MOVED_TO
    | inotify.MOVED_FROM
    | inotify.DELETE_SELF
    | inotify.MOVE_SELF
    | inotify.ONLYDIR
)
_LOST: Final = inotify.IGNORED | inotify.DELETE_SELF | inotify.MOVE_SELF
_SOCKET: Final = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,200})\.sock")
_AGAIN_SECONDS: Final = 1.0  # before a directory is looked for again that somebody has removed

log = logging.getLogger(__name__)


class Discovery:
    """Follows every shim with a socket in `directory`."""

    def __init__(self, directory: str, make: Callable[[str], ShimConnection]) -> None:
        self._directory = directory
        self._make = make
        self._tasks = Tasks()
        self._followed: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Follows shims until it is cancelled. Raises OSError when the directory cannot be watched."""
        try:
            while True:
                make_private_dirs(self._directory)
                with inotify.Inotify(self._directory, _MASK) as changes:
                    self._compare()
                    await self._listen(changes)
                log.warning("the directory of the shims was removed", extra={"directory": self._directory})
                self._compare()
                await asyncio.sleep(_AGAIN_SECONDS)
        finally:
            await self._tasks.close()

    async def _listen(self, changes: inotify.Inotify) -> None:
        """Returns when the directory is gone."""
        while True:
            change = await changes.next()
            if change.mask & _LOST:
                return
            if change.mask & inotify.OVERFLOW:
                self._compare()
            elif found := _SOCKET.fullmatch(change.name):
                if change.mask & (inotify.CREATE | inotify.MOVED_TO):
                    self._follow(found[1])
                else:
                    self._leave(found[1])

    def _compare(self) -> None:
        """Looks at the directory itself."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            names = []
        keys = {found[1] for name in names if (found := _SOCKET.fullmatch(name))}
        for key in self._followed.keys() - keys:
            self._leave(key)
        for key in keys:
            self._follow(key)

    def _follow(self, key: str) -> None:
        """Follows a shim, anew if its socket was replaced."""
        old = self._followed.get(key)
        if old is not None and not old.done():
            return  # it notices itself when its connection ends
        self._followed[key] = self._tasks.start(f"shim {key}", self._make(key).run())

    def _leave(self, key: str) -> None:
        task = self._followed.pop(key, None)
        if task is not None:
            task.cancel()
