"""Looking into another network namespace without moving there: enter, open or read, come back.

A socket belongs to the namespace it was opened in, for as long as it lives; so nobody needs to stay. The
trap: an open socket keeps the namespace alive after its pod is gone, so every socket from here has an owner
who closes it. Only the calling thread moves, and nothing may run in between: there is no `await` inside
`entered`.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from architect.gate.errors import GateError

_OWN: Final = "/proc/thread-self/ns/net"
_READ: Final = os.O_RDONLY | os.O_CLOEXEC


@contextmanager
def entered(netns: str | int) -> Generator[None]:
    """The calling thread is in network namespace `netns` (a path, or an open descriptor) within the block.

    Raises GateError: the namespace is gone, is none, or is the one we are in. The last protects the node: a
    pod with `hostNetwork` names the host's, where nothing of ours belongs.
    """
    target = netns if isinstance(netns, int) else _open(netns)
    try:
        own = os.open(_OWN, _READ)
        try:
            if os.path.sameopenfile(target, own):
                raise GateError(
                    f"entering network namespace {netns}", errno.EINVAL, "it is the node's own",
                    cure="pods that share the node's network can not be gated",
                )  # fmt: skip
            try:
                os.setns(target, os.CLONE_NEWNET)
            except OSError as error:
                raise GateError(f"entering network namespace {netns}", error.errno or errno.EIO) from error
            try:
                yield
            finally:
                os.setns(own, os.CLONE_NEWNET)
        finally:
            os.close(own)
    finally:
        if target is not netns:
            os.close(target)


@contextmanager
def scratch() -> Generator[None]:
    """The calling thread is in a new, empty network namespace within the block. Raises GateError."""
    own = os.open(_OWN, _READ)
    try:
        try:
            os.unshare(os.CLONE_NEWNET)
        except OSError as error:
            raise GateError(
                "making a network namespace to try things in", error.errno or errno.EIO
            ) from error
        try:
            yield
        finally:
            os.setns(own, os.CLONE_NEWNET)
    finally:
        os.close(own)


def socket_in(netns: str | int, family: int, kind: int, proto: int = 0) -> socket.socket:
    """A socket that belongs to network namespace `netns`. Raises GateError."""
    with entered(netns):
        try:
            return socket.socket(family, kind | socket.SOCK_CLOEXEC, proto)
        except OSError as error:
            raise GateError(
                f"opening a socket in network namespace {netns}", error.errno or errno.EIO
            ) from error


def read_in(netns: str | int, name: str) -> bytes:
    """The content of `name` below /proc/net as seen in network namespace `netns`. Raises GateError."""
    with entered(netns):
        try:
            # thread-self, because only this thread is there.
            with open(f"/proc/thread-self/net/{name}", "rb", buffering=0) as file:
                return file.readall()
        except OSError as error:
            raise GateError(
                f"reading {name} of network namespace {netns}", error.errno or errno.EIO
            ) from error


def _open(netns: str) -> int:
    try:
        return os.open(netns, _READ)
    except OSError as error:
        raise GateError(
            f"opening network namespace {netns!r}",
            error.errno or errno.EIO,
            cure="its pod has ended, or has none",
        ) from error
