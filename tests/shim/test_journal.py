"""The shim's log takes any sentence, and one line stays one line."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from shim.journal import FifoHandler


def test_any_sentence_is_one_line_of_the_log(tmp_path: Path) -> None:
    fifo = str(tmp_path / "log")
    os.mkfifo(fifo)
    handler = FifoHandler(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    @given(st.text(st.characters(), max_size=200))
    @example("a\ud800b")
    @example('"\n\\"')
    @example("a\r\x1b[2Jb")
    def note(sentence: str) -> None:
        handler.emit(logging.LogRecord("shim", logging.INFO, "", 0, "%s", (sentence,), None))
        line = os.read(reader, 1 << 16).decode()
        assert line.endswith("from=shim\n")
        assert line.isprintable() or line[:-1].isprintable()

    try:
        note()
    finally:
        os.close(reader)
        os.close(handler._fd)
