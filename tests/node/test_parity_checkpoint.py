"""containerd's own checkpoints are taken and restored as by its own shim, also of a container that sleeps."""

from __future__ import annotations

import signal

import pytest

from architect.ttrpc import containerd
from architect.ttrpc.runtime_info import CheckpointOptions
from tests.node.comparison import PATIENT, Cases, ready
from tests.node.parity import Shim

pytestmark = [pytest.mark.containerd, pytest.mark.root]

CASES = Cases()
case = CASES.case
COUNTER = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])
print("ready", flush=True)
count = 0
while signal.sigwait([signal.SIGUSR1, signal.SIGTERM]) == signal.SIGUSR1:
    count += 1
    print("count", count, flush=True)
sys.exit(9)
"""


async def checkpoint(shim: Shim, name: str, wanted: CheckpointOptions | None = None) -> str:
    path = str(shim.home / name)
    options = containerd.pack(wanted) if wanted else None
    await shim.call("Checkpoint", id=shim.full("c1"), path=path, options=options)
    return path


async def count(shim: Shim, key: str, number: int) -> None:
    await shim.call("Kill", id=shim.full("c1"), signal=signal.SIGUSR1)
    await shim.streams[key].out.until(b"count %d" % number)


@case("ours", "asleep")
async def taken_and_restored(shim: Shim) -> None:
    await ready(shim, "/usr/bin/python3", "-c", COUNTER)
    await shim.doze("c1")
    await checkpoint(shim, "first")
    await shim.call("State", id=shim.full("c1"))
    await count(shim, "c1", 1)
    await shim.doze("c1")
    path = await checkpoint(shim, "second", CheckpointOptions(exit=True, file_locks=True))
    await shim.call("Wait", id=shim.full("c1"))
    await shim.call("State", id=shim.full("c1"))
    await shim.call("Delete", id=shim.full("c1"))
    bundle = shim.home / "bundles" / shim.full("c1")
    await shim.create_in(bundle, "c1", checkpoint=path)
    await shim.call("State", id=shim.full("c1"))
    await shim.call("Start", id=shim.full("c1"))
    await shim.call("State", id=shim.full("c1"))
    await count(shim, "c1-1", 2)
    await shim.doze("c1")
    await count(shim, "c1-1", 3)
    await shim.end("c1", signal.SIGTERM)


@case()
async def before_the_start(shim: Shim) -> None:
    await shim.create("c1", *PATIENT)
    await checkpoint(shim, "early")


@case()
async def from_nothing(shim: Shim) -> None:
    bundle = shim.bundle("c1", *PATIENT)
    await shim.launch(bundle)
    shim.ids.append("c1")
    await shim.create_in(bundle, "c1", checkpoint=str(shim.home / "nothing"))
    await shim.call("Start", id=shim.full("c1"))
    await shim.call("State", id=shim.full("c1"))
    await shim.call("Delete", id=shim.full("c1"))


@pytest.mark.parametrize(("name", "kind"), CASES.runs())
async def test_checkpoints_are_as_with_containerds_own_shim(name: str, kind: str) -> None:
    await CASES.compare(name, kind)
