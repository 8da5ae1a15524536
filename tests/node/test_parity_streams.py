"""Output that goes to files and log binaries arrives as with containerd's own shim, over sleep and wake."""

from __future__ import annotations

import signal

import pytest

from tests.node.comparison import PATIENT, Cases
from tests.node.parity import Shim

pytestmark = [pytest.mark.containerd, pytest.mark.root]

CASES = Cases()
case = CASES.case
TALK = "trap 'echo late; exit 3' TERM; echo error >&2; echo ready; while :; do sleep 1; done"


async def talk(shim: Shim, io: str) -> None:
    streams = await shim.run("c1", "/bin/sh", "-c", TALK, io=io)
    await streams.out.until(b"ready")
    await shim.doze("c1")
    await shim.call("State", id=shim.full("c1"))
    # Nothing on standard error: the last that a short process writes there, containerd's shim may lose.
    await shim.exec("c1", "e1", "/bin/sh", "-c", "echo of an exec", io=io)
    await shim.call("Wait", id=shim.full("c1"), exec_id="e1")
    await shim.call("Delete", id=shim.full("c1"), exec_id="e1")
    await shim.doze("c1")
    await shim.end("c1", signal.SIGTERM)


@case("ours", "asleep")
async def into_a_file(shim: Shim) -> None:
    await talk(shim, "file")


@case("ours", "asleep")
async def into_a_log_binary(shim: Shim) -> None:
    await talk(shim, "binary")


@case()
async def a_terminal_into_a_log_binary(shim: Shim) -> None:
    await shim.run("c1", "/bin/sh", "-c", "tty; echo said", io="binary", terminal=True)
    await shim.call("Wait", id=shim.full("c1"))
    await shim.call("Delete", id=shim.full("c1"))


@case()
async def a_log_binary_that_is_not_there(shim: Shim) -> None:
    bundle = shim.bundle("c1", *PATIENT)
    await shim.launch(bundle)
    shim.ids.append("c1")
    for uri in ("binary:///no/such/program", "binary://", "nothing://x", "/no/such/file"):
        await shim.call(
            "Create", id=shim.full("c1"), bundle=str(bundle), rootfs=shim.rootfs(), stdout=uri, stderr=uri
        )


@pytest.mark.parametrize(("name", "kind"), CASES.runs())
async def test_output_goes_where_containerds_own_shim_lets_it_go(name: str, kind: str) -> None:
    await CASES.compare(name, kind)
