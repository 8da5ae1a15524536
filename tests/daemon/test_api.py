from __future__ import annotations

import asyncio
import json
import os
import random
import stat
from contextlib import AsyncExitStack
from typing import Any

import pytest

from architect.ttrpc.server import Code, RpcError
from architect.ttrpc.shim_v1 import Failure
from tests.daemon.conftest import Box, until
from tests.daemon.fake_shim import FakeShim, container

ID = "c0ffee" + "0" * 58


@pytest.fixture
async def shim(box: Box, stack: AsyncExitStack) -> FakeShim:
    shim = box.shim("pod1", container("5a" * 32, name="", managed=False), container(ID))
    await stack.enter_async_context(shim)
    await stack.enter_async_context(box.daemon())
    await box.until_state(ID, "RUNNING")
    return shim


@pytest.mark.parametrize("reference", [ID, ID[:8], "web/app", "default/web/app", "default%2Fweb%2Fapp"])
async def test_a_container_can_be_named_in_several_ways(box: Box, shim: FakeShim, reference: str) -> None:
    status, body = await box.ask("GET", f"/v1/containers/{reference}/explain")
    assert (status, body["id"]) == (200, ID)


@pytest.mark.parametrize("reference", [ID[:7], "app", "web/other", "a/b/c/d", "..", "%00%ff", "x" * 5000])
async def test_an_unknown_name_is_not_found_and_told_how_to_name_one(
    box: Box, shim: FakeShim, reference: str
) -> None:
    status, body = await box.ask("GET", f"/v1/containers/{reference}/explain")
    assert status == 404
    assert "error" in body


async def test_a_name_that_means_two_is_refused_with_both(box: Box, shim: FakeShim) -> None:
    shim.add(container("d" * 64))
    await box.until_state("d" * 64, "RUNNING")
    status, body = await box.ask("POST", "/v1/containers/web/app/hibernate")
    assert status == 409
    assert ID[:12] in body["error"]
    assert "d" * 12 in body["error"]
    assert shim.calls == []
    shim.set("d" * 64, phase="STOPPED")
    await box.until_state("d" * 64, "STOPPED")
    assert (await box.ask("GET", "/v1/containers/web/app/explain"))[1]["id"] == ID


async def test_the_list_leaves_out_the_sandbox(box: Box, shim: FakeShim) -> None:
    _, body = await box.ask("GET", "/v1/containers")
    assert [entry["container"] for entry in body["containers"]] == ["app"]


async def test_hibernate_and_wake_answer_when_it_is_done(box: Box, shim: FakeShim) -> None:
    status, body = await box.ask("POST", "/v1/containers/web/app/hibernate")
    assert (status, body["state"], body["saved_bytes"]) == (200, "SCALED_DOWN", 50 << 20)
    status, body = await box.ask("POST", "/v1/containers/web/app/wake")
    assert (status, body["state"], body["last_wake_cause"], body["last_wake_us"]) == (
        200,
        "RUNNING",
        "request",
        41_500,
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [(Code.NOT_FOUND, 404), (Code.FAILED_PRECONDITION, 409), (Code.ABORTED, 409), (Code.INTERNAL, 502)],
)
async def test_a_refusal_of_the_shim_reaches_whoever_asked(
    box: Box, shim: FakeShim, code: Code, expected: int
) -> None:
    async def refuse(_: str) -> None:
        raise RpcError(code, "the shim's own sentence")

    shim.on_hibernate = refuse
    answer = await box.ask("POST", "/v1/containers/web/app/hibernate")
    assert answer == (expected, {"error": "the shim's own sentence"})


async def test_a_shim_that_dies_during_a_call_is_said_so(box: Box, shim: FakeShim) -> None:
    async def die(_: str) -> None:
        for connection in list(shim._server.connections):
            connection.abort()
        await asyncio.sleep(60)

    shim.on_hibernate = die
    status, body = await box.ask("POST", "/v1/containers/web/app/hibernate")
    assert status == 503
    assert "default/web/app" in body["error"]


@pytest.mark.parametrize(
    ("fields", "eligible", "sentence"),
    [
        pytest.param(
            {"refusal": "it has a terminal"}, False, "It cannot hibernate: it has a terminal.", id="refused"
        ),
        pytest.param(
            {"managed": False, "settings_error": "scaledown-durations.app: is negative"},
            False,
            "its annotations were refused: scaledown-durations.app: is negative",
            id="its annotations are wrong",
        ),
        pytest.param({"managed": False}, False, "not in the pod's managed-containers", id="not managed"),
        pytest.param({}, True, "It can hibernate.", id="fine"),
        pytest.param({"monitor": "packets"}, True, "it declares no ports", id="no ports to watch"),
        pytest.param({}, True, "no network-monitor", id="only exec wakes it"),
        pytest.param({"phase": "SCALED_DOWN"}, True, "It is asleep.", id="asleep"),
    ],
)
async def test_explain_says_whether_it_can_sleep_and_why_not(
    box: Box, shim: FakeShim, fields: dict[str, Any], eligible: bool, sentence: str
) -> None:
    failure = Failure(5, "hibernate", "criu: broken")
    shim.set(ID, **fields, failures=[failure], generation=77)

    body: dict[str, Any] = {}

    async def explained() -> bool:
        body.update((await box.ask("GET", f"/v1/containers/{ID}/explain"))[1])
        return bool(body["generation"] == 77)

    await until(explained)
    assert body["eligible"] is eligible
    assert sentence in " ".join(body["sentences"])
    assert body["failures"] == [{"at_ns": 5, "operation": "hibernate", "reason": "criu: broken"}]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/containers", 405),
        ("GET", "/v1/containers/web/app/wake", 405),
        ("DELETE", "/v1/containers/web/app", 404),
    ],
)
async def test_what_does_not_exist_is_an_error_in_json(
    box: Box, shim: FakeShim, method: str, path: str, expected: int
) -> None:
    status, body = await box.ask(method, path)
    assert status == expected
    assert path in body["error"]


async def test_the_socket_is_for_its_owner_alone(box: Box, shim: FakeShim) -> None:
    mode = os.stat(box.socket).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert stat.S_IMODE(os.stat(box.shims).st_mode) == 0o700


async def test_random_bytes_are_refused_and_disturb_nobody(box: Box, shim: FakeShim) -> None:
    noise = random.Random(4)
    for size in (1, 3, 80, 5000, 100_000):
        reader, writer = await asyncio.open_unix_connection(box.socket)
        writer.write(noise.randbytes(size) + b"\r\n\r\n")
        try:
            await writer.drain()
            writer.write_eof()
            async with asyncio.timeout(20):
                answer = await reader.read()
        except ConnectionError:
            answer = b""
        finally:
            writer.close()
        assert answer == b"" or answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    assert (await box.ask("GET", "/v1/health"))[1] == {
        "status": "ok",
        "version": "0.1.0",
        "kubernetes": "off",
        "shims": 1,
        "containers": 2,
    }


async def test_labels_of_metrics_do_not_grow_with_what_shims_say(box: Box, shim: FakeShim) -> None:
    for number in range(50):
        shim.set(ID, wakes=number + 1, last_wake_cause=f"cause-{number}", phase="RUNNING")
        shim.set(ID, failures=[Failure(number + 1, f"operation-{number}", f"reason {number}")])
    await box.until_metric('architect_wakes_total{cause="other"}', 50)
    _, text = await box.ask("GET", "/metrics")
    assert "cause-" not in text
    assert "operation-" not in text
    assert 'architect_build_info{version="0.1.0"} 1.0' in text
    assert json.dumps(ID) not in text
