"""Timers of every kind on the clocks that no two machines share, and what they see. Port 8080.

Each kind ticks ten times a second. `/clocks` waits until each has ticked twice more, then answers as JSON
what both clocks say and have ever done between two ticks of whichever kind: the longest step on, and how
often they stepped back; `/ticks` does not wait. `/alarm?seconds=N` sets an absolute time, `/rung` waits for
it and answers how much later it was.
"""

import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable

from service import serve

_TICK = 0.1
_CLOCKS = {"monotonic": time.CLOCK_MONOTONIC, "boottime": time.CLOCK_BOOTTIME}


class _Seen:
    def __init__(self) -> None:
        self._news = threading.Condition()
        self._last = {name: time.clock_gettime(clock) for name, clock in _CLOCKS.items()}
        self._longest = dict.fromkeys(_CLOCKS, 0.0)
        self._back = dict.fromkeys(_CLOCKS, 0)
        self.ticks: dict[str, int] = {}

    def tick(self, kind: str) -> None:
        with self._news:
            self._look()
            self.ticks[kind] = self.ticks.get(kind, 0) + 1
            self._news.notify_all()

    def _look(self) -> None:
        for name, clock in _CLOCKS.items():
            now = time.clock_gettime(clock)
            step = now - self._last[name]
            self._longest[name] = max(self._longest[name], step)
            self._back[name] += step < 0
            self._last[name] = now

    def report(self) -> str:
        with self._news:
            wanted = {kind: self.ticks.get(kind, 0) + 2 for kind in (*_KINDS, _SIGNAL)}
            self._news.wait_for(lambda: all(self.ticks.get(kind, 0) >= n for kind, n in wanted.items()))
            self._look()
            return json.dumps({"now": self._last, "longest": self._longest, "back": self._back}) + "\n"


_seen = _Seen()


class _Alarm:
    def __init__(self) -> None:
        self._timer = os.timerfd_create(time.CLOCK_MONOTONIC)
        self._due = 0.0

    def set(self, query: dict[str, str], _: str) -> str:
        self._due = time.monotonic() + float(query["seconds"])
        os.timerfd_settime(self._timer, flags=os.TFD_TIMER_ABSTIME, initial=self._due)
        return "set\n"

    def rung(self, _: dict[str, str], __: str) -> str:
        os.read(self._timer, 8)
        return f"{time.monotonic() - self._due}\n"


def _timerfd(clock: int) -> Callable[[], object]:
    timer = os.timerfd_create(clock)
    os.timerfd_settime(timer, initial=_TICK, interval=_TICK)
    return lambda: os.read(timer, 8)


def _condition() -> Callable[[], object]:
    never = threading.Event()
    return lambda: never.wait(_TICK)


_KINDS: dict[str, Callable[[], object]] = {
    "sleep": lambda: time.sleep(_TICK),
    "poll": lambda: select.poll().poll(_TICK * 1000),
    "lock": _condition(),
    "timerfd": _timerfd(time.CLOCK_MONOTONIC),
    "timerfd of boottime": _timerfd(time.CLOCK_BOOTTIME),
}
_SIGNAL = "interval timer"
"""Its ticks are signals."""


def _run(kind: str, wait: Callable[[], object]) -> None:
    while True:
        wait()
        _seen.tick(kind)


if __name__ == "__main__":
    for each, waiting in _KINDS.items():
        threading.Thread(target=_run, args=(each, waiting), daemon=True).start()
    signal.signal(signal.SIGALRM, lambda *_: _seen.tick(_SIGNAL))
    signal.setitimer(signal.ITIMER_REAL, _TICK, _TICK)
    alarm = _Alarm()
    serve(
        {
            "/ticks": lambda *_: f"{_seen.ticks}\n",
            "/clocks": lambda *_: _seen.report(),
            "/alarm": alarm.set,
            "/rung": alarm.rung,
        }
    )
