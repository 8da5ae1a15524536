"""Which pods `migrate` refuses to evict, and which copy and pod `restore` means."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from architect.cli.cluster import Failed
from architect.cli.moving import kept, stays
from architect.kube import NotFound

Object = dict[str, Any]
PREFIX = "architect.loopholelabs.io"


def pod(name: str = "web-2", *, kind: str = "ReplicaSet", owner: str = "o-1", **metadata: Any) -> Object:
    owners = [{"kind": kind, "name": "o", "uid": owner, "controller": True}] if kind else []
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"u-{name}",
            "labels": {"pod-template-hash": "abc", f"status.{PREFIX}/app": "RUNNING"},
            "ownerReferences": owners,
            **metadata,
        },
        "spec": {"nodeName": "node-2", "runtimeClassName": "runc-architect"},
        "status": {"phase": "Running"},
    }


def changed(found: Object, part: str, **fields: Any) -> Object:
    return {**found, part: {**found[part], **fields}}


STAY = [
    pytest.param(pod(deletionTimestamp="2026-11-21T17:00:00Z"), "it was told to go already", id="going"),
    pytest.param(pod(annotations={"kubernetes.io/config.mirror": "x"}), "a static pod", id="static"),
    pytest.param(pod(kind=""), "nobody replaces it: it has no owner", id="bare"),
    pytest.param(pod(kind="DaemonSet"), "a DaemonSet's pod belongs to its node", id="DaemonSet"),
    pytest.param(pod(kind="Foo"), "pods of a Foo do not move", id="another kind"),
    pytest.param(pod(labels={}), "its ReplicaSet belongs to no Deployment", id="ReplicaSet alone"),
    pytest.param(
        pod(labels={"pod-template-hash": "abc"}) | {"spec": {"nodeName": "node-2"}},
        "none of its containers is managed",
        id="not managed",
    ),
    pytest.param(changed(pod(), "spec", hostNetwork=True), "it has its node's network", id="host network"),
    pytest.param(changed(pod(), "status", phase="Pending"), "it does not run: it is Pending", id="pending"),
]


@pytest.mark.parametrize(("found", "reason"), STAY)
def test_what_would_not_move_is_not_evicted(found: Object, reason: str) -> None:
    assert reason in stays(found)


@pytest.mark.parametrize("kind", ["ReplicaSet", "StatefulSet", "Job"])
def test_what_its_owner_replaces_may_move(kind: str) -> None:
    assert stays(pod(kind=kind)) == ""


# ---- restore

RECORD: Object = {
    "metadata": {"name": "web-1-0123", "namespace": "default", "uid": "m-1"},
    "spec": {
        "pod": {"name": "web-1", "uid": "u-1"},
        "node": "node-1",
        "owner": {"kind": "ReplicaSet", "name": "o", "uid": "o-1"},
        "slot": "abc",
        "leftTime": "2026-11-21T17:00:00Z",
        "containers": ["app"],
    },
    "status": {
        "target": {"name": "web-2", "uid": "u-web-2", "node": "node-2"},
        "containers": [{"name": "app", "state": "Kept", "since": "2026-11-21T17:00:02Z", "sizeBytes": 1}],
    },
}


def record(state: str = "Kept", *, name: str = "web-1-0123", left: str = "", **part: Any) -> Object:
    found = copy.deepcopy(RECORD)
    found["metadata"]["name"] = name
    found["spec"]["leftTime"] = left or found["spec"]["leftTime"]
    found["status"]["containers"][0] |= {"state": state, **part}
    return found


class PlayedCluster:
    """Lists what there is."""

    def __init__(self, records: list[Object] | None, *pods: Object) -> None:
        self._found = {"pods": list(pods), "migrations": records}

    async def all(self, path: str) -> list[Object]:
        found = self._found[path.rpartition("/")[2]]
        if found is None:
            raise NotFound("there is no such resource")
        return found


async def meant(name: str, records: list[Object] | None, *pods: Object) -> tuple[str, str]:
    """The migration and the pod that `restore NAME` means."""
    found = await kept(PlayedCluster(records, *pods), "default", name)  # type: ignore[arg-type]
    return found.record["metadata"]["name"], found.pod["metadata"]["name"] if found.pod else ""


@pytest.mark.parametrize("name", ["web-1-0123", "web-1", "web-2"])
async def test_a_copy_goes_by_the_names_of_its_migration_and_of_both_pods(name: str) -> None:
    assert await meant(name, [record()], pod(), pod("web-3")) == ("web-1-0123", "web-2")


async def test_another_pod_of_the_same_owner_can_be_named_to_give_way() -> None:
    assert await meant("web-3", [record()], pod(), pod("web-3")) == ("web-1-0123", "web-3")
    with pytest.raises(Failed, match="no copy is kept for 'web-3'"):
        await meant("web-3", [record()], pod("web-3", owner="o-2"))


async def test_the_newest_copy_of_a_pod_is_meant() -> None:
    older, newer = record(), record(name="web-1-4567", left="2026-11-21T18:00:00Z")
    assert await meant("web-1", [newer, older], pod()) == ("web-1-4567", "web-2")


async def test_what_was_taken_is_meant_when_its_taker_is_no_more() -> None:
    assert await meant("web-1", [record(taken=True)], pod("web-3")) == ("web-1-0123", "web-3")


async def test_who_gives_way_has_to_be_named_where_that_is_not_clear() -> None:
    assert await meant("web-1", [record()], pod("web-3")) == ("web-1-0123", "web-3")
    assert await meant("web-1", [record()]) == ("web-1-0123", "")
    with pytest.raises(Failed, match="name the one that is to give way: web-3, web-4"):
        await meant("web-1", [record()], pod("web-3"), pod("web-4"))


async def test_only_the_pod_of_its_name_gives_way_in_a_stateful_set() -> None:
    mine = record()
    mine["spec"]["slot"] = "db-1"
    pods = [pod("db-0", kind="StatefulSet"), pod("db-1", kind="StatefulSet")]
    assert await meant("web-1", [mine], *pods) == ("web-1-0123", "db-1")


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([record("Arrived")], id="it has arrived"),
        pytest.param([record("Lost")], id="there is no copy"),
        pytest.param([record(taken=True)], id="it may run somewhere"),
        pytest.param([record("Offered")], id="it is under way"),
        pytest.param([], id="nothing has moved"),
    ],
)
async def test_what_is_not_kept_cannot_be_asked_for(records: list[Object]) -> None:
    with pytest.raises(Failed, match="no copy is kept for 'web-1' in namespace 'default'"):
        await meant("web-1", records, pod())


async def test_a_cluster_without_migrations_says_so() -> None:
    with pytest.raises(Failed, match=r"install the chart with migration\.enabled=true"):
        await meant("web-1", None, pod())
