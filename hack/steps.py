"""The steps of a check: commands, each with a verdict, one after the other or side by side.

Every step runs, even when one before it failed. Of steps side by side each writes into a file in `out/` while
it runs, which is shown when it has ended. The trap: a step must end with us, however we end; hence `setpriv`,
and no threads, since the kernel sends its signal when the thread that started a process ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

import recipe

_HERE = os.path.dirname(os.path.abspath(__file__))


@dataclasses.dataclass(frozen=True)
class Step:
    """A script of this folder with its arguments; with an `obstacle`, a sentence, it is skipped."""

    title: str
    argv: list[str]
    obstacle: str = ""

    @property
    def command(self) -> list[str]:
        """What is executed."""
        script, *arguments = self.argv
        ends_with_us = ["setpriv", "--pdeathsig", "KILL"]
        return [*ends_with_us, sys.executable, os.path.join(_HERE, script), *arguments]

    def __str__(self) -> str:
        return f"\n--- {self.title}: {' '.join(self.argv)}"


def in_turn(steps: Sequence[Step]) -> dict[str, str]:
    """The outcome of each step, by its title."""
    outcomes = {}
    for step in steps:
        if step.obstacle:
            outcomes[step.title] = f"skipped: {step.obstacle}"
            continue
        print(step, flush=True)
        with contextlib.closing(_Running(step)) as running:
            outcomes[step.title] = running.outcome()
    return outcomes


def side_by_side(steps: Sequence[Step], number: int) -> dict[str, str]:
    """The outcome of each step, by its title; `number` run at a time, begun in this order."""
    outcomes = {step.title: f"skipped: {step.obstacle}" for step in steps}
    waiting = [step for step in steps if not step.obstacle]
    running: dict[int, _Running] = {}
    try:
        while waiting or running:
            while waiting and len(running) < number:
                begun = _Running(waiting.pop(0), shown=False)
                running[begun.pidfd] = begun
            for pidfd in select.select(list(running), [], [])[0]:
                with contextlib.closing(running.pop(pidfd)) as ended:
                    outcomes[ended.step.title] = ended.outcome()
    finally:
        for each in running.values():
            each.close()
    return outcomes


class _Running:
    """A step that has been begun; closing it ends it."""

    def __init__(self, step: Step, *, shown: bool = True) -> None:
        self.step = step
        self._log = "" if shown else os.path.join(recipe.OUT, step.title.replace(" ", "-") + ".log")
        self._began = time.monotonic()
        if shown:
            self._process = subprocess.Popen(step.command)
        else:
            os.makedirs(recipe.OUT, exist_ok=True)
            with open(self._log, "wb") as log:
                self._process = subprocess.Popen(
                    step.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            print(f"{step.title} begins; it writes into {self._log}", flush=True)
        self.pidfd = os.pidfd_open(self._process.pid)

    def outcome(self) -> str:
        """Waits for its end, shows what is to be shown, and tells how it went."""
        status = self._process.wait()
        took = time.monotonic() - self._began
        if self._log:
            print(self.step, flush=True)
            with open(self._log, "rb") as log:
                shutil.copyfileobj(log, sys.stdout.buffer)
            sys.stdout.flush()
        verdict = "passed" if status == 0 else f"FAILED (exit status {status})"
        return f"{verdict}, {took:.0f} s"

    def close(self) -> None:
        """Ends it, if it runs."""
        self._process.kill()
        self._process.wait()
        os.close(self.pidfd)
