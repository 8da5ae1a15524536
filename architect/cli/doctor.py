"""Whether this node can run Architect: each check says what it found and, if that will not do, the cure.

Features are tried, not derived from versions, with one exception: CRIU's, where the fault shows only in a
dump.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

from architect.cli import host
from architect.gate import GateError
from architect.gate.nftables import Means, probe

HANDLER: Final = "runc-architect"
SHIM: Final = "containerd-shim-runc-architect-v1"
RUNTIME_TYPE: Final = "io.containerd.runc-architect.v1"
IMAGES: Final = "/var/lib/architect"
CRIU_PATHS: Final = (
    "/opt/architect/current/bin/criu",
    "/opt/architect/criu/criu",
    "/usr/sbin/criu",
    "/usr/local/sbin/criu",
    "/usr/bin/criu",
)
_PROGRAM_SECONDS: Final = 30.0
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MEMORY_FILE_SYSTEMS: Final = ("tmpfs", "ramfs")
# An annotation of each kind that the shim must be given: key, the option that passes it.
_PASSED: Final = (
    ("architect.loopholelabs.io/managed-containers", "pod_annotations", "architect.loopholelabs.io/*"),
    ("io.kubernetes.container.ports", "container_annotations", "io.kubernetes.container.*"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One check."""

    check: str
    passed: bool
    detail: str
    cure: str = ""


class Ran(NamedTuple):
    """A program that ended: exit status and what it wrote to both outputs."""

    status: int
    output: str


Run = Callable[[Sequence[str]], Ran]


def run(argv: Sequence[str]) -> Ran:
    """Runs a program; one that cannot run, or takes too long, has status 127 and a sentence for output."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PROGRAM_SECONDS,
            check=False,
            env={**os.environ, "PATH": _PATH},
        )
    except OSError as error:
        return Ran(127, f"{argv[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Ran(127, f"{argv[0]} did not end in {_PROGRAM_SECONDS:g} s")
    return Ran(done.returncode, done.stdout.decode(errors="replace"))


def examine_node() -> list[Finding]:
    """All checks of this node; from a pod of it, too."""
    if not host.elsewhere():
        return examine()
    try:
        found = host.there(lambda: [asdict(finding) for finding in examine()])
    except OSError as error:
        cure = "run it on the node, or in a privileged pod with hostPID"
        return [Finding("node", False, f"it cannot be seen from here: {error}", cure)]
    return [Finding(**finding) for finding in found]


def examine() -> list[Finding]:
    """All checks of this node, as seen from here."""
    criu = next((path for path in CRIU_PATHS if os.access(path, os.X_OK)), "")
    return [
        check_root(os.geteuid()),
        check_packets(probe),
        check_criu(criu, os.uname().release, run),
        check_kernel(criu, run),
        check_runc(run),
        check_containerd(run),
        check_cgroups("/sys/fs/cgroup"),
        check_disk(IMAGES, _read("/proc/self/mountinfo")),
    ]


def check_root(euid: int) -> Finding:
    """The other checks need root, as the daemon and the shims do."""
    detail = "running as root" if euid == 0 else f"running as user {euid}"
    return Finding("root", euid == 0, detail, "run it with sudo")


def check_packets(look: Callable[[], Means]) -> Finding:
    """A way to hold packets."""
    check = "holding packets"
    try:
        means = look()
    except GateError as error:
        return Finding(
            check, False, str(error), "load nf_tables and nfnetlink_queue, or use a kernel that has them"
        )
    way = "nftables' queue expression" if means.native_queue else "the xtables NFQUEUE target"
    last = (
        "packets carry their time"
        if means.last
        else "packets carry no time, so sleep comes up to twice as late"
    )
    return Finding(check, True, f"through {way}; {last}")


def check_criu(path: str, kernel: str, run: Run) -> Finding:
    """A CRIU that can dump sockets on this kernel."""
    # From Linux 6.16 on SO_PASSCRED is refused on inet sockets, which CRIU before 4.2 reads when it dumps
    # them.
    needed = (4, 2) if _version(kernel) >= (6, 16) else (4, 0)
    wanted = f"{needed[0]}.{needed[1]}"
    cure = f"install CRIU {wanted} or newer as {CRIU_PATHS[-2]}; the product brings one"
    if not path:
        return Finding("CRIU", False, f"none in {', '.join(CRIU_PATHS)}", cure)
    ran = run([path, "--version"])
    found = re.search(r"Version:\s*(\d+(?:\.\d+)*)", ran.output)
    if ran.status or not found:
        return Finding("CRIU", False, f"{path} does not tell its version: {_last_line(ran.output)}", cure)
    passed = _version(found[1]) >= needed
    than = "" if passed else f", and kernel {kernel} needs {wanted}"
    return Finding("CRIU", passed, f"{path} is {found[1]}{than}", cure)


def check_kernel(criu: str, run: Run) -> Finding:
    """The kernel can be checkpointed on at all (CONFIG_CHECKPOINT_RESTORE), by CRIU's own check."""
    check = "kernel for CRIU"
    if not criu:
        return Finding(check, False, "cannot be tried without CRIU", "install CRIU first")
    ran = run([criu, "check"])
    if ran.status:
        return Finding(
            check,
            False,
            _last_line(ran.output),
            "run `criu check -v4`; most often the kernel lacks CONFIG_CHECKPOINT_RESTORE",
        )
    return Finding(check, True, "criu check is content")


