"""The shim's command line (containerd's runtime v2 shim protocol): parsed by hand, importing next to nothing.

containerd runs `start` in the bundle's directory, before every container, and waits for it: it must be quick.
It answers with the address of the process that serves the container's pod; if there is none yet, it binds the
socket, gives it to the zygote to serve (`zygote.py`) and ends.
"""

import json
import os
import socket
import sys

from shim.address import RUN_DIR, SHIM_DIR, VERSION, socket_path

_BACKLOG = 128
_PROTOCOL_MAX = 3
_ZYGOTE_SECONDS = 20.0
_SANDBOX_ID = "io.kubernetes.cri.sandbox-id"
_FLAGS = ("namespace", "address", "publish-binary", "id", "bundle", "socket")
_SWITCHES = ("debug", "info", "v", "version")


class Usage(Exception):
    """The command line or the bundle is not what containerd's protocol promises."""


def parse(argv: list[str]) -> tuple[dict[str, str], str]:
    """Go-style flags (`-x v`, `-x=v`, `--x`) and the action after them. Raises Usage."""
    flags: dict[str, str] = {}
    rest = list(argv)
    while rest and rest[0].startswith("-"):
        name, given, value = rest.pop(0).lstrip("-").partition("=")
        if name in _SWITCHES:
            flags[name] = value or "true"
        elif name in _FLAGS and (given or rest):
            flags[name] = value if given else rest.pop(0)
        else:
            raise Usage(f"flag -{name} is not known or lacks its value")
    if len(rest) > 1:
        raise Usage(f"more than one action: {rest}")
    return flags, rest[0] if rest else ""


def main(program: str, argv: list[str]) -> int:
    """Runs one command; the exit code. Errors go to standard error, which containerd shows."""
    try:
        flags, action = parse(argv)
        if "v" in flags or "version" in flags:
            print(f"{os.path.basename(program)}:\n  Version:  {VERSION}")
            return 0
        if "info" in flags:
            from shim.offline import info

            sys.stdout.buffer.write(info(os.path.basename(program)))
            return 0
        if action == "start":
            sys.stdout.write(start(program, flags))
            return 0
        if action == "delete":
            from shim.offline import delete

            sys.stdout.buffer.write(
                delete(flags.get("namespace", ""), flags.get("id", ""), flags.get("bundle", ""))
            )
            return 0
        if action == "zygote":
            from shim.zygote import run

            run(int(flags["socket"]))
            return 0
        raise Usage(f"action {action!r} is none of start, delete")
    except (Usage, OSError, ValueError) as error:
        print(f"{os.path.basename(program)}: {error}", file=sys.stderr)
        return 1


def start(program: str, flags: dict[str, str]) -> str:
    """Makes sure that somebody serves the pod of the bundle in the working directory; its bootstrap answer.

    The answer is JSON from containerd 1.7 on (MAX_SHIM_VERSION is set), a bare address before.
    """
    namespace, container_id = _plain(flags.get("namespace", "")), _plain(flags.get("id", ""))
    bundle = os.getcwd()
    with open("config.json", encoding="utf-8") as file:
        annotations = json.load(file).get("annotations") or {}
    group = _plain(str(annotations.get(_SANDBOX_ID) or container_id))
    path = socket_path(namespace, group)
    if not _answers(path):
        _found(program, path, namespace, group, bundle, "debug" in flags)
    address = f"unix://{path}"
    with open("address", "w", encoding="utf-8") as file:
        file.write(address)  # where containerd 1.7 looks after its restart
    newest = os.environ.get("MAX_SHIM_VERSION", "")
    if not newest:
        return address
    version = min(_PROTOCOL_MAX, int(newest))
    return json.dumps({"version": version, "address": address, "protocol": "ttrpc"})


def _plain(value: str) -> str:
    """`value` if it may be part of a path. Raises Usage."""
    if not value or not all(c.isalnum() or c in "_.-" for c in value) or value.startswith("."):
        raise Usage(f"{value[:80]!r} is no id or namespace")
    return value


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def _found(program: str, path: str, namespace: str, group: str, bundle: str, debug: bool) -> None:
    """Has a new process serve the pod, on a socket that is bound here and answers from now on."""
    os.makedirs(SHIM_DIR, mode=0o700, exist_ok=True)
    listener = _bind(path)
    post = {
        "namespace": namespace,
        "group": group,
        "bundle": bundle,
        "socket_path": path,
        "events_address": os.environ.get("TTRPC_ADDRESS", "/run/containerd/containerd.sock.ttrpc"),
        "debug": debug,
    }
    try:
        _ask_zygote(program, json.dumps(post).encode(), listener)
    except (OSError, Usage):
        os.unlink(path)
        raise
    finally:
        listener.close()


def _bind(path: str) -> socket.socket:
    if os.path.lexists(path):
        os.unlink(path)  # nobody answers on it
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(_BACKLOG)
    return listener


def _ask_zygote(program: str, post: bytes, listener: socket.socket) -> None:
    """Sends the post and its socket to the zygote, starting one if need be; returns when it has forked."""
    for last in (False, True):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
            channel.settimeout(_ZYGOTE_SECONDS)
            _connect_zygote(program, channel)
            try:
                socket.send_fds(channel, [post], [listener.fileno()])
                if channel.recv(16) == b"forked":
                    return
            except ConnectionError:
                pass  # it ended between its accept and its answer; the next round starts another
        if last:
            raise Usage("the zygote ended twice instead of forking a shim; see containerd's log")


def _connect_zygote(program: str, channel: socket.socket) -> None:
    """Connects to the zygote of this install and mount namespace; starts it if nobody listens."""
    key = f"{os.stat('/proc/self/ns/mnt').st_ino}-{os.stat(program).st_dev}-{os.stat(program).st_ino}"
    path = f"{RUN_DIR}/zygote-{key}.sock"
    try:
        channel.connect(path)
        return
    except (FileNotFoundError, ConnectionRefusedError):
        pass
    import fcntl  # only the first start on a node comes here

    with open(f"{RUN_DIR}/zygote.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            channel.connect(path)  # another start was quicker
            return
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        if os.path.lexists(path):
            os.unlink(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(_BACKLOG)
            _spawn_zygote(program, listener.fileno())
        channel.connect(path)


def _spawn_zygote(program: str, listener: int) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    os.set_inheritable(listener, True)
    actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in range(3)]
    os.posix_spawn(
        program,
        [program, "-socket", str(listener), "zygote"],
        {"PATH": os.environ.get("PATH", "")},
        file_actions=actions,
        setsid=True,
    )
    os.close(null)
