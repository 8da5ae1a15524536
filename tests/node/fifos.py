"""A process as containerd gives it to a shim: its OCI document, and the far ends of its streams."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hack.control import await_true

SECONDS: Final = 30.0
_Bytes = bytes  # the name of a property below


class Fifo:
    """A FIFO that is read to its end; reading can be held back."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path, 0o600)
        self.path = str(path)
        self.bytes = b""
        self.ended = asyncio.Event()
        self.news = asyncio.Event()
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.read()

    def read(self) -> None:
        """Goes on reading."""
        asyncio.get_running_loop().add_reader(self._fd, self._readable)

    def hold(self) -> None:
        """Stops reading: the writer will find the FIFO full."""
        asyncio.get_running_loop().remove_reader(self._fd)

    def _readable(self) -> None:
        try:
            found = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return
        self.bytes += found
        self.news.set()
        if not found:
            self.hold()
            self.ended.set()

    async def until(self, wanted: bytes) -> None:
        """Waits until `wanted` has been written. Raises TimeoutError."""
        async with asyncio.timeout(SECONDS):
            while wanted not in self.bytes:
                self.news.clear()
                await self.news.wait()

    def close(self) -> None:
        """Closes our end."""
        self.hold()
        os.close(self._fd)


class Streams:
    """The FIFOs of one process."""

    def __init__(self, directory: Path, name: str, *, stdin: bool, terminal: bool) -> None:
        self.out = Fifo(directory / f"{name}.out")
        self.err = None if terminal else Fifo(directory / f"{name}.err")
        self._stdin = directory / f"{name}.in" if stdin else None
        self._input = -1
        if self._stdin is not None:
            os.mkfifo(self._stdin, 0o600)
            self._input = os.open(self._stdin, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.uris: dict[str, Any] = {
            "stdin": str(self._stdin or ""),
            "stdout": self.out.path,
            "stderr": self.err.path if self.err is not None else "",
            "terminal": terminal,
        }

    def type(self, text: bytes) -> None:
        """Writes to the process's input."""
        assert os.write(self._input, text) == len(text)

    def hang_up(self) -> None:
        """Closes the input, as a client that is done does before it calls CloseIO."""
        if self._input >= 0:
            os.close(self._input)
            self._input = -1

    def close(self) -> None:
        """Closes our ends."""
        self.hang_up()
        for fifo in (self.out, self.err):
            if fifo is not None:
                fifo.close()


class _File:
    """A file that a process's output ends in."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def bytes(self) -> _Bytes:
        """What is in it by now, its lines sorted: two streams may meet in it."""
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        return b"".join(sorted(lines))

    async def until(self, wanted: _Bytes) -> None:
        """Waits until `wanted` has been written. Raises TimeoutError."""
        await asyncio.to_thread(await_true, lambda: wanted in self.bytes, f"{wanted!r} is in the log")


_LOGGER: Final = """#!/bin/sh
trap : TERM
echo "$# arguments, $1, for $CONTAINER_ID in ${CONTAINER_NAMESPACE%-*}; $(env | grep -c CONTAINER)" > "$2.out"
cat <&3 >> "$2.out" 5>&- &
cat <&4 >> "$2.err" 5>&- &
exec 5>&-
wait
wait
"""


class Logged:
    """A process's output in a file (`file://`) or with a log binary (`binary://`)."""

    def __init__(self, directory: Path, name: str, scheme: str, *, terminal: bool = False) -> None:
        log = directory / "logs" / name
        if scheme == "binary":
            log.parent.mkdir(exist_ok=True)
            program = directory / "logger"
            program.write_text(_LOGGER)
            program.chmod(0o700)
            uri, self.out = f"binary://{program}?to={log}", _File(log.with_name(f"{name}.out"))
            self.err: _File | None = _File(log.with_name(f"{name}.err"))
        else:
            uri, self.out, self.err = f"file://{log}", _File(log), None
        self.uris: dict[str, Any] = {
            "stdin": "",
            "stdout": uri,
            "stderr": "" if terminal else uri,
            "terminal": terminal,
        }

    def close(self) -> None:
        """Nothing of it is open here."""


def process(args: Sequence[str], terminal: bool) -> dict[str, Any]:
    """The OCI document of a process with these streams' kind."""
    return {
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": list(args),
        "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {kind: ["CAP_KILL"] for kind in ("bounding", "effective", "permitted")},
    }
