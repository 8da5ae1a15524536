#!/usr/bin/python3 -B
"""As much of tar as `kubectl cp` wants in a container: `tar cf - PATH` and `tar -xmf - -C DIRECTORY`."""

import os
import sys
import tarfile

if "x" in sys.argv[1]:
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        archive.extractall(sys.argv[sys.argv.index("-C") + 1], filter="data")
else:
    os.chdir("/")
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        archive.add(sys.argv[-1].lstrip("/"))
