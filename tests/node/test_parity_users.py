"""A container with a user namespace runs as with containerd's own shim, and is not put to sleep: said so."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from architect.ttrpc import shim_v1
from architect.ttrpc.client import Code, RpcError
from tests.node.comparison import Cases
from tests.node.parity import Shim

pytestmark = [pytest.mark.containerd, pytest.mark.root]

CASES = Cases()
case = CASES.case
MAPPING = [{"containerID": 0, "hostID": 100000, "size": 65536}]
WHO = ("/bin/sh", "-c", "cat /proc/self/uid_map; id -u; echo ready; exec sleep 1000")


def linux(shim: Shim) -> dict[str, Any]:
    kinds = ("pid", "ipc", "uts", "mount", "network", "user")
    return {
        "namespaces": [{"type": kind} for kind in kinds],
        "uidMappings": MAPPING,
        "gidMappings": MAPPING,
        "cgroupsPath": f"/parity/{shim.full('c1')}",
    }


@case()
async def users_of_its_own(shim: Shim) -> None:
    await shim.run("c1", *WHO, linux=linux(shim))
    await shim.streams["c1"].out.until(b"ready")
    await shim.exec("c1", "e1", "/bin/sh", "-c", "id -u; echo out")
    await shim.call("Wait", id=shim.full("c1"), exec_id="e1")
    await shim.call("Delete", id=shim.full("c1"), exec_id="e1")
    await shim.call("State", id=shim.full("c1"))
    await shim.end("c1", signal.SIGKILL)


@pytest.mark.parametrize(("name", "kind"), CASES.runs())
async def test_it_runs_as_with_containerds_own_shim(name: str, kind: str) -> None:
    await CASES.compare(name, kind)


async def test_it_is_not_put_to_sleep_and_that_is_said_before() -> None:
    async with Shim("asleep", "users-asleep") as shim:
        await shim.run("c1", *WHO, linux=linux(shim))
        told = await shim.ask("Describe", shim_v1.DescribeRequest(), shim_v1.DescribeResponse)
        assert "user namespace" in told.containers[0].refusal
        with pytest.raises(RpcError, match="user namespace") as refused:
            await shim.doze("c1")
        assert refused.value.code is Code.FAILED_PRECONDITION
        await shim.finish()
