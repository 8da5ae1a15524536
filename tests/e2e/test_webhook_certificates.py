"""Webhooks that keep one set of certificates in a real API server, at the same moments, by our own clock."""

from __future__ import annotations

import asyncio
import os

import pytest

from architect.kube import Client, Conflict
from architect.kube.kubeconfig import from_kubeconfig
from hack.api import Api
from webhook.certificates import LIFE_SECONDS, SETTLE_SECONDS, Generation, loaded
from webhook.cluster import ApiCluster, Missing, Secret
from webhook.configuration import configuration
from webhook.keeping import Keeper

NAME = "race"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"


class Replica:
    def __init__(self, client: Client, namespace: str) -> None:
        self.now = 0
        self.shown: list[Generation] = []
        self.cluster = ApiCluster(client, namespace=namespace, secret=NAME, configuration=NAME)
        names = [f"{NAME}.{namespace}.svc"]
        self.keeper = Keeper(self.cluster, names, self.shown.append, clock=lambda: self.now)


async def _together(replicas: list[Replica], now: int) -> int:
    """All of them look at `now` until nothing is left to do; returns how often one of them came second."""
    conflicts = 0
    while True:
        for each in replicas:
            each.now = now
        found = await asyncio.gather(*(each.keeper.look() for each in replicas), return_exceptions=True)
        assert all(isinstance(each, bool | Conflict) for each in found), found
        conflicts += sum(isinstance(each, Conflict) for each in found)
        if all(each is True for each in found):
            return conflicts


async def _lives(namespace: str) -> None:
    async with Client(from_kubeconfig(os.environ["KUBECONFIG"])) as client:
        replicas = [Replica(client, namespace) for _ in range(3)]
        now, conflicts = 1_700_000_000, 0
        for round_number in range(3):
            conflicts += await _together(replicas, now)
            now += SETTLE_SECONDS
            conflicts += await _together(replicas, now)
            kept = loaded((await replicas[0].cluster.secret()).text)
            assert {each.shown[-1] for each in replicas} == {kept[-1]}
            assert [len(each.shown) for each in replicas] == [round_number + 1] * len(replicas)
            trust = await replicas[0].cluster.trust()
            assert len(trust.bundles) == 4
            assert {bundle.count("BEGIN") for bundle in trust.bundles} == {len(kept)}
            assert all(kept[-1].authority in bundle for bundle in trust.bundles)
            now += LIFE_SECONDS * 2 // 3
        assert conflicts, "they were never in each other's way: nothing was proved"


def test_replicas_that_do_everything_at_once_agree(api: Api, namespace: str) -> None:
    wanted = configuration(NAME, service=NAME, namespace=namespace)
    for each in wanted["webhooks"]:
        each["objectSelector"] = {"matchLabels": {"nobody": "has-this"}}
    api.create(CONFIGURATIONS, wanted)
    try:
        asyncio.run(_lives(namespace))
    finally:
        api.delete(f"{CONFIGURATIONS}/{NAME}")


def test_a_secret_and_a_configuration_that_are_not_there(namespace: str) -> None:
    async def asked() -> None:
        async with Client(from_kubeconfig(os.environ["KUBECONFIG"])) as client:
            cluster = ApiCluster(client, namespace=namespace, secret="none", configuration="none")
            assert await cluster.secret() == Secret()
            with pytest.raises(Missing, match="no MutatingWebhookConfiguration none"):
                await cluster.trust()

    asyncio.run(asked())
