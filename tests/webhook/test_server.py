"""The webhook over real TLS: answers, refusals, and what it does with what is no question."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from architect.settings import PREFIX
from tests.webhook.asking import SERVICE, Asking, review
from tests.webhook.pods import container, patched, pod
from webhook import certificates, tls
from webhook.configuration import BY_NAMESPACE, BY_UNCLEAR_NAMESPACE
from webhook.metrics import Metrics
from webhook.server import app, listen


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    now = int(time.time())
    generation = certificates.make([SERVICE], now, begins=now)
    context = tls.context()
    tls.show(context, generation.certificate, generation.key)
    metrics = Metrics()
    listening = await listen(app(metrics, lambda: True), context, 0)
    yield Asking(listening.port, generation.authority)
    await listening.close()


async def test_a_labelled_pod_is_let_pass_with_a_patch(asking: Asking) -> None:
    answer = await asking.about(pod())
    assert answer["allowed"] is True
    assert patched(pod(), answer["patch"])["spec"]["runtimeClassName"] == "runc-architect"
    assert "warnings" not in answer


async def test_a_pod_that_did_not_ask_is_let_pass_as_it_is(asking: Asking) -> None:
    assert await asking.about(pod(label=None)) == {"uid": "6f1e", "allowed": True}


async def test_a_dry_run_is_answered_alike(asking: Asking) -> None:
    assert await asking.about(pod(), dryRun=True) == await asking.about(pod())


async def test_the_path_tells_what_the_namespace_says(asking: Asking) -> None:
    assert (await asking.about(pod(label=None), BY_NAMESPACE))["patch"]
    unclear = await asking.about(pod(label=None), BY_UNCLEAR_NAMESPACE)
    assert unclear["allowed"] is False


async def test_a_refusal_is_one_sentence_that_names_the_key(asking: Asking) -> None:
    answer = await asking.about(pod(annotations={"managed-containers": ["db"]}))
    assert answer["allowed"] is False
    assert answer["status"] == {
        "code": 422,
        "reason": "Invalid",
        "message": f"{PREFIX}managed-containers[0]: the pod has no container 'db'; it has app",
    }


async def test_warnings_come_with_the_answer_and_are_short(asking: Asking) -> None:
    answer = await asking.about(pod(annotations={"x" * 300: "1"}, owner="Job"))
    assert answer["allowed"] is True
    assert any("a Job does not finish" in warning for warning in answer["warnings"])
    assert all(len(warning) <= 256 for warning in answer["warnings"])


@pytest.mark.parametrize(
    "more",
    [
        {"kind": {"kind": "Deployment"}},
        {"operation": "UPDATE"},
        {"subResource": "ephemeralcontainers"},
        {"object": None},
    ],
)
async def test_what_is_no_new_pod_passes(asking: Asking, more: dict[str, Any]) -> None:
    assert await asking.about(pod(), **more) == {"uid": "6f1e", "allowed": True}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        json.dumps(review(pod()) | {"apiVersion": "admission.k8s.io/v1beta1"}).encode(),
        json.dumps(review(pod(), uid=7)).encode(),
        json.dumps({"apiVersion": "admission.k8s.io/v1"}).encode(),
    ],
)
async def test_what_is_no_review_is_answered_with_a_sentence(asking: Asking, body: bytes) -> None:
    status, answer = await asking.post("/mutate", body)
    assert status == 400
    assert answer["error"].startswith("this is no admission review: ")


async def test_a_body_that_no_pod_needs_is_not_read(asking: Asking) -> None:
    status, _ = await asking.post("/mutate", b" " * (9 << 20))
    assert status == 413


async def test_a_large_pod_with_a_history_of_managers_is_read(asking: Asking) -> None:
    given = pod(container(env=[{"name": f"V{n}", "value": "x" * 1000} for n in range(1500)]))
    deep: dict[str, object] = {}
    for _ in range(16):
        deep = {"f:x": deep}
    given["metadata"]["managedFields"] = [{"fieldsV1": deep}]
    assert (await asking.about(given))["patch"]


async def test_health_readiness_and_metrics_are_served(asking: Asking) -> None:
    await asking.about(pod())
    await asking.about(pod(label="x"))
    assert (await asking.get("/healthz"))[0] == 200
    assert (await asking.get("/readyz"))[0] == 200
    status, text = await asking.get("/metrics")
    assert status == 200
    assert 'architect_webhook_reviews_total{outcome="prepared"} 1.0' in text
    assert 'architect_webhook_reviews_total{outcome="refused"} 1.0' in text
    assert 'architect_webhook_reviews_total{outcome="untouched"} 0.0' in text


async def test_other_paths_and_methods_are_refused(asking: Asking) -> None:
    assert (await asking.get("/"))[0] == 404
    assert (await asking.get("/mutate"))[0] == 405


async def test_a_webhook_that_is_not_trusted_yet_is_not_ready() -> None:
    now = int(time.time())
    generation = certificates.make([SERVICE], now, begins=now)
    context = tls.context()
    tls.show(context, generation.certificate, generation.key)
    listening = await listen(app(Metrics(), lambda: False), context, 0)
    try:
        asking = Asking(listening.port, generation.authority)
        assert (await asking.get("/readyz"))[0] == 503
        assert (await asking.get("/healthz"))[0] == 200
    finally:
        await listening.close()


async def test_a_question_that_does_not_end_does_not_hold_up_others(asking: Asking) -> None:
    trusting = asking._tls
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", asking._port, ssl=trusting, server_hostname=SERVICE
    )
    writer.write(b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    assert (await asking.about(pod()))["allowed"]
    assert b" 408 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_plain_text_is_not_spoken(asking: Asking) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", asking._port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await writer.drain()
    assert b"200" not in await reader.read()
    writer.close()
