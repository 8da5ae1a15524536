"""The zygote: a process with everything a shim needs imported, that forks a shim for each new pod.

A fork costs a millisecond and shares nearly all its memory; a fresh interpreter costs 60 ms and 20 MB. The
zygote serves no container: it can die at any time, and the next `start` makes another.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Final

# asyncio imports ssl if it can; nothing here speaks TLS, and it is a third of the memory.
sys.modules["ssl"] = None  # type: ignore[assignment]

from architect.gate import GateError, nftables  # noqa: E402
from shim.address import Usage  # noqa: E402
from shim.frozen import freeze  # noqa: E402
from shim.post import Post, bind, read  # noqa: E402
from shim.serve import serve  # noqa: E402

_REQUEST_MAX: Final = 1 << 16
_REQUEST_SECONDS: Final = 20.0
_ANSWER_MAX: Final = 4096
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36


def run(listener_fd: int) -> None:
    """Accepts posts on an inherited listening socket and forks a shim for each; for ever."""
    listener = socket.socket(fileno=listener_fd)
    listener.set_inheritable(False)
    os.chdir("/")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # shims that end are no concern of ours
    name_process(b"architect-zygote")
    try:
        nftables.probe()  # 20 ms that each shim would spend again
    except GateError:
        pass  # a shim that has to hold packets says so, and why
    _scattered = freeze()
    while True:
        channel, _ = listener.accept()
        with channel:
            if os.fork() == 0:
                listener.close()
                _answer(channel)


def _answer(channel: socket.socket) -> None:
    """Answers one `start` in this freshly forked process, and serves its pod; does not return."""
    code = 1
    try:
        channel.settimeout(_REQUEST_SECONDS)
        try:
            post = read(channel.recv(_REQUEST_MAX))
            listener = bind(post.socket_path)
        except (Usage, OSError) as error:
            channel.send(f"refused {error}".encode()[:_ANSWER_MAX])
            return
        channel.send(f"serving {post.socket_path}".encode())
        channel.close()
        if listener is not None:
            become_shim(post, listener)
        code = 0
    finally:
        os._exit(code)


def become_shim(post: Post, listener: socket.socket) -> None:
    """Serves a post as long as its pod lives."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    name_process(b"architect-shim")
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    serve(post, listener)


def name_process(name: bytes) -> None:
    """Names this process for `ps` (15 bytes at most, prctl(2))."""
    import ctypes

    _prctl(_PR_SET_NAME, ctypes.c_char_p(name[:15]))


def _prctl(option: int, argument: object) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)
