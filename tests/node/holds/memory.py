"""Rows about memory."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator

from tests.node.holds.rows import Lacking, checked, libc


def locked_memory() -> Iterator[None]:
    """locked memory (mlock), and memory with advice (madvise)"""
    area = mmap.mmap(-1, 1 << 16)
    area.madvise(mmap.MADV_DONTFORK)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    checked(libc.mlock(ctypes.c_void_p(address), 1 << 16))
    area[:4] = b"held"
    yield
    assert area[:4] == b"held"
    with open("/proc/self/smaps", encoding="ascii") as file:
        text = file.read().split(f"{address:x}-", 1)[1].split("VmFlags:", 1)[1].splitlines()[0]
    assert {"lo", "dc"} <= set(text.split()), text


def huge_pages() -> Iterator[None]:
    """huge pages (hugetlb)"""
    try:
        area = mmap.mmap(-1, 2 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)
    except OSError as error:
        raise Lacking(f"huge pages: {error.strerror}") from None
    area[:4] = b"huge"
    yield
    assert area[:4] == b"huge"


def memory_of_all_kinds() -> Iterator[None]:
    """64 MB of memory that does not compress, and 1 GB reserved but untouched"""
    held = os.urandom(64 << 20)
    reserved = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
    total = sum(held[::4099])
    yield
    assert sum(held[::4099]) == total
    assert reserved[12345] == 0
