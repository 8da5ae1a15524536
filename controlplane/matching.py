"""Which pods replace which: of the pods of one owner, and the records of those of them that move. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable

from controlplane.leaving import Crowd
from controlplane.pods import PodView
from controlplane.records import ORDER, Record


def crowd(pod: PodView, others: Iterable[PodView], records: Iterable[Record]) -> Crowd:
    """What counts against the owner's wish to have `pod` replaced. `others` and `records`: of its owner."""
    records = [record for record in records if record.owner == pod.owner and record.pod_uid != pod.uid]
    bound = {record.target.uid for record in records if record.target is not None}
    standing = [
        other
        for other in others
        if other.active
        and other.uid != pod.uid
        and (other.uid in bound or not _may_replace(other, pod.left_at))
    ]
    promised = [record for record in records if not record.ended and record.target is None]
    return Crowd(len(standing), len(promised))


def _may_replace(pod: PodView, left: float) -> bool:
    """Whether it has come since then, and has not begun."""
    return bool(left) and pod.created >= math.floor(left) and not pod.began


def bound(pod: PodView, records: Iterable[Record]) -> Record | None:
    """The record whose replacement the pod is."""
    return next((each for each in records if each.target is not None and each.target.uid == pod.uid), None)


def predecessor(pod: PodView, container: str, records: Iterable[Record]) -> Record | None:
    """The record that a pod which begins now may claim: of those nobody has, the one that is ready first."""
    if pod.key is None or not pod.active or container in pod.started:
        return None
    free = [
        record
        for record in records
        if record.key == pod.key
        and record.target is None
        and not record.ended
        and not record.deleting
        and record.pod_uid != pod.uid
        and _may_replace(pod, record.since)
        and (part := record.part(container)) is not None
        and not part.over
    ]
    return min(free, key=_turn, default=None)


def _turn(record: Record) -> tuple[int, float, str]:
    """Those whose image is there come first: of others it is not sure that there will be one."""
    ahead = max((ORDER.index(part.state) for part in record.parts if not part.over), default=0)
    return -ahead, record.since, record.name
