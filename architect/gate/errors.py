"""The one error of this package: which kernel call failed, on what, and what to do about it."""

from __future__ import annotations

import errno
import os
from typing import Final

_CURES: Final = {
    errno.EPERM: "run it as root on the node, with CAP_NET_ADMIN",
    errno.ENOBUFS: "the kernel's buffers are full; try again",
    errno.ENOMEM: "the node is out of memory; try again",
    errno.ETIMEDOUT: "the kernel did not answer; look for a stuck netlink user in its log",
    errno.EBADMSG: "the kernel's answer was not understood; report it, with the kernel's version",
}


class GateError(Exception):
    """`operation` (on what, too) failed with `errno`; the message says both, what the kernel said, and the
    cure.
    """

    def __init__(self, operation: str, code: int, detail: str = "", *, cure: str = "") -> None:
        said = f"{os.strerror(code)} ({detail})" if detail else os.strerror(code)
        cure = cure or _CURES.get(code, "")
        super().__init__(f"{operation}: {said}" + (f"; {cure}" if cure else ""))
        self.operation = operation
        self.errno = code
