"""`kubectl architect`, against an API server that plays a cluster: its `exec` runs the real `architect`, and
that asks a real daemon.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from architect.cli.cluster import described
from architect.cli.kubectl import kubectl_cli
from architect.kube.execution import PROTOCOLS
from tests.cli.test_moving import RECORD
from tests.daemon.conftest import Box
from tests.daemon.fake_shim import FakeShim, container

ROOT = Path(__file__).parents[2]
ID = "c0ffee" + "0" * 58
LABEL = "status.architect.loopholelabs.io/app"
WEB = {
    "metadata": {
        "name": "web",
        "namespace": "default",
        "labels": {LABEL: "SCALED_DOWN"},
        "annotations": {"architect.loopholelabs.io/cpu-requests": '{"app":"250m"}'},
    },
    "spec": {"nodeName": "node-1", "runtimeClassName": "runc-architect"},
}
PLAIN = {"metadata": {"name": "plain", "namespace": "default"}, "spec": {"nodeName": "node-2"}}
DAEMON = {
    "metadata": {"name": "architectd-x", "namespace": "architect"},
    "spec": {"nodeName": "node-1"},
    "status": {"phase": "Running"},
}


class PlayedCluster:
    """Answers what the plugin asks."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.commands: list[list[str]] = []
        self.daemons = [DAEMON]
        self.other: dict[str, dict[str, Any]] = {}
        self.kubeconfig = ""
        self.app = web.Application()
        router = self.app.router
        router.add_get("/api/v1/pods", self.items([WEB, PLAIN]))
        router.add_get("/api/v1/namespaces/default/pods", self.items([WEB, PLAIN]))
        router.add_get("/api/v1/namespaces/empty/pods", self.items([]))
        router.add_get("/api/v1/namespaces/default/pods/web", self.one(WEB))
        router.add_get("/api/v1/namespaces/default/pods/plain", self.one(PLAIN))
        router.add_get("/api/v1/namespaces/architect/pods", self.find_daemons)
        router.add_get("/api/v1/namespaces/architect/pods/architectd-x/exec", self.execute)
        router.add_get("/{path:.*}", self.rest)

    def items(self, items: list[Any]) -> Any:
        return self.one({"metadata": {}, "items": items})

    def one(self, found: Any) -> Any:
        async def answer(_: web.Request) -> web.Response:
            return web.json_response(found)

        return answer

    async def rest(self, request: web.Request) -> web.Response:
        if request.path in self.other:
            return web.json_response(self.other[request.path])
        body = {"kind": "Status", "code": 404, "message": f"{request.path} not found"}
        return web.json_response(body, status=404)

    async def find_daemons(self, request: web.Request) -> web.Response:
        assert request.query["labelSelector"] == "app.kubernetes.io/name=architectd"
        elsewhere = "node-2" in request.query.get("fieldSelector", "")
        return web.json_response({"metadata": {}, "items": [] if elsewhere else self.daemons})

    async def execute(self, request: web.Request) -> web.WebSocketResponse:
        argv = request.query.getall("command")
        self.commands.append(argv)
        assert argv[:3] == ["python3", "-m", "architect.cli"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *argv[1:]),
            cwd=ROOT,
            env=dict(os.environ) | {"ARCHITECT_SOCKET": self.socket},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        answer = web.WebSocketResponse(protocols=PROTOCOLS)
        await answer.prepare(request)
        await answer.send_bytes(b"\x01" + out)
        await answer.send_bytes(b"\x02" + err)
        cause = {"reason": "ExitCode", "message": str(process.returncode)}
        failed = {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [cause]}}
        ended = failed if process.returncode else {"status": "Success"}
        await answer.send_bytes(b"\x03" + json.dumps(ended).encode())
        await answer.close()
        return answer

    async def run(self, *argv: str) -> Result:
        given = [*argv, "--kubeconfig", self.kubeconfig]
        return await asyncio.to_thread(CliRunner().invoke, kubectl_cli, given, catch_exceptions=False)


@pytest.fixture
async def shim(tmp_path: Path) -> AsyncIterator[tuple[FakeShim, Box]]:
    box = Box(tmp_path)
    async with box.shim("pod1", container(ID)) as shim, box.daemon():
        await box.until_state(ID, "RUNNING")
        yield shim, box


