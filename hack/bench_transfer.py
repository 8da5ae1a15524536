"""How fast a checkpoint goes from node to node, against a plain copy of the same bytes over the same link.

Both ends are processes of their own on loopback, the fastest link there is: what it costs to encrypt, to
prove and to land is all that is seen. The bytes are as memory is: a third programs and text, a third noise, a
third pages of both by turns. The plain copy is read, send, receive, write; unencrypted, unproved. In turns.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from daemon.transfer import Credentials, Parcel, Server, Shelf, Source, fetch
from daemon.transfer.contents import Hashing
from hack.bench_figures import Figures
from hack.certificates import Authority

_MIB: Final = 1 << 20
_BYTES: Final = 512 * _MIB
_TURNS: Final = 7
_SECONDS: Final = 120.0


def transfer(figures: Figures) -> None:
    """Adds `transfer` and `transfer_copy`, in seconds per GB."""
    with tempfile.TemporaryDirectory(dir="/var/lib/architect") as directory:
        path = f"{directory}/pages"
        _write(path)
        authority = Authority(f"{directory}/ca")
        for node in ("node-1", "node-2"):
            authority.issue(node, f"/CN={node}", [f"DNS:{node}"])
        for turn in range(_TURNS + 1):
            into = figures if turn else Figures()  # the first reads the file and the programs from the disk
            into.add("transfer", "s/GB", _transferred(directory, path) / (_BYTES / 1e9))
            into.add("transfer_copy", "s/GB", _copied(directory, path) / (_BYTES / 1e9))


def _write(path: str) -> None:
    """A file of _BYTES bytes that compress as those of a process do."""
    with open(path, "wb") as file:
        while file.tell() < _BYTES:
            for text in _programs():
                noise = os.urandom(len(text))
                turns = b"".join(
                    text[at : at + 4096] + noise[at + 4096 : at + 8192] for at in range(0, len(text), 8192)
                )
                file.write(text + noise + turns)
                if file.tell() >= _BYTES:
                    break
        file.truncate(_BYTES)


def _programs() -> Iterator[bytes]:
    with open(sys.executable, "rb") as file:
        while data := file.read(_MIB):
            yield data


def _transferred(directory: str, path: str) -> float:
    def credentials(node: str) -> Credentials:
        names = (f"{directory}/ca/{name}" for name in (f"{node}.crt", f"{node}.key", "ca.crt"))
        return Credentials(*(_text(name) for name in names))

    hashing = Hashing()
    with open(path, "rb") as file:
        while data := file.read(_MIB):
            hashing.update(data)
    parcel = Parcel()
    parcel.add("pages", path, hashing.file())
    parcel.finish()

    def serve(tell: Callable[[str], None]) -> None:
        shelf = Shelf()
        server = Server(shelf, credentials("node-1"))
        offer = shelf.offer(parcel, for_node="node-2", seconds=_SECONDS)
        tell(f"{server.start('127.0.0.1')} {offer.ticket}")
        offer.taken.result(_SECONDS)
        asyncio.run(server.close())

    with _child(serve) as said:
        port, ticket = said.split()
        source = Source("127.0.0.1", int(port), "node-1", ticket)
        into = f"{directory}/arrived"
        work = fetch(source, credentials("node-2"), into=into, limit=_BYTES, seconds=_SECONDS)
        seconds = asyncio.run(work).seconds
    os.unlink(f"{into}/pages")
    os.rmdir(into)
    return seconds


def _copied(directory: str, path: str) -> float:
    def serve(tell: Callable[[str], None]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, open(path, "rb", buffering=0) as file:
            tell(str(listener.getsockname()[1]))
            line, _ = listener.accept()
            with line:
                while data := file.read(_MIB):
                    line.sendall(data)

    with _child(serve) as said, open(f"{directory}/copy", "wb", buffering=0) as file:
        began = time.perf_counter()
        with socket.create_connection(("127.0.0.1", int(said))) as line:
            while data := line.recv(_MIB):
                file.write(data)
        seconds = time.perf_counter() - began
    os.unlink(f"{directory}/copy")
    return seconds


@contextmanager
def _child(work: Callable[[Callable[[str], None]], None]) -> Iterator[str]:
    """Runs `work` in a process of its own; gives what it tells first."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            work(lambda text: (os.write(theirs, text.encode()), None)[1])
            os._exit(0)
        finally:
            os._exit(1)
    os.close(theirs)
    try:
        said = os.read(ours, 200).decode()
        yield said
    finally:
        os.close(ours)
        _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError("the other end failed")


def _text(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
