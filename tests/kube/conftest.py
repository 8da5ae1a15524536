from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from architect.kube import Client, pod_path, pods_path
from tests.kube import migrating
from tests.kube.apiserver import ApiServer, api_server, lacking
from tests.kube.migrating import Node, Replica, Shop


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    if missing := lacking():
        pytest.skip(f"needs {missing}")
    with api_server(Path(tmp_path_factory.mktemp("apiserver"))) as server:
        yield server


@pytest.fixture
async def client(server: ApiServer) -> AsyncIterator[Client]:
    async with Client(server.access()) as client:
        yield client


@pytest.fixture
async def namespace(client: Client, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A namespace of the test's own. Its pods go with the test: a node claims ahead for whoever is bound to
    it.
    """
    made = await client.create("/api/v1/namespaces", {"metadata": {"generateName": "test-"}})
    name = str(made["metadata"]["name"])
    yield name
    for pod in await client.all(pods_path(name)):
        await client.delete(pod_path(name, pod["metadata"]["name"]), gracePeriodSeconds="0")


@pytest.fixture(scope="session")
def prepared(server: ApiServer) -> None:
    async def prepare() -> None:
        async with Client(server.access()) as client:
            await migrating.prepare(client)

    asyncio.run(prepare())


@pytest.fixture
async def control(server: ApiServer, prepared: None) -> AsyncIterator[Replica]:
    async with migrating.replica(server) as found:
        yield found


@pytest.fixture
async def nodes(client: Client, control: Replica) -> AsyncIterator[list[Node]]:
    async with migrating.nodes(client, control, "node-1", "node-2") as found:
        yield found


@pytest.fixture
async def shop(client: Client, namespace: str) -> Shop:
    found = Shop(client, namespace)
    await found.deploy()
    return found
