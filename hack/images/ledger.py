"""A service that would notice if anything of it were lost, exchanged or torn. Port $PORT, by default 8080.

At its start it takes a token, which it also writes to /token, and to /cache/token-$PORT where there is a
volume. `/` is the token and a count; `/files` is what those files say. A thread rewrites $LEDGER_MB of
memory, block by block, for ever; `/check` proves every block and answers the token and how many were written.

What a block holds follows from the token, its number and how often it was written: a block that is an older
one, or another one's, is as wrong as one that is damaged.
"""

import itertools
import os
import random
import threading
import time

from service import serve

_BLOCK = 1 << 16
_PAUSE = 0.001
"""Between two blocks, in seconds: tens of MB change in each second, and others have the processor, too."""

_port = os.environ.get("PORT", "8080")
_token = os.urandom(8).hex()
_counter = itertools.count(1)
_files = ["/token", *(["/cache/token-" + _port] if os.path.isdir("/cache") else [])]


class _Memory:
    def __init__(self, blocks: int) -> None:
        self._source = random.Random(_token).randbytes(2 * _BLOCK)
        self._lock = threading.Lock()
        self._held = bytearray(blocks * _BLOCK)
        self._times = [0] * blocks
        self._written = 0
        for block in range(blocks):
            self._write(block)

    def keep_changing(self) -> None:
        """Rewrite one after the other; each is proved before."""
        for block in itertools.cycle(range(len(self._times))):
            with self._lock:
                self._prove(block)
                self._write(block)
            time.sleep(_PAUSE)

    def check(self) -> int:
        """How many blocks were written so far, now that each is proved. Raises ValueError."""
        if random.Random(_token).randbytes(2 * _BLOCK) != self._source:
            raise ValueError("what blocks are made of is another")
        for block in range(len(self._times)):
            with self._lock:
                self._prove(block)
        return self._written

    def _write(self, block: int) -> None:
        self._times[block] += 1
        self._written += 1
        self._held[block * _BLOCK : (block + 1) * _BLOCK] = self._content(block)

    def _prove(self, block: int) -> None:
        if self._held[block * _BLOCK : (block + 1) * _BLOCK] != self._content(block):
            raise ValueError(f"block {block} is not what was written there last")

    def _content(self, block: int) -> bytes:
        name = f"{_token} {block} {self._times[block]}\n".encode()
        start = hash((block, self._times[block])) % _BLOCK
        return name + self._source[start : start + _BLOCK - len(name)]


def _read_files() -> str:
    found = []
    for path in _files:
        with open(path) as file:
            found.append(file.read())
    return " ".join(found) + "\n"


if __name__ == "__main__":
    for path in _files:
        with open(path, "w") as file:
            file.write(_token)
    memory = _Memory(int(os.environ.get("LEDGER_MB", "0")) * (1 << 20) // _BLOCK)
    if os.environ.get("LEDGER_MB"):
        threading.Thread(target=memory.keep_changing, daemon=True).start()
    serve(
        {
            "/": lambda *_: f"{_token} {next(_counter)}\n",
            "/files": lambda *_: _read_files(),
            "/check": lambda *_: f"{_token} {memory.check()}\n",
        },
        int(_port),
    )
