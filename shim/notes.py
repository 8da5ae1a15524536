"""What is written down of a managed container: which phase it is in, and what failed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from architect.states import Phase, StateRecord, Unusable
from shim.image import SleepImage

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

    def before(self) -> StateRecord | None:
        """What the container of the same name in the same pod, before this one, has left; None when it had
        its end, or never began, or there was none.
        """
        try:
            earlier = StateRecord.load(self._path)
        except FileNotFoundError:
            return None
        except Unusable as error:
            log.warning("what was before container %s is unknown: %s", self._record.container_id, error)
            return None
        nothing = earlier.phase in (Phase.CREATED, Phase.ARRIVING, Phase.STOPPED)
        return None if nothing or earlier.container_id == self._record.container_id else earlier

    def forget(self) -> None:
        """Removes the file, unless another container has it by now. Raises OSError."""
        try:
            mine = StateRecord.load(self._path).container_id == self._record.container_id
        except (FileNotFoundError, Unusable):
            mine = True
        if mine:
            StateRecord.remove(self._path)

    def carry_on(self, history: StateRecord, image: SleepImage) -> None:
        """Takes over what is to be told of the container that this one goes on with; it is asleep from now
        on.
        """
        mine = self._record
        mine.image, mine.generation = image.path, image.generation
        mine.saved_bytes = history.saved_bytes
        # Its first start is over: an initial delay does not begin again.
        mine.active_ns, mine.started_ns = history.active_ns, history.started_ns
        mine.sleeps, mine.wakes = history.sleeps, history.wakes
        mine.last_sleep_us, mine.last_wake_us = history.last_sleep_us, history.last_wake_us
        mine.last_wake_cause = history.last_wake_cause
        self.move(Phase.SCALED_DOWN)

    def failed(self, operation: str, error: Exception) -> None:
        """Keeps a failure for people to see."""
        log.warning("%s of container %s: %s", operation, self._record.container_id, error)
        self._record.failed(operation, str(error), time.time_ns())

    def refused(self, error: Exception) -> None:
        """A wake is not even tried, for the node's sake. Told at once: no change of phase will tell it."""
        self.failed("room", error)
        self._changed()

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
