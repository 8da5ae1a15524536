"""How long each state of a move may last, and what becomes of it then. Pure; all in seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from controlplane import records
from controlplane.records import Part, Record, State

ANNOUNCE: Final = 15.0
"""From the end of the grace period until a pod's end is announced: whoever has not by then is dead."""
DUMP: Final = 60.0
"""From the end of the grace period until the image is whole."""
CLAIM: Final = 1800.0
"""From the announcement until a pod has come to replace it: a cluster may need to make a node first."""
SILENCE: Final = 60.0
"""Of a target that fetches."""
RESTORE: Final = 180.0
"""From the taking until it is confirmed."""
KEEP: Final = 24 * 3600.0
"""From the end until the record goes, and with it the copy."""


def due(record: Record, part: Part, heard: float) -> tuple[float, str]:
    """When the part's state is over by itself, and the reason that is given then. 0.0: never.

    `heard`: when its target was last heard of, or this process began to listen.
    """
    match part.state:
        case State.EXPECTED:
            return record.kill + ANNOUNCE, "its node did not announce it"
        case State.LEAVING:
            return max(record.kill, record.announced) + DUMP, "its node has not finished its image"
        case State.OFFERED if record.target is None:
            return record.announced + CLAIM, "no pod came to replace it"
        case State.OFFERED:
            return max(record.claimed, part.since, heard) + SILENCE, "nothing is heard of its transfer"
        case State.TAKEN:
            return part.since + RESTORE, "who took it has not confirmed that it runs"
        case _:
            return 0.0, ""


def expired(record: Record, heard: Callable[[str], float], now: float) -> Record:
    """The record with the parts ended whose time is over. `heard`: of a container."""

    def which(part: Part) -> str:
        end, reason = due(record, part, heard(part.name))
        return reason if end and end <= now else ""

    return records.given_up(record, which, now)


def next_due(record: Record, heard: Callable[[str], float]) -> float:
    """When to look at the record again."""
    if record.ended:
        return record.ended + KEEP
    ends = [due(record, part, heard(part.name))[0] for part in record.parts]
    return min((end for end in ends if end), default=0.0)
