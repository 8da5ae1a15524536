"""What a zygote shares with its forks stays shared: looking at an object writes nothing into it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import shim

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import shim.serve
from shim.frozen import freeze
kept = freeze()

looked_at = [shim.serve.serve, shim.serve.serve.__code__, shim.serve.Pod, vars(shim.serve), "architect.ttrpc"]
before = list(map(sys.getrefcount, looked_at))
again = looked_at * 1000
print(sum(sys.getrefcount(each) != count for each, count in zip(looked_at, before)))
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="CPython 3.13 can not make an object immortal")
def test_references_to_what_a_fork_shares_are_not_counted() -> None:
    root = shim.__path__[0].removesuffix("/shim")
    argv = [sys.executable, "-S", "-I", "-c", PROGRAM, root]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) == 0
