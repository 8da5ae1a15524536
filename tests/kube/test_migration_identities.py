"""Who may speak to the control plane, and as whom: tokens, certificates, and authorities that change."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from architect import generations
from architect.kube import ApiError, Client
from architect.migration import identity, methods
from architect.migration.client import ControlPlane, Refused, Unavailable
from architect.migration.request import new_request
from architect.migration.v1 import migration_pb2 as v1
from controlplane import authorities
from controlplane.authorities import Authority
from controlplane.keeping import Keeper
from tests.kube import migrating
from tests.kube.migrating import SERVICE, SYSTEM, Replica

NOBODY = v1.ClaimRequest(pod=v1.Pod(namespace="none", name="none", uid="none"), container="app")


async def answered(at: Replica, who: identity.Identity) -> str:
    """The status of a question that is only refused for its content, if who asks is believed."""
    async with ControlPlane(at.address, SERVICE, who) as calls:
        try:
            async for _ in calls.stream(methods.CLAIM, NOBODY, patience=3.0):
                return "OK"
        except Refused as error:
            return str(error.code.name)
        except Unavailable:
            return "UNAVAILABLE"
    return "nothing"


async def test_a_node_gets_a_certificate_for_itself(client: Client, control: Replica) -> None:
    who = await migrating.identified(client, control, "node-1")
    assert who.node == "node-1"
    certificate = x509.load_pem_x509_certificate(who.certificate.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node-1"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["architect://node/node-1"]
    assert 0 < who.renew_seconds < authorities.CERTIFICATE_SECONDS
    assert await answered(control, who) == "FAILED_PRECONDITION"


@pytest.mark.parametrize("kind", ["another account", "another audience", "no pod", "garbage"])
async def test_a_token_that_is_not_of_a_nodes_pod_gets_none(
    client: Client, control: Replica, kind: str
) -> None:
    match kind:
        case "another account":
            token = await migrating.token(client, "node-1", account="another")
        case "another audience":
            token = await migrating.token(client, "node-1", audience="https://here")
        case "no pod":
            path = f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/architectd/token"
            asked = await client.create(path, {"spec": {"audiences": [methods.AUDIENCE]}})
            token = asked["status"]["token"]
        case _:
            token = "a.b.c"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await identity.certified(await migrating.issuer(client, control, token))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def foreign_request() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, None)
    return request.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("request_", [b"", b"\x30\x00", foreign_request()])
async def test_a_request_that_is_none_gets_none(
    client: Client, control: Replica, request_: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> tuple[str, bytes]:
        return "", request_

    monkeypatch.setattr(identity, "new_request", ask)
    asked = await migrating.issuer(client, control, await migrating.token(client, "node-1"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await identity.certified(asked)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def foreign(now: int, node: str) -> tuple[Authority, str, str]:
    """An authority that nobody trusts, and a certificate of it with its key."""
    authority = authorities.make(now, begins=now)
    key, request = new_request()
    return authority, authorities.for_node(authority, node, request, now), key.decode()


async def test_whom_no_authority_of_ours_vouches_for_is_not_heard(client: Client, control: Replica) -> None:
    who = await migrating.identified(client, control, "node-1")
    now = int(asyncio.get_running_loop().time()) + 1_800_000_000
    _, certificate, key = foreign(now, "node-1")
    assert (
        await answered(control, dataclasses.replace(who, certificate=certificate, key=key)) == "UNAVAILABLE"
    )
    plain = grpc.ssl_channel_credentials(who.authorities.encode())
    options = (("grpc.ssl_target_name_override", SERVICE),)
    async with grpc.aio.secure_channel(control.address, plain, options) as channel:
        call: Any = channel.unary_unary(methods.TAKE.path)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"", timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_of_ours_that_is_no_nodes_is_not_enough(client: Client, control: Replica) -> None:
    who = await migrating.identified(client, control, "node-1")
    found = await client.get(f"/api/v1/namespaces/{SYSTEM}/secrets/architect-migration")
    known = authorities.loaded(decoded(found["data"]["authorities.json"]))
    now = max(each.made for each in known)
    ours = authorities.for_service(known[0], ["somebody"], now)
    theirs = dataclasses.replace(who, certificate=ours.certificate, key=ours.key)
    assert await answered(control, theirs) == "PERMISSION_DENIED"


async def test_a_control_plane_that_is_not_ours_is_not_asked(client: Client, control: Replica) -> None:
    who = await migrating.identified(client, control, "node-1")
    authority, _, _ = foreign(1_800_000_000, "node-1")
    assert (
        await answered(control, dataclasses.replace(who, authorities=authority.certificate)) == "UNAVAILABLE"
    )
    async with ControlPlane(control.address, "another.name.svc", who) as calls:
        with pytest.raises(Unavailable):
            await calls.call(methods.LEAVE, v1.LeaveRequest(), timeout=2.0)


async def test_replicas_agree_on_authorities_and_a_new_one_signs_when_all_trust_it(
    client: Client, namespace: str
) -> None:
    now = 1_800_000_000
    shown: dict[int, list[Authority]] = {}

    def keeper(number: int) -> Keeper:
        def show(found: list[Authority]) -> None:
            shown[number] = found

        return Keeper(client, namespace, "race", show, clock=lambda: now)

    keepers = [keeper(number) for number in range(3)]

    async def together() -> None:
        while True:
            results = await asyncio.gather(*(each.look() for each in keepers), return_exceptions=True)
            assert all(each is None or isinstance(each, ApiError) for each in results), results
            if not any(results):
                return

    await together()
    assert shown[0] == shown[1] == shown[2]
    first = shown[0][0]
    now += authorities.LIFE_SECONDS * 2 // 3
    await together()
    assert shown[0] == shown[1] == shown[2]
    assert len(shown[0]) == 2
    assert generations.in_use(shown[0], now) == first
    trusted = await client.get(f"/api/v1/namespaces/{namespace}/configmaps/race")
    assert trusted["data"]["ca.crt"].count("BEGIN CERTIFICATE") == 2
    # Who was signed for by the old one at the last moment is trusted for as long as that lives.
    now += authorities.SETTLE_SECONDS
    assert generations.in_use(shown[0], now) == shown[0][1]
    assert authorities.SETTLE_SECONDS >= authorities.CERTIFICATE_SECONDS
    assert first.ends > now + authorities.CERTIFICATE_SECONDS
    now = first.ends + 1
    await together()
    assert first not in shown[0]


async def test_a_secret_that_was_deleted_or_spoilt_is_made_anew(client: Client, namespace: str) -> None:
    shown: list[list[Authority]] = []
    keeper = Keeper(client, namespace, "kept", shown.append)
    await keeper.look()
    path = f"/api/v1/namespaces/{namespace}/secrets/kept"
    await client.delete(path)
    await keeper.look()
    assert shown[1] == shown[0]
    await client.patch(path, {"data": {"authorities.json": "Ww=="}})
    await keeper.look()
    assert shown[2] == shown[0]


def decoded(text: str) -> str:
    import base64

    return base64.b64decode(text).decode()


def test_a_request_for_another_key_than_it_is_signed_with_is_refused() -> None:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    der = serialization.Encoding.DER
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    forged = request.public_bytes(der).replace(
        key.public_key().public_bytes(der, form), other.public_key().public_bytes(der, form)
    )
    authority = authorities.make(1_800_000_000, begins=0)
    with pytest.raises(authorities.Unsigned, match="not signed"):
        authorities.for_node(authority, "node-1", forged, 1_800_000_000)
