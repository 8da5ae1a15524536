"""Runs one row in a container: `python3 -m tests.node.holds MODULE NAME`.

Writes "holding" once it holds what the row is about; on SIGUSR1 it proves that it still does, writes "kept"
or "lost: ..." and ends.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import traceback

from tests.node.holds.rows import Hold, Lacking


def say(line: str) -> None:
    """Writes a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """The exit status is 0 when everything was kept."""
    module, name = sys.argv[1:]
    hold: Hold = getattr(importlib.import_module(f"tests.node.holds.{module}"), name)
    held = hold()
    with contextlib.suppress(OSError):  # read-only: then the row needs none
        os.makedirs("/tmp", mode=0o1777, exist_ok=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        next(held)
    except Lacking as reason:
        say(f"lacking: {reason}")
        return 0
    say("holding")
    signal.sigwait([signal.SIGUSR1])
    try:
        next(held, None)
    except Exception as error:  # noqa: BLE001  (every way to fail is the row's verdict)
        where = traceback.extract_tb(error.__traceback__)[-1]
        say(f"lost: {error!r} at line {where.lineno}: {where.line}")
        return 1
    say("kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
