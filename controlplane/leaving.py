"""Who moves: the rule, as tables. A pod moves when it was told to go and its owner replaces it by its like.

Pure. What is asked is always "why does it not?": the first row that knows a reason decides, and without any
it moves. All else ends in the ordinary way: no checkpoint, preStop hooks run.

The trap: a replacement may be there already, and may not be counted against the owner's wish (`Crowd`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from controlplane.pods import TEMPLATE_HASH, PodView

Object = Mapping[str, Any]

_BY_KUBELET: Final = "TerminationByKubelet"  # eviction by a node under pressure, or one that shuts down
_JOB_OVER: Final = ("Complete", "Failed", "SuccessCriteriaMet", "FailureTarget")


@dataclass(frozen=True, slots=True)
class Owners:
    """The objects that decide whether a pod is replaced, freshly read; None: there is none (any more)."""

    namespace: Object | None = None
    controller: Object | None = None
    """The ReplicaSet, StatefulSet or Job."""
    deployment: Object | None = None
    """The controller of the ReplicaSet."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """The other pods of the same owner."""

    standing: int = 0
    """Active ones that were there before this one was told to go, or are somebody else's replacement."""
    promised: int = 0
    """Pods that move already, and whose replacement has not come yet."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """`reason` says why, of either."""

    moves: bool
    reason: str
    unsettled: bool = False
    """It was judged by a status that is about to change: read again."""


@dataclass(frozen=True, slots=True)
class Case:
    """All that a row may look at."""

    pod: PodView
    owners: Owners
    crowd: Crowd
    announced: bool
    """Its node says that containers of it run; else that follows from the pod's status."""
    waiting: bool
    """It still waited itself for the memory of the one before it."""

    @property
    def spec(self) -> Object:
        return (self.owners.controller or {}).get("spec") or {}

    @property
    def status(self) -> Object:
        return (self.owners.controller or {}).get("status") or {}


Row = Callable[[Case], str]
"""Why the pod does not move; "" when this is no reason."""


def judge(
    pod: PodView, owners: Owners, crowd: Crowd, *, announced: bool = False, waiting: bool = False
) -> Judgement:
    """Whether the pod moves. `announced`: its node says that it ends. `waiting`: for the one before it."""
    case = Case(pod, owners, crowd, announced, waiting)
    kind = pod.owner.kind if pod.owner else ""
    for row in (*OF_THE_POD, *OF_ITS_OWNER, *BY_KIND.get(kind, (_unknown_owner,))):
        if reason := row(case):
            return Judgement(moves=False, reason=reason, unsettled=_unsettled(case, row))
    told = pod.disruption or "it was deleted"
    return Judgement(moves=True, reason=f"{told}; its {kind} replaces it", unsettled=False)


def _stays(case: Case) -> str:
    if case.pod.deleting or case.pod.disruption == _BY_KUBELET:
        return ""
    return "the pod stays: one of its containers restarts"


def _forced(case: Case) -> str:
    forced = case.pod.deleting and case.pod.grace == 0
    return "it was deleted by force, with no time to do anything" if forced else ""


def _over(case: Case) -> str:
    return "it has ended by itself" if case.pod.over and not case.announced else ""


def _not_managed(case: Case) -> str:
    return "" if case.pod.managed else "none of its containers is managed"


def _not_started(case: Case) -> str:
    return "" if case.announced or case.pod.began else "none of its managed containers has started"


def _waiting(case: Case) -> str:
    return "what it waited for goes on to the next" if case.waiting else ""


def _on_the_host(case: Case) -> str:
    return "it has its node's network" if case.pod.host_network else ""


def _mirror(case: Case) -> str:
    return "it is a static pod of its node" if case.pod.mirror else ""


def _namespace_goes(case: Case) -> str:
    return "its namespace is being deleted" if _goes(case.owners.namespace) else ""


def _bare(case: Case) -> str:
    return "" if case.pod.owner else "nobody replaces it: it has no owner"


def _owner_gone(case: Case) -> str:
    owner = case.pod.owner
    if owner is None or owner.kind not in BY_KIND:
        return ""
    found = case.owners.controller
    if found is None or found["metadata"].get("uid") != owner.uid:
        return f"its {owner.kind} is gone"
    return f"its {owner.kind} is being deleted" if _goes(found) else ""


def _unknown_owner(case: Case) -> str:
    assert case.pod.owner is not None, "a row before this one has asked"
    if case.pod.owner.kind == "DaemonSet":
        return "a DaemonSet's pod belongs to its node"
    return f"pods of a {case.pod.owner.kind} do not move"


def _goes(found: Object | None) -> bool:
    return found is None or bool(found["metadata"].get("deletionTimestamp"))


# A ReplicaSet's


def _no_deployment(case: Case) -> str:
    assert case.owners.controller is not None
    references = case.owners.controller["metadata"].get("ownerReferences") or []
    if not any(each.get("controller") and each.get("kind") == "Deployment" for each in references):
        return "its ReplicaSet belongs to no Deployment"
    return "its Deployment is being deleted" if _goes(case.owners.deployment) else ""


