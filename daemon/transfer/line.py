"""Items between two threads, few at a time: the one that is ahead waits for the other."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from daemon.transfer.errors import Broken

LENGTH: Final = 3


class Line[Item]:
    """One thread puts, one gets; None is the end."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: deque[Item | None] = deque()
        self._ended = False

    def put(self, item: Item | None) -> None:
        """Waits for room. Raises Broken when nobody gets any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(self._items) < LENGTH)
            if self._ended:
                raise Broken("the connection has ended")
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> Item | None:
        """Waits for an item."""
        with self._changed:
            self._changed.wait_for(lambda: self._items)
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def full(self) -> bool:
        """Whether `put` would have to wait."""
        return len(self._items) >= LENGTH

    def end(self) -> None:
        """Nobody gets any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
