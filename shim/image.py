"""The image of one sleep, as the shim handles it: what blocks on the disk is done in threads."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from architect import images
from architect.engine import Adapted
from architect.engine.errors import EngineError
from architect.settings import PodIdentity, Port
from shim import layer
from shim.threads import in_thread

log = logging.getLogger(__name__)


class Damaged(Exception):
    """An image is not what was sealed: nothing can be restored from it."""


class SleepImage:
    """An image directory from its beginning to its removal. `bytes`: what it takes on disk, once sealed."""

    def __init__(self, directory: images.ImageDir) -> None:
        self._directory = directory
        self._syncing: asyncio.Task[None] | None = None
        self._proved = False
        self.bytes = 0

    @staticmethod
    def following(root: str, identity: PodIdentity, after: int) -> images.ImageDir:
        """Where the next image is to be: its generation is above `after`, and above what an earlier container
        of this name has left on disk. Raises ValueError, OSError.
        """
        place = (root, identity.pod_uid, identity.container)
        return images.ImageDir(*place, max(after + 1, images.next_generation(*place)))

    @classmethod
    def begin(cls, root: str, identity: PodIdentity, after: int) -> Self:
        """Makes the directory of the next generation. Raises ImageError, ValueError, OSError."""
        place = cls.following(root, identity, after)
        return cls(images.begin(root, place.pod_uid, place.container, place.generation))

    @property
    def generation(self) -> int:
        """Its number among the container's images."""
        return self._directory.generation

    @property
    def path(self) -> str:
        """Its directory."""
        return self._directory.path

    @property
    def engine_path(self) -> str:
        """The directory within that the engine fills."""
        return self._directory.engine_path

    async def seal(self, facts: images.Facts) -> None:
        """Hashes what the engine wrote and writes the manifest. Raises ImageError, ValueError, OSError."""
        await in_thread(lambda: images.seal(self._directory, facts))
        self.bytes = images.disk_bytes(self._directory)

    async def adopt(
        self, source: images.ImageDir, facts: images.Facts, adapted: Adapted, container_id: str
    ) -> None:
        """Becomes the image of container `container_id` that `source` is of another one. Raises ImageError,
        ValueError, OSError.
        """
        mine = dataclasses.replace(
            facts, container_id=container_id, generation=self.generation, extra=dict(adapted.extra)
        )
        await in_thread(lambda: images.adopt(source, self._directory, mine, adapted.files))
        self.bytes = images.disk_bytes(self._directory)

    def sync_later(self, written: str, then: Callable[[], None]) -> None:
        """Makes it and the writable layer `written` durable after the fact and calls `then`: a machine that
        crashed in between would have lost the container's memory anyway.
        """
        self._syncing = asyncio.create_task(self._sync(written, then), name=f"sync {self.path}")

    async def _sync(self, written: str, then: Callable[[], None]) -> None:
        try:
            await in_thread(lambda: images.sync(self._directory))
            if written:
                await in_thread(lambda: layer.sync(written))
        except OSError as error:
            log.warning("the image %s is not yet durable: %s", self.path, error)
        else:
            then()

    def proved(self) -> None:
        """Whoever brought it has proved it a moment ago: its next verdict is known, and nothing is read."""
        self._proved = True

    async def verdict(self) -> str:
        """What is wrong with it; "" when it is what was sealed. Raises EngineError if none can tell now."""
        if self._proved:
            self._proved = False  # of one attempt; after a failure all is doubted
            return ""
        try:
            await in_thread(lambda: images.verify(self._directory))
        except images.Corrupt as error:
            return str(error)
        except OSError as error:  # of the node (descriptors, memory), not of the image: worth another try
            raise EngineError(f"the image cannot be verified now: {error}") from error
        return ""

    async def discard(self) -> None:
        """Removes it; what can not be removed is logged and left to the sweep."""
        if self._syncing is not None:
            await asyncio.wait({self._syncing})
        try:
            await in_thread(lambda: images.remove(self._directory))
        except OSError as error:
            log.warning("the image %s is left behind: %s", self.path, error)


@dataclass(slots=True)
class Sleep:
    """One sleep: its image, what the engine needs to wake from it, and the ports that were listened on."""

    image: SleepImage
    extra: Mapping[str, Any] = field(default_factory=dict)
    listened: set[Port] = field(default_factory=set)


class Discarding:
    """Images that are being removed; nobody waits for the disk but who wants the place they take."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, image: SleepImage) -> None:
        """Removes an image in the background."""
        task = asyncio.create_task(image.discard(), name=f"discard {image.path}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def over(self) -> None:
        """Returns when none is left on the disk."""
        if self._tasks:
            await asyncio.wait(self._tasks)
