"""What a node pays for pods that do nothing: memory of the shims, memory and CPU time of the daemon.

The pods of Architect stay until the node ends: that removes them faster than containerd could.
"""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from hack.bench_figures import Figures
from hack.bench_pods import ARCHITECT, RUNC, Sleeper, followed, make_pod, start
from hack.control import Daemon, await_true
from hack.cri import Container, Cri

_PODS: Final = 50
_CONTAINERS: Final = 200
_AT_A_TIME: Final = 2
_MINUTE: Final = 60.0
_WATCHED_SECONDS: Final = 30.0
_MIB: Final = 1 << 20
_OURS: Final = re.compile(r"architect-(shim|zygote)|criu")
_RUNCS: Final = re.compile(r"containerd-shim")


def costs(cri: Cri, figures: Figures) -> None:
    """Everything that is measured by what it takes."""
    with _many(cri, RUNC, _PODS) as theirs:
        figures.add("runc_shim_pss", "MiB/pod", _pss(_RUNCS) / _MIB / _PODS)
        for container in theirs:
            container.pod.remove()
