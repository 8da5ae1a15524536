"""A checkpoint of a machine that this one is not: refused before it is fetched, said aloud, and kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from architect.images.manifest import Manifest, decode, encode
from hack.api import Api
from hack.nodes import Node
from tests.e2e import release, sleepers, travellers
from tests.e2e.conftest import Kubectl
from tests.e2e.sleepers import PREFIX, Sleeper
from tests.e2e.travellers import moving

pytestmark = [pytest.mark.usefixtures("migration"), pytest.mark.timeout(900)]
_OTHER_KERNEL = "7.99.0-foreign"


def rewritten(node: Node, place: str, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Changes the manifest of the one checkpoint that lies there on a node; what it was before."""
    (path,) = Path(f"/var/lib/nodes/{node.name}/var/lib/architect/{place}").rglob("manifest.json")
    before = decode(path.read_bytes())
    path.write_bytes(encode(change(before)))
    return before


def test_a_checkpoint_of_another_kernel_is_refused_told_and_kept_and_goes_on_where_it_fits(
    api: Api, kubectl: Kubectl, namespace: str, nodes: list[Node]
) -> None:
    kubectl("apply", "-f", "-", stdin=moving("web"))
    (before,) = sleepers.pods_of(api, namespace, "web")
    here = next(node for node in nodes if node.name == before.read()["spec"]["nodeName"])
    there = next(node for node in nodes if node is not here)
    travellers.await_listening(here, before)
    said = travellers.call(here, before)
    place = f"leaving/{namespace}"
    with travellers.closed(api, here, there):
        travellers.evict(api, before)
        (record,) = travellers.records(
            api,
            namespace,
            lambda found: [each for each in found if "Offered" in travellers.states(each).values()],
        )
        was = rewritten(here, place, lambda manifest: dataclasses.replace(manifest, kernel=_OTHER_KERNEL))
        travellers.cordon(api, there, closed=False)
        (fresh,) = sleepers.pods_of(api, namespace, "web")
        travellers.await_listening(there, fresh)
        assert travellers.call(there, fresh).token != said.token
        fresh.await_reason("MigrationFailed")
        (told,) = [each for each in travellers.warnings(api, namespace) if "MigrationFailed" in each]
        assert _OTHER_KERNEL in told
        assert was.kernel in told
        fresh.await_reason("StartedFresh")
    path = f"/apis/{PREFIX}/v1alpha1/namespaces/{namespace}/migrations/{record['metadata']['name']}"
    kept = api.await_object(path, lambda seen: set(travellers.states(seen).values()) == {"Kept"})
    assert _OTHER_KERNEL in kept["status"]["reason"]
    rewritten(here, f"kept/{namespace}", lambda _: was)
    kubectl("annotate", "migration", record["metadata"]["name"], f"{PREFIX}/restore=")
    api.await_object(path, lambda seen: "Offered" in travellers.states(seen).values())
    kubectl("delete", "pod", fresh.name, "--wait=false")
    again = sleepers_without(api, namespace, fresh)
    assert travellers.call(there, again).token == said.token
    release.await_ready()


def sleepers_without(api: Api, namespace: str, gone: Sleeper) -> Sleeper:
    """The pod that is ready after that one is gone."""
    api.await_gone(gone.path, travellers.SECONDS)
    (found,) = sleepers.pods_of(api, namespace, "web")
    return found
