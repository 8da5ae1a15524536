"""A web service with state: a counter, a heap of any size, connections of its own. Port 8080.

`/` counts; `/whoami` is the client's address; `/pid`; `/heap?mb=N` holds N MB (at start: $HEAP_MB);
`/log?n=N` prints N numbered lines; `/exit?code=N` ends; `/connect?host=H&port=P` opens a connection and
echoes what arrives on it; `/stood` says from when to when it stood still for longest since it was asked that
before, in Unix seconds.
"""

import itertools
import os
import socket
import threading
import time

from service import serve

_counter = itertools.count(1)
_lines = itertools.count(1)
_heap: list[bytes] = []
_connections: list[socket.socket] = []
_stood: list[float] = []


def _count(_: dict[str, str], __: str) -> str:
    return f"{next(_counter)}\n"


def _hold(query: dict[str, str], _: str) -> str:
    _heap[:] = [os.urandom(1 << 20) for _ in range(int(query["mb"]))]  # random: it does not compress
    return f"{len(_heap)}\n"


def _log(query: dict[str, str], _: str) -> str:
    for _line in range(int(query.get("n", "1"))):
        print(f"line {next(_lines)}", flush=True)
    return "logged\n"


def _exit(query: dict[str, str], _: str) -> str:
    os._exit(int(query.get("code", "0")))


def _connect(query: dict[str, str], _: str) -> str:
    connection = socket.create_connection((query["host"], int(query["port"])), timeout=10)
    connection.settimeout(None)
    _connections.append(connection)
    threading.Thread(target=_echo, args=(connection,), daemon=True).start()
    return f"{connection.getsockname()[1]}\n"


def _echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()


def _standing(_: dict[str, str], __: str) -> str:
    if not _stood:
        _stood.extend((0.0, 0.0))
        threading.Thread(target=_look, daemon=True).start()
    began, ended = _stood
    _stood[:] = 0.0, 0.0
    return f"{began} {ended}\n"


def _look() -> None:
    before = time.time()
    while True:
        time.sleep(0.002)
        now = time.time()
        if now - before > _stood[1] - _stood[0]:
            _stood[:] = before, now
        before = now


if __name__ == "__main__":
    _hold({"mb": os.environ.get("HEAP_MB", "0")}, "")
    serve(
        {
            "/": _count,
            "/whoami": lambda _, client: f"{client}\n",
            "/pid": lambda *_: f"{os.getpid()}\n",
            "/heap": _hold,
            "/log": _log,
            "/exit": _exit,
            "/connect": _connect,
            "/stood": _standing,
        }
    )
