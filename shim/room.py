"""An exec into a sleeper waits until the node has memory for the wake; it fails after waiting for long.

The daemon sees to that for packets and people. Signals and other requests are let through: what containerd
wants done must not depend on how full the node is.
"""

from __future__ import annotations

from architect.room import NoRoom, Room
from architect.states import Phase
from architect.ttrpc.server import Code, RpcError
from shim.sleeper import Sleeper


async def wait_for_room(sleeper: Sleeper) -> None:
    """Returns when there is room, or nothing to wake any more. Raises RpcError RESOURCE_EXHAUSTED."""
    if sleeper.phase is not Phase.SCALED_DOWN:
        return
    try:
        await Room().wait(sleeper.record.saved_bytes)
    except NoRoom as error:
        if sleeper.phase is Phase.SCALED_DOWN:
            sleeper.notes.refused(error)
            sentence = f"container {sleeper.record.container_id} is not woken: {error}"
            raise RpcError(Code.RESOURCE_EXHAUSTED, sentence) from error
