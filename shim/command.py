"""The shim's command line (containerd's runtime v2 shim protocol): parsed by hand, importing next to nothing.

containerd runs `start` in the bundle's directory, before every container, and waits for it: it must be quick.
It asks the zygote (`zygote.py`), starting one if need be, and answers with the address of the process that
serves the container's pod. An interpreter takes 7 ms to come up; `json` and `socket` would take 12 more.
"""

import os
import sys
from _socket import AF_UNIX, SOCK_SEQPACKET, socket

from shim.address import DELETED, RUN_DIR, SHIM_DIR, VERSION, Usage, plain, remove_sockets

_PROTOCOL_MAX = 3
_ZYGOTE_SECONDS = 20.0
_ANSWER_MAX = 4096
_BACKLOG = 128
_FLAGS = ("namespace", "address", "publish-binary", "id", "bundle", "socket")
_SWITCHES = ("debug", "info", "v", "version")


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

            question = b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
            sys.stdout.buffer.write(info(os.path.basename(program), question))
            return 0
        if action == "start":
            sys.stdout.write(start(program, flags))
            return 0
        if action == "delete":
            sys.stdout.buffer.write(delete(flags))
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
    namespace, container_id = plain(flags.get("namespace", "")), plain(flags.get("id", ""))
    events = os.environ.get("TTRPC_ADDRESS", "/run/containerd/containerd.sock.ttrpc")
    request = "\0".join((namespace, container_id, os.getcwd(), events, flags.get("debug", "")))
    address = f"unix://{_ask_zygote(program, request.encode())}"
    with open("address", "w", encoding="utf-8") as file:
        file.write(address)  # where containerd 1.7 looks after its restart
    newest = os.environ.get("MAX_SHIM_VERSION", "")
    if not newest:
        return address
    version = min(_PROTOCOL_MAX, int(newest))
    return f'{{"version": {version}, "address": "{address}", "protocol": "ttrpc"}}'


def delete(flags: dict[str, str]) -> bytes:
    """Removes what is left of a container; an encoded DeleteResponse.

    containerd asks for every container, also when its shim has removed it in peace, and waits. The shim has
    left the answer then.
    """
    namespace, container_id, bundle = (flags.get(name, "") for name in ("namespace", "id", "bundle"))
    try:
        with open(os.path.join(bundle, DELETED), "rb") as file:
            answer = file.read()
    except FileNotFoundError:
        answer = b""
    if not answer:
        from shim import offline  # ten times as long is spent on its imports

        return offline.delete(namespace, container_id, bundle)
    remove_sockets(plain(namespace), plain(container_id))
    return answer


def _ask_zygote(program: str, request: bytes) -> str:
    """The path of the socket on which a shim serves what `request` asks for; starts a zygote if need be."""
    os.makedirs(SHIM_DIR, mode=0o700, exist_ok=True)
    for _ in range(2):
        channel = socket(AF_UNIX, SOCK_SEQPACKET)
        try:
            channel.settimeout(_ZYGOTE_SECONDS)
            _connect_zygote(program, channel)
            channel.send(request)
            verdict, _, text = channel.recv(_ANSWER_MAX).decode().partition(" ")
        except ConnectionError:
            continue  # it ended between its accept and its answer; the next round starts another
        finally:
            channel.close()
        if verdict == "serving":
            return text
        if verdict == "refused":
            raise Usage(text)
    raise Usage("the zygote ended twice instead of forking a shim; see containerd's log")


def _connect_zygote(program: str, channel: socket) -> None:
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
        listener = socket(AF_UNIX, SOCK_SEQPACKET)
        try:
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(_BACKLOG)
            _spawn_zygote(program, listener.fileno())
        finally:
            listener.close()
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
