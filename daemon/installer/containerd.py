"""The containerd of this node: its process, what it makes of its configuration, and its restart.

It is known by its socket: the kernel tells who listens there. Nothing is said about a containerd that does
not run, for then nobody knows which configuration file it would read.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

from daemon.installer.errors import Refused

SOCKET: Final = "/run/containerd/containerd.sock"
CONFIG: Final = "/etc/containerd/config.toml"
_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 0.05
_STARTED_FIELD: Final = 19  # of /proc/PID/stat behind the program's name: field 22 of proc(5)


@dataclass(frozen=True, slots=True)
class Containerd:
    """The running containerd."""

    pid: int
    program: str
    """Its binary's path."""
    config: str
    """Its configuration file's path; the file may not exist."""
    started: str
    """Differs for each process that ever was: boot, pid and start."""

    @classmethod
    def find(cls, address: str) -> Self:
        """The containerd that listens at `address`. Raises Refused when none does."""
        pid = _listener(address)
        if pid == 0:
            raise Refused(
                f"no containerd answers at {address}; start it, or give the path of its socket"
                " (containerd.socket in the chart's values)"
            )
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="surrogateescape") as file:
            argv = file.read().split("\0")
        program = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")  # it was upgraded underneath
        return cls(pid, program, _config(argv), _started(pid))

    def version(self) -> tuple[int, int]:
        """Major and minor. Raises Refused."""
        ran = _run([self.program, "--version"])
        found = re.search(r"\bv?(\d+)\.(\d+)\.", ran)
        if not found:
            raise Refused(f"{self.program} does not tell its version: {ran.strip()!r}")
        return int(found[1]), int(found[2])

    def dump(self) -> dict[str, Any]:
        """The configuration as containerd reads it from its files now. Raises Refused when it cannot."""
        verb = (
            "dump" if os.path.exists(self.config) else "default"
        )  # containerd 1.7 dumps no file that is not
        ran = _run([self.program, "--config", self.config, "config", verb])
        try:
            return tomllib.loads(ran)
        except tomllib.TOMLDecodeError as error:
            raise Refused(f"`{self.program} config dump` printed no TOML: {error}") from None

    def restart(self, how: str, address: str) -> None:
        """Restart it and return when it answers again. Containers live on meanwhile.

        `how`: "auto" asks systemd; "signal" ends it and leaves the start to whoever supervises it. Raises
        Refused.
        """
        unit = ""
        if how == "auto" and _read("/proc/1/comm").strip() == "systemd":
            unit = service(_read(f"/proc/{self.pid}/cgroup"))
        if how == "auto" and not unit:
            raise Refused(
                f"containerd (pid {self.pid}) is not a service of systemd: restart it by hand, or let the"
                " installer end it with containerd.restart=signal if something starts it again. The"
                " configuration is in place"
            )
        if how == "auto":
            restart_unit(unit, _run)
        else:
            os.kill(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            pid = _listener(address)
            if pid and _started(pid) != self.started:
                return
            time.sleep(_LOOK_SECONDS)
        raise Refused(f"containerd did not answer at {address} within {_SECONDS:.0f} s of its restart")


def service(cgroups: str) -> str:
    """The systemd service that a process is of, by its `/proc/PID/cgroup`; "" without one."""
    for line in cgroups.splitlines():
        number, controllers, path = line.split(":", 2)
        name = os.path.basename(path)
        if name.endswith(".service") and (controllers == "name=systemd" or number == "0"):
            return name
    return ""


def restart_unit(unit: str, run: Callable[[list[str]], str]) -> None:
    """Have systemd restart containerd. Raises Refused if that would end the containers, too."""
    kill_mode = run(["systemctl", "show", "--property=KillMode", "--value", unit]).strip()
    if kill_mode not in ("process", "none"):
        raise Refused(
            f"systemd would end every container with {unit}: its KillMode is {kill_mode}. Set"
            " KillMode=process in the unit, as containerd's own does. The configuration is in place"
        )
    run(["systemctl", "restart", unit])


def _listener(address: str) -> int:
    """Who listens at a unix socket; 0 when nobody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_SECONDS)
        try:
            probe.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            return 0
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(pid)


def _config(argv: list[str]) -> str:
    for place, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag in ("-c", "--c", "-config", "--config"):
            return os.path.abspath(value if equals else argv[place + 1])
    return CONFIG


def _started(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        stat = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return f"{_read('/proc/sys/kernel/random/boot_id').strip()}/{pid}/{stat[_STARTED_FIELD]}"
    return ""


def _run(argv: list[str]) -> str:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            text=True,
            errors="replace",
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"`{' '.join(argv)}` did not run: {error}") from None
    if done.returncode:
        raise Refused(f"`{' '.join(argv)}` failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
