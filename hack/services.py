"""Long-running programs of a cluster, by name: started, killed, started again, wherever this runs.

What there is stands in /etc/kubernetes/services.json: name -> {"argv", "cri"}, the latter the socket of a
container runtime, which is up when it tells its version there: it listens before, and kubelet gives up on it
then. Each service has a pid file /run/services/NAME.pid and a log /var/log/NAME.log. Nobody restarts what
ended but `keep`, until its standard input ends. The trap: whoever starts a service must not stay its parent,
or it would stay as a zombie; hence the process in between, whose orphan process 1 reaps.

    services.py start|kill NAME... | keep NAME
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

TABLE = "/etc/kubernetes/services.json"
_PIDS = "/run/services"
_END_SECONDS = 30.0
_LISTEN_SECONDS = 30.0
_EMPTY_REQUEST = bytes(5)
"""A gRPC message of no bytes, uncompressed."""


class NotRunning(Exception):
    """The service was not started, or has ended."""


def start(*names: str) -> None:
    """Start services, each when the one before is up. Raises subprocess.CalledProcessError."""
    subprocess.run([sys.executable, os.path.abspath(__file__), "start", *names], check=True, timeout=60)


def kill(name: str, number: int = signal.SIGKILL) -> None:
    """Send a signal and wait for the end. Raises NotRunning, and TimeoutError when it does not end of it."""
    with open_pid(name) as process:
        signal.pidfd_send_signal(process.fileno(), number)
        if not select.select([process], [], [], _END_SECONDS)[0]:
            raise TimeoutError(f"{name} still runs {_END_SECONDS:.0f} s after signal {number}")


def is_running(name: str) -> bool:
    """Whether the service was started and has not ended."""
    try:
        with open_pid(name) as process:
            return not select.select([process], [], [], 0)[0]
    except NotRunning:
        return False


def open_pid(name: str) -> Any:
    """The service's process as a file of its pidfd, readable when it has ended. Raises NotRunning."""
    try:
        with open(f"{_PIDS}/{name}.pid") as file:
            descriptor = os.pidfd_open(int(file.read()))
    except (FileNotFoundError, ProcessLookupError):
        raise NotRunning(f"{name} is not running; its log is {log(name)}") from None
    return open(descriptor, "rb", buffering=0)


def log(name: str) -> str:
    """Where a service's output is."""
    return f"/var/log/{name}.log"


def _start(name: str) -> None:
    with open(TABLE) as file:
        service = json.load(file)[name]
    os.makedirs(_PIDS, exist_ok=True)
    with open(log(name), "ab") as output:
        process = subprocess.Popen(
            service["argv"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    with open(f"{_PIDS}/{name}.new", "w") as file:
        file.write(str(process.pid))
    os.rename(f"{_PIDS}/{name}.new", f"{_PIDS}/{name}.pid")
    if service["cri"]:
        _await(name, service["cri"])
    process.returncode = 0  # it is meant to outlive us: no warning about that


def _keep(name: str) -> None:
    """Start the service whenever it ends, as systemd would, until standard input ends. First says "kept"."""
    process = open_pid(name)
    print("kept", flush=True)
    while sys.stdin not in select.select([process, sys.stdin], [], [])[0]:
        process.close()
        start(name)
        process = open_pid(name)


def _await(name: str, path: str) -> None:
    deadline = time.monotonic() + _LISTEN_SECONDS
    ask = [
        *("curl", "--silent", "--http2-prior-knowledge", "--unix-socket", path, "--max-time", "5"),
        *("--header", "content-type: application/grpc", "--header", "te: trailers", "--data-binary", "@-"),
        "http://localhost/runtime.v1.RuntimeService/Version",
    ]
    while is_running(name) and time.monotonic() < deadline:
        answer = subprocess.run(ask, input=_EMPTY_REQUEST, capture_output=True, check=False).stdout
        if name.encode() in answer:
            return
        time.sleep(0.02)  # nothing tells when it is up
    sys.exit(f"{name} did not come up; see {log(name)}")


def main() -> int:
    """Do what the command line says."""
    if sys.argv[1] == "keep":
        _keep(sys.argv[2])
        return 0
    if sys.argv[1] == "start":
        for name in sys.argv[2:]:
            _start(name)
        return 0
    try:
        for name in sys.argv[2:]:
            kill(name)
    except (NotRunning, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
