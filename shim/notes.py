"""What is written down of a managed container: which phase it is in, and what failed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from architect.states import Phase, StateRecord, Unusable

log = logging.getLogger(__name__)


class Notes:
    """A container's record, and its file at `path`; `changed` is called when there is news."""

    def __init__(self, record: StateRecord, path: str, changed: Callable[[], None]) -> None:
        self._record = record
        self._path = path
        self._changed = changed

    def move(self, phase: Phase) -> None:
        """Writes the new phase down and tells of it.

        What is written survives the shim; the loss of power only when it is durable, and only a sleeper can.
        """
        self._record.move(phase, time.time_ns())
        self.write(durable=False)
        self._changed()

    def follow(self) -> None:
        """Notes what a container of the same name in the same pod, before this one, took with it.

        A sleeper whose node restarted, or whose shim was killed, is replaced by one without its memory.
        """
        try:
            earlier = StateRecord.load(self._path)
        except FileNotFoundError:
            return
        except Unusable as error:
            log.warning("what was before container %s is unknown: %s", self._record.container_id, error)
            return
        same = earlier.container_id == self._record.container_id
        if not same and earlier.phase in (Phase.SCALED_DOWN, Phase.WAKING):
            sentence = f"it slept when its node or its shim ended; its memory still lies in {earlier.image}"
            self.failed("fresh start", Exception(sentence))

    def failed(self, operation: str, error: Exception) -> None:
        """Keeps a failure for people to see."""
        log.warning("%s of container %s: %s", operation, self._record.container_id, error)
        self._record.failed(operation, str(error), time.time_ns())

    def active(self) -> None:
        """The container was used just now."""
        self._record.active_ns = time.time_ns()
        self._changed()

    def write(self, *, durable: bool) -> None:
        """Writes the record as it is; a failure to is logged, for nothing is lost by it yet."""
        try:
            self._record.save(self._path, durable=durable)
        except OSError as error:
            log.warning("the state of %s cannot be written: %s", self._record.container_id, error)