def check_runc(run: Run) -> Finding:
    """A runc."""
    ran = run(["runc", "--version"])
    return Finding(
        "runc",
        not ran.status,
        ran.output.splitlines()[0] if ran.output else "silent",
        "install runc 1.1 or newer",
    )


def check_containerd(run: Run) -> Finding:
    """Containerd knows our runtime and passes on what the shim has to know."""
    check = "containerd"
    ran = run(["containerd", "config", "dump"])
    try:
        config = tomllib.loads(ran.output) if not ran.status else None
    except tomllib.TOMLDecodeError as error:
        return Finding(check, False, f"its configuration is no TOML: {error}", "see `containerd config dump`")
    if config is None:
        return Finding(
            check, False, f"its configuration cannot be read: {_last_line(ran.output)}", "install containerd"
        )
    runtimes = _runtimes(config)
    handler = runtimes.get(HANDLER)
    if not isinstance(handler, dict):
        return Finding(
            check,
            False,
            f"no runtime {HANDLER}",
            f"add a runtime {HANDLER} of type {RUNTIME_TYPE} and restart containerd",
        )
    return _check_handler(check, handler)


def _check_handler(check: str, handler: Mapping[str, Any]) -> Finding:
    path = str(handler.get("runtime_path") or "")
    if handler.get("runtime_type") != RUNTIME_TYPE and os.path.basename(path) != SHIM:
        kind = handler.get("runtime_type")
        return Finding(
            check, False, f"runtime {HANDLER} is of type {kind}", f"set its runtime_type to {RUNTIME_TYPE}"
        )
    program = shutil.which(path or SHIM)
    if program is None:
        return Finding(check, False, f"{path or SHIM} cannot be run", f"install {SHIM} in containerd's PATH")
    for annotation, option, pattern in _PASSED:
        patterns = handler.get(option) or []
        if not any(fnmatchcase(annotation, str(found)) for found in patterns):
            return Finding(
                check,
                False,
                f"runtime {HANDLER} does not pass on {annotation}",
                f'add "{pattern}" to its {option}',
            )
    return Finding(check, True, f"runtime {HANDLER} is {program}, annotations are passed on")


def _runtimes(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The runtimes of containerd 2's or 1's CRI plugin, {} when there are none."""
    for plugin in ("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"):
        found: Any = config
        for key in ("plugins", plugin, "containerd", "runtimes"):
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, dict):
            return found
    return {}


def check_cgroups(root: str) -> Finding:
    """A cgroup hierarchy that can freeze."""
    if os.path.exists(f"{root}/cgroup.controllers"):
        return Finding("cgroups", True, "version 2")
    if os.path.isdir(f"{root}/freezer"):
        return Finding("cgroups", True, "version 1, with the freezer")
    return Finding(
        "cgroups", False, f"no freezer below {root}", "mount cgroup2 there, or cgroup v1 with the freezer"
    )


def check_disk(path: str, mountinfo: str) -> Finding:
    """Images go to a disk: in memory they would save nothing."""
    real = os.path.realpath(path)
    point, kind = "", "an unknown file system"
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields = left.split(" ")
        if not separator or len(fields) < 5:
            continue
        mounted = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        inside = real == mounted or real.startswith(mounted.rstrip("/") + "/")
        if inside and len(mounted) >= len(point):  # of mounts on the same point, the last is on top
            point, kind = mounted, right.split(" ")[0]
    passed = kind not in _MEMORY_FILE_SYSTEMS
    return Finding(
        "disk", passed, f"{path} is on {kind} (mounted at {point or '?'})", f"mount a disk at {path}"
    )


def _version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version, at least two: "6.18.0-rc1" is (6, 18, 0)."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    numbers = tuple(int(part) for part in found[0].split(".")) if found else ()
    return numbers if len(numbers) > 1 else (*numbers, 0)


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
