"""What the zygote does before it forks, so that shims go on sharing its memory with it.

A fork shares every page until somebody writes to it, and CPython writes where it only reads: a reference
count for each look at an object, a cache within a function's bytecode for each of its first runs. Objects
lie scattered, so that copies most of the heap into each shim. Measured with CPython 3.14, private memory of
a shim that serves a running pod: 5.9 MiB; with immortal objects 3.7; with the bytecode side by side 3.2.

The trap: an immortal object is never freed, so nothing may be made immortal that a shim would want to lose.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from types import CodeType, FunctionType
from typing import Final

__all__ = ["freeze"]

# Where most of what a shim runs is; the rest of the standard library runs rarely.
_RUN: Final = ("architect", "asyncio", "json", "logging", "selectors", "shim", "threading")


def freeze() -> list[CodeType]:
    """Makes all that exists immortal and unknown to the garbage collector.

    Returns what its caller has to keep: memory that would be used again, in the middle of what is shared.
    Does the half of it on an interpreter that can not make objects immortal (3.13).
    """
    gc.collect()
    scattered = _gather_bytecode()
    set_immortal = getattr(ctypes.pythonapi, "_Py_SetImmortal", None)
    is_immortal = getattr(sys, "_is_immortal", None)
    if set_immortal is not None and is_immortal is not None:
        set_immortal.argtypes, set_immortal.restype = [ctypes.py_object], None
        pending = gc.get_objects()
        while pending:  # down to what the garbage collector does not know: strings, code
            mortal = [each for each in pending if not is_immortal(each)]
            # Twice: the first call's own reference is taken back from a count that was just set.
            for each in (*mortal, *mortal):
                set_immortal(each)
            pending = gc.get_referents(*mortal)
    gc.freeze()
    return scattered


def _gather_bytecode() -> list[CodeType]:
    """Gives the functions that run copies of their code, which lie side by side; returns the old ones."""
    scattered = []
    for each in gc.get_objects():
        if isinstance(each, FunctionType) and (each.__module__ or "").partition(".")[0] in _RUN:
            scattered.append(each.__code__)
            each.__code__ = _copied(each.__code__)
    return scattered


def _copied(code: CodeType) -> CodeType:
    consts = (_copied(each) if isinstance(each, CodeType) else each for each in code.co_consts)
    return code.replace(co_consts=tuple(consts))
