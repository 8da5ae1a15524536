"""What a command says on a terminal besides its answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_PATIENCE_SECONDS: Final = 1.0  # before a spinner says that something goes on


def printable(text: str) -> str:
    """`text` without anything a terminal would obey: names and reasons come from pods."""
    return "".join(character if character.isprintable() else "?" for character in text)


@contextmanager
def spinner(doing: str) -> Iterator[None]:
    """Says what goes on, on a terminal's standard error, if it takes longer than a second."""
    if not sys.stderr.isatty():
        yield
        return
    from threading import Event, Thread

    done = Event()

    def spin() -> None:
        if done.wait(_PATIENCE_SECONDS):
            return
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status(Text(f"{printable(doing)} ...")):
            done.wait()

    spinner = Thread(target=spin, daemon=True)
    spinner.start()
    try:
        yield
    finally:
        done.set()
        spinner.join()