@pytest.fixture
async def cluster(shim: tuple[FakeShim, Box], tmp_path: Path) -> AsyncIterator[PlayedCluster]:
    played = PlayedCluster(shim[1].socket)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(TestServer(played.app))
        config = {
            "contexts": [{"name": "here", "context": {"cluster": "c"}}],
            "clusters": [{"name": "c", "cluster": {"server": str(server.make_url(""))}}],
            "current-context": "here",
        }
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        played.kubeconfig = str(path)
        yield played


async def test_status_shows_the_managed_containers_of_pods(cluster: PlayedCluster) -> None:
    result = await cluster.run("status")
    assert result.exit_code == 0
    line = next(line for line in result.output.splitlines() if " web " in line)
    assert line.split() == ["default", "web", "app", "SCALED_DOWN", "node-1", "cpu", "250m"]
    assert "plain" not in result.output
    everywhere = json.loads((await cluster.run("status", "-A", "--json")).output)
    assert [entry["pod"] for entry in everywhere["containers"]] == ["web"]
    assert "No pod here" in (await cluster.run("status", "-n", "empty")).output
    assert cluster.commands == [], "labels are enough"


async def test_a_pod_is_put_to_sleep_explained_and_woken_by_the_daemon_of_its_node(
    cluster: PlayedCluster, shim: tuple[FakeShim, Box]
) -> None:
    slept = await cluster.run("hibernate", "web")
    assert slept.output.startswith("default/web/app sleeps: 50 MiB of memory saved")
    assert "It is asleep." in (await cluster.run("explain", "web/app")).output
    woke = await cluster.run("wake", "web", "-n", "default")
    assert "default/web/app runs" in woke.output
    assert [command[3] for command in cluster.commands] == ["hibernate", "explain", "wake"]
    assert shim[0].calls == [("hibernate", ID), ("wake", ID, "request")]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        pytest.param(["explain", "none"], "there is no pod 'none' in namespace 'default'", id="no such pod"),
        pytest.param(["wake", "plain"], "no container of pod default/plain is managed", id="not managed"),
        pytest.param(["wake", "plain/app"], "no architectd runs on node node-2", id="no daemon there"),
        pytest.param(
            ["wake", "web/none"], "there is no container 'default/web/none'", id="no such container"
        ),
        pytest.param(["status", "--context", "else"], "no context 'else'", id="no such context"),
    ],
)
async def test_what_cannot_be_is_said_in_a_sentence(
    cluster: PlayedCluster, argv: list[str], sentence: str
) -> None:
    result = await cluster.run(*argv)
    assert result.exit_code == 1
    assert sentence in result.output
    assert result.output.count("\n") == 1


async def test_the_doctor_examines_the_cluster_and_each_node(cluster: PlayedCluster) -> None:
    cluster.other = {
        "/version": {"gitVersion": "v1.35.4"},
        "/api/v1": {"resources": [{"name": "pods/resize"}]},
        "/apis/node.k8s.io/v1/runtimeclasses/runc-architect": {"handler": "runc-architect"},
    }
    result = await cluster.run("doctor")
    assert result.exit_code == 1
    assert "pass  Kubernetes: v1.35.4, pods can be resized in place" in result.output
    assert "pass  runtime class" in result.output
    assert "FAIL  daemon:" in result.output
    assert "node-1: root: running as" in result.output


async def test_who_is_not_sure_gives_no_copy_back(cluster: PlayedCluster) -> None:
    """The played cluster answers questions only: a change would be an error."""
    where = "/apis/architect.loopholelabs.io/v1alpha1/namespaces/default/migrations"
    cluster.other = {where: {"metadata": {}, "items": [RECORD]}}
    result = await cluster.run("restore", "web-1")
    assert result.exit_code == 1
    assert "Container app of pod web-1: 1 B, kept on node-1, which it left" in result.output
    assert "Aborted!" in result.output


async def test_what_would_not_move_is_left_where_it_is(cluster: PlayedCluster) -> None:
    result = await cluster.run("migrate", "web")
    assert result.exit_code == 1
    assert (
        "the memory of pod default/web would not move: nobody replaces it: it has no owner" in result.output
    )


def test_a_pod_that_was_not_reported_on_yet_is_unknown() -> None:
    notes = {"architect.loopholelabs.io/managed-containers": '["app"]'}
    pod = {"metadata": {"annotations": notes}, "spec": {"runtimeClassName": "runc-architect"}}
    assert [entry["state"] for entry in described(pod)] == ["UNKNOWN"]
    notes["architect.loopholelabs.io/managed-containers"] = "[[]"
    assert described(pod) == []
