"""`runc restore` of one of our images, beside the sleeper it is of: what a wake would cost with runc.

Our names for what lies outside the container are runc's, so its image needs one file more: what the standard
streams were. The restored container has its own cgroup, takes the sleeper's root file system and the pod's
network namespace, whose ports are free while the sleeper sleeps, and is killed at once.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from typing import Final

from hack.bench_pods import Sleeper

_AT: Final = "/var/lib/architect/bench"
_CRIU: Final = "/opt/architect/criu"
"""The shims' own CRIU; runc takes the first in its PATH."""
_ROOT: Final = "/run/bench-runc"
_BUNDLES: Final = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
_SECONDS: Final = 30
_STAMP: Final = re.compile(r"\((\d+\.\d+)\)")


class BareRestore:
    """Restores a copy of the image that `sleeper`, asleep, has now; `rounds` may then be asked whenever it
    sleeps.
    """

    def __init__(self, sleeper: Sleeper) -> None:
        source = sleeper.image()
        self._image, self._bundle, self._work = (f"{_AT}/{part}" for part in ("image", "bundle", "work"))
        self._name = f"bare-{sleeper.container.id[:12]}"
        shutil.rmtree(_AT, ignore_errors=True)
        os.makedirs(self._bundle)
        shutil.copytree(f"{source}/criu", self._image)
        with open(f"{source}/manifest.json") as file:
            streams = json.load(file)["manifest"]["extra"]["streams"]
        with open(f"{self._image}/descriptors.json", "w") as file:
            json.dump([streams.get(str(number), "/dev/null") for number in range(3)], file)
        theirs = f"{_BUNDLES}/{sleeper.container.id}"
        with open(f"{theirs}/config.json") as file:
            spec = json.load(file)
        spec["root"]["path"] = f"{theirs}/rootfs"
        spec["linux"]["cgroupsPath"] += "-bare"
        with open(f"{self._bundle}/config.json", "w") as file:
            json.dump(spec, file)

    def once(self) -> tuple[float, float]:
        """Milliseconds of `runc restore`, and of CRIU's part of it (its log). Raises CalledProcessError."""
        reader, writer = os.pipe()  # the restored streams want pipes
        try:
            began = time.perf_counter()
            self._runc(
                "restore",
                *("--bundle", self._bundle, "--image-path", self._image, "--work-path", self._work),
                *("--detach", "--no-subreaper", "--tcp-established", "--ext-unix-sk", "--file-locks"),
                *("--manage-cgroups-mode", "ignore"),
                self._name,
                output=writer,
            )
            took = (time.perf_counter() - began) * 1e3
        finally:
            os.close(reader)
            os.close(writer)
        with open(f"{self._work}/restore.log") as log:
            stamps = _STAMP.findall(log.read())
        self._runc("delete", "--force", self._name)
        return took, float(stamps[-1]) * 1e3

    def _runc(self, *arguments: str, output: int = subprocess.DEVNULL) -> None:
        argv = ["runc", "--root", _ROOT, "--log", f"{_AT}/runc.log", *arguments]
        subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=_SECONDS,
            check=True,
            env={**os.environ, "PATH": f"{_CRIU}:{os.environ['PATH']}"},
        )
