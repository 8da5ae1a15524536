"""The client of `pods/exec` that `kubectl architect` uses, through a real API server and kubelet."""

from __future__ import annotations

import os

import pytest

from architect.kube import Client, NotFound, pod_path, pods_path
from architect.kube.errors import ApiError
from architect.kube.execution import run_in_pod
from architect.kube.kubeconfig import from_kubeconfig
from tests.kube.apiserver import until


async def test_a_command_runs_in_a_pod_and_its_end_is_known(namespace: str) -> None:
    async with Client(from_kubeconfig(os.environ["KUBECONFIG"])) as client:
        app = {"name": "app", "image": "local/web:1"}
        spec = {"containers": [app], "terminationGracePeriodSeconds": 1}
        await client.create(pods_path(namespace), {"metadata": {"name": "web"}, "spec": spec})

        async def running() -> bool:
            found = (await client.get(pod_path(namespace, "web")))["status"].get("containerStatuses")
            return bool(found and found[0]["ready"])

        await until(running)
        script = (
            "import sys; print('out' * 50_000); print('a b', file=sys.stderr); sys.exit(int(sys.argv[1]))"
        )
        for status in (0, 3):
            argv = ["/usr/bin/python3", "-c", script, str(status)]
            ran = await run_in_pod(client, namespace, "web", argv, timeout=60)
            assert (ran.status, len(ran.stdout), ran.stderr) == (status, 150_001, b"a b\n")
        with pytest.raises(ApiError, match="no such file"):
            await run_in_pod(client, namespace, "web", ["/no/such/program"], timeout=60)
        with pytest.raises(NotFound):
            await run_in_pod(client, namespace, "none", ["true"], timeout=60)
