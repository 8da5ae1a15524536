"""Who moves and who does not: a test for each row."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from controlplane.leaving import Crowd, Owners, judge
from controlplane.pods import reduce
from tests.controlplane.clusters import (
    NAMESPACE,
    TEMPLATE,
    deployment,
    disrupted,
    job,
    owner,
    owners,
    pod,
    replica_set,
    stateful_set,
    told,
)

Object = dict[str, Any]
ALONE = Crowd()
MANAGED: dict[str, str] = pod()["metadata"]["annotations"]
BAD = {**MANAGED, "architect.loopholelabs.io/scaledown-durations": "1"}
GOING = {"deletionTimestamp": "2027-01-15T08:00:00Z"}


def web(**changes: Any) -> Object:
    return told(pod(of=replica_set()), **changes)


def of_web(replicas: int = 1) -> Owners:
    return owners(replica_set(replicas), deployment(replicas))


def changed(found: Object, path: str, value: Any) -> Object:
    """A copy with one field changed; the path's members are joined by slashes."""
    found = copy.deepcopy(found)
    *way, last = path.split("/")
    at: Any = found
    for name in way:
        at = at[int(name)] if isinstance(at, list) else at.setdefault(name, {})
    at[last] = value
    return found


MOVES: dict[str, tuple[Object, Owners, Crowd]] = {
    "deleted": (web(), of_web(), ALONE),
    "evicted, as a drain does it": (web(disruption="EvictionByEvictionAPI"), of_web(), ALONE),
    "preempted": (web(disruption="PreemptionByScheduler"), of_web(), ALONE),
    "tainted": (web(disruption="DeletionByTaintManager"), of_web(), ALONE),
    "evicted by its node": (
        disrupted(pod(of=replica_set()), "TerminationByKubelet"),
        of_web(),
        ALONE,
    ),
    "one of three": (web(), of_web(3), Crowd(standing=2)),
    "the last of ten that all go": (web(), of_web(10), Crowd(promised=9)),
    "a set's": (told(pod("db-0", of=stateful_set())), owners(stateful_set()), ALONE),
    "a set's that begins with 5": (
        told(pod("db-6", of=stateful_set())),
        owners(stateful_set(2, ordinals={"start": 5})),
        Crowd(standing=1),
    ),
    "a set's below the partition of an update": (
        told(pod("db-0", of=stateful_set())),
        owners(
            changed(
                stateful_set(updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}),
                "status/updateRevision",
                "db-2",
            )
        ),
        ALONE,
    ),
    "a job's": (told(pod(of=job())), owners(job()), ALONE),
    "a job's with an index": (
        told(pod(of=job(), annotations={**MANAGED, "batch.kubernetes.io/job-completion-index": "4"})),
        owners(changed(job(completions=9), "status/completedIndexes", "0-3,5")),
        Crowd(standing=5),
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_it_moves(name: str) -> None:
    found, of, crowd = MOVES[name]
    judgement = judge(reduce(found), of, crowd)
    assert judgement.moves, judgement.reason
    assert "replaces it" in judgement.reason


ENDS: dict[str, tuple[Object, Owners, Crowd, str]] = {
    "a liveness restart": (pod(of=replica_set()), of_web(), ALONE, "one of its containers restarts"),
    "no time": (web(grace=0), of_web(), ALONE, "by force"),
    "ended": (changed(web(), "status/phase", "Failed"), of_web(), ALONE, "ended by itself"),
    "no class": (changed(web(), "spec/runtimeClassName", ""), of_web(), ALONE, "managed"),
    "nothing managed": (changed(web(), "metadata/annotations", {}), of_web(), ALONE, "managed"),
    "bad annotations": (
        changed(web(), "metadata/annotations", BAD),
        of_web(),
        ALONE,
        "managed",
    ),
    "not begun": (
        changed(web(), "status/containerStatuses/0/state", {"waiting": {}}),
        of_web(),
        ALONE,
        "has started",
    ),
    "the host's network": (changed(web(), "spec/hostNetwork", True), of_web(), ALONE, "network"),
    "static": (
        changed(web(), "metadata/annotations", {**MANAGED, "kubernetes.io/config.mirror": "x"}),
        of_web(),
        ALONE,
        "static",
    ),
    "bare": (told(pod()), owners(None), ALONE, "no owner"),
    "namespace deleted": (
        web(),
        Owners(changed(NAMESPACE, "metadata/deletionTimestamp", "x"), replica_set(), deployment()),
        ALONE,
        "namespace is being deleted",
    ),
    "a daemon's": (
        told(pod(of=owner("DaemonSet", "logs", "u"))),
        owners(owner("DaemonSet", "logs", "u")),
        ALONE,
        "belongs to its node",
    ),
    "a node's": (told(pod(of=owner("Node", "n", "u"))), owners(None), ALONE, "pods of a Node"),
    "owner gone": (web(), owners(None, deployment()), ALONE, "ReplicaSet is gone"),
    "owner made anew": (
        web(),
        owners(changed(replica_set(), "metadata/uid", "other"), deployment()),
        ALONE,
        "ReplicaSet is gone",
    ),
    "owner goes": (
        web(),
        owners(changed(replica_set(), "metadata/deletionTimestamp", "x"), deployment()),
        ALONE,
        "ReplicaSet is being deleted",
    ),
    "deployment gone": (web(), owners(replica_set(), None), ALONE, "Deployment is being deleted"),
    "deployment goes": (
        web(),
        owners(replica_set(), changed(deployment(), "metadata/deletionTimestamp", "x")),
        ALONE,
        "Deployment is being deleted",
    ),
    "no deployment": (
        web(),
        owners(changed(replica_set(), "metadata/ownerReferences", [])),
        ALONE,
        "belongs to no Deployment",
    ),
    "no hash": (changed(web(), "metadata/labels", {}), of_web(), ALONE, "no label pod-template-hash"),
    "image changed": (
        web(),
        owners(replica_set(), changed(deployment(), "spec/template/spec/containers/0/image", "local/web:2")),
        ALONE,
        "another template",
    ),
    "restarted by kubectl": (
        web(),
        owners(replica_set(), changed(deployment(), "spec/template/metadata/annotations", {"when": "now"})),
        ALONE,
        "another template",
    ),
    "scaled to nothing": (web(), owners(replica_set(), deployment(0)), ALONE, "scaled to 0"),
    "scaled down": (web(), of_web(2), Crowd(standing=2), "2 are wanted, 2 are there"),
    "scaled down amid a drain": (
        web(),
        of_web(3),
        Crowd(standing=1, promised=2),
        "3 are wanted, 1 are there without it and 2 come",
    ),
    "a set's beyond its replicas": (
        told(pod("db-2", of=stateful_set())),
        owners(stateful_set(2)),
        ALONE,
        "scaled down",
    ),
    "a set's before its first": (
        told(pod("db-0", of=stateful_set())),
        owners(stateful_set(2, ordinals={"start": 1})),
        ALONE,
        "scaled down",
    ),
    "a set's with another template": (
        told(pod("db-0", of=stateful_set())),
        owners(stateful_set(revision="db-2")),
        ALONE,
        "another template",
    ),
    "a set's that is updated as it is deleted": (
        told(pod("db-0", of=stateful_set())),
        owners(changed(stateful_set(updateStrategy={"type": "OnDelete"}), "status/updateRevision", "db-2")),
        ALONE,
        "another template",
    ),
    "job done": (
        told(pod(of=job())),
        owners(changed(job(), "status/conditions", [{"type": "Complete", "status": "True"}])),
        ALONE,
        "has finished",
    ),
    "job suspended": (told(pod(of=job())), owners(job(suspend=True)), ALONE, "suspended"),
    "job's last try": (told(pod(of=job())), owners(job(backoffLimit=0)), ALONE, "no tries left"),
    "job with workers enough": (
        told(pod(of=job())),
        owners(changed(job(parallelism=3, completions=5), "status/succeeded", 3)),
        Crowd(standing=2),
        "2 are wanted",
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_it_ends_in_the_ordinary_way(name: str) -> None:
    found, of, crowd, says = ENDS[name]
    judgement = judge(reduce(found), of, crowd)
    assert not judgement.moves
    assert says in judgement.reason
    assert not judgement.unsettled


def test_what_its_node_says_of_its_containers_counts_more_than_the_status() -> None:
    found = changed(web(), "status/containerStatuses", [])
    assert not judge(reduce(found), of_web(), ALONE).moves
    assert judge(reduce(found), of_web(), ALONE, announced=True).moves


def test_who_still_waited_for_a_predecessor_has_nothing_to_move() -> None:
    judgement = judge(reduce(web()), of_web(), ALONE, waiting=True)
    assert not judgement.moves
    assert "goes on to the next" in judgement.reason


def test_of_a_set_whose_controller_has_not_looked_yet_the_judgement_is_unsettled() -> None:
    newest = changed(stateful_set(revision="db-0"), "metadata/generation", 2)
    judgement = judge(reduce(told(pod("db-0", of=newest))), owners(newest), ALONE)
    assert (judgement.moves, judgement.unsettled) == (False, True)


def test_a_replica_sets_template_has_a_label_more_than_its_deployments() -> None:
    assert "pod-template-hash" not in TEMPLATE["metadata"]["labels"]
    assert "pod-template-hash" in replica_set()["spec"]["template"]["metadata"]["labels"]


def test_a_pod_was_told_to_go_a_grace_period_before_it_is_killed() -> None:
    assert reduce(web()).left_at == 1_800_000_000
    assert reduce(pod()).left_at == 0


@pytest.mark.parametrize("text", ["", "[", '["app", "app"]', "1", '["App"]', "[" * 100_000])
def test_annotations_that_make_no_sense_manage_nothing(text: str) -> None:
    found = pod()
    found["metadata"]["annotations"] = {"architect.loopholelabs.io/managed-containers": text}
    assert reduce(found).managed == ()


def test_managed_containers_are_those_of_the_pod_only() -> None:
    found = pod()
    found["metadata"]["annotations"] = {"architect.loopholelabs.io/managed-containers": '["app","ghost"]'}
    assert reduce(found).managed == ("app",)
