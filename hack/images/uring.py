"""A web service (port 8080, `/` counts) that CRIU cannot dump: it holds an io_uring.

Where the kernel refuses io_uring it holds an AF_ALG socket instead, which CRIU knows nothing of either.
"""

import ctypes
import itertools
import os
import socket

from service import serve

_IO_URING_SETUP = 425  # the same number on every architecture
_PARAMS_BYTES = 120  # sizeof(struct io_uring_params)


def undumpable() -> object:
    """Something to hold; what it is goes to the log."""
    libc = ctypes.CDLL(None, use_errno=True)
    params = ctypes.create_string_buffer(_PARAMS_BYTES)
    ring = libc.syscall(_IO_URING_SETUP, 8, params)
    if ring >= 0:
        print("holding an io_uring", flush=True)
        return ring
    print(f"no io_uring ({os.strerror(ctypes.get_errno())}), holding an AF_ALG socket", flush=True)
    algorithm = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
    algorithm.bind(("hash", "sha256"))
    return algorithm


if __name__ == "__main__":
    held = undumpable()
    counter = itertools.count(1)
    serve({"/": lambda *_: f"{next(counter)}\n"})