def _no_hash(case: Case) -> str:
    return "" if case.pod.template_hash else f"it has no label {TEMPLATE_HASH}"


def _other_template(case: Case) -> str:
    wanted = ((case.owners.deployment or {}).get("spec") or {}).get("template")
    same = _without_hash(case.spec.get("template")) == _without_hash(wanted)
    return "" if same else "its Deployment has another template now"


def _without_hash(template: Any) -> Any:
    """As the Deployment controller compares: a ReplicaSet's template has this one label more."""
    if not isinstance(template, dict):
        return template
    metadata = template.get("metadata") or {}
    labels = {k: v for k, v in (metadata.get("labels") or {}).items() if k != TEMPLATE_HASH}
    plain = {k: v for k, v in metadata.items() if k not in ("labels", "creationTimestamp")}
    return {**template, "metadata": {**plain, "labels": labels}}


def _scaled_to_nothing(case: Case) -> str:
    wanted = ((case.owners.deployment or {}).get("spec") or {}).get("replicas", 1)
    return "" if wanted else "its Deployment is scaled to 0"


def _enough_others(case: Case) -> str:
    return _full(case, int(case.spec.get("replicas", 1)))


def _full(case: Case, wanted: int) -> str:
    if wanted > case.crowd.standing + case.crowd.promised:
        return ""
    return f"it is not replaced: {wanted} are wanted, {case.crowd.standing} are there without it" + (
        f" and {case.crowd.promised} come" if case.crowd.promised else ""
    )


# A StatefulSet's


def _ordinal(case: Case) -> int:
    digits = case.pod.name.rpartition("-")[2]
    return int(digits) if digits.isascii() and digits.isdigit() else -1


def _out_of_range(case: Case) -> str:
    first = int((case.spec.get("ordinals") or {}).get("start", 0))
    beyond = first + int(case.spec.get("replicas", 1))
    return "" if first <= _ordinal(case) < beyond else "its StatefulSet is scaled down"


def _other_revision(case: Case) -> str:
    strategy = case.spec.get("updateStrategy") or {}
    partition = int((strategy.get("rollingUpdate") or {}).get("partition") or 0)
    below = strategy.get("type", "RollingUpdate") == "RollingUpdate" and _ordinal(case) < partition
    next_one = case.status.get("currentRevision" if below else "updateRevision")
    return "" if next_one == case.pod.revision else "its StatefulSet has another template now"


def _unsettled(case: Case, row: Row) -> bool:
    """The StatefulSet controller has not looked at the newest specification yet: its revisions are old."""
    if row is not _other_revision or case.owners.controller is None:
        return False
    return bool(case.status.get("observedGeneration") != case.owners.controller["metadata"].get("generation"))


# A Job's


def _job_over(case: Case) -> str:
    conditions = case.status.get("conditions") or []
    done = [c["type"] for c in conditions if c.get("status") == "True" and c.get("type") in _JOB_OVER]
    return "its Job has finished" if done else ""


def _job_suspended(case: Case) -> str:
    return "its Job is suspended" if case.spec.get("suspend") else ""


def _no_tries_left(case: Case) -> str:
    if case.spec.get("podFailurePolicy"):
        return ""  # which may not count this one
    failed, allowed = int(case.status.get("failed") or 0), int(case.spec.get("backoffLimit", 6))
    return "its Job has no tries left" if failed >= allowed else ""


def _enough_workers(case: Case) -> str:
    if case.pod.job_index:
        done = str(case.status.get("completedIndexes") or "")
        return "its index of the Job is done" if _within(int(case.pod.job_index), done) else ""
    wanted = int(case.spec.get("parallelism", 1))
    if (completions := case.spec.get("completions")) is not None:
        wanted = min(wanted, int(completions) - int(case.status.get("succeeded") or 0))
    return _full(case, wanted)


def _within(index: int, ranges: str) -> bool:
    """Whether "1,3-5,7" names the index."""
    for each in filter(None, ranges.split(",")):
        first, _, last = each.partition("-")
        if int(first) <= index <= int(last or first):
            return True
    return False


OF_THE_POD: Final[tuple[Row, ...]] = (
    _stays,
    _forced,
    _over,
    _not_managed,
    _not_started,
    _waiting,
    _on_the_host,
    _mirror,
)
OF_ITS_OWNER: Final[tuple[Row, ...]] = (_namespace_goes, _bare, _owner_gone)
BY_KIND: Final[dict[str, tuple[Row, ...]]] = {
    "ReplicaSet": (_no_hash, _no_deployment, _scaled_to_nothing, _other_template, _enough_others),
    "StatefulSet": (_out_of_range, _other_revision),
    "Job": (_job_over, _job_suspended, _no_tries_left, _enough_workers),
}
