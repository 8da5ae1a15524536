"""Who may fetch what: certificates, names, tickets. Whoever may not gets a sentence, and leaves nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from daemon.transfer import Corrupt, Credentials, NoSpace, Refused, Server, Shelf
from daemon.transfer.credentials import end
from daemon.transfer.frames import CHUNK, VERSION, Channel, Frame, Kind
from daemon.transfer.server import MAX_CONNECTIONS, MAX_STRANGERS
from tests.daemon.transfer.conftest import (
    SOURCE,
    TARGET,
    Nodes,
    content,
    credentials,
    left,
    line,
    parcel_of,
    serving,
)

FILES = {"pages": os.urandom(2 * CHUNK)}


def stranger() -> Credentials:
    """Certified by another authority, and believing ours."""
    other = credentials(TARGET, "a stranger's")
    return Credentials(other.certificate, other.key, credentials(TARGET).authority)


REFUSALS = {
    "another authority's certificate": ({"credentials": stranger}, "does not trust this node's certificate"),
    "another node's certificate": ({"credentials": lambda: credentials("node-3")}, "made for another node"),
    "a certificate for several nodes": (
        {"credentials": lambda: credentials("many", alternatives=("DNS:node-2", "DNS:node-3"))},
        "has 2 DNS names",
    ),
    "a source of another authority": (
        {"credentials": lambda: credentials(TARGET, "a stranger's")},
        "certificate is not to be trusted",
    ),
    "a source that is another node": ({"node": "node-9"}, "is node node-1, not node-9"),
    "credentials that are none": ({"credentials": lambda: Credentials("x", "y", "z")}, "can not be used"),
}


@pytest.mark.parametrize(("changed", "sentence"), REFUSALS.values(), ids=REFUSALS.keys())
async def test_who_is_not_meant_gets_nothing(
    nodes: Nodes, tmp_path: Path, changed: dict[str, Any], sentence: str
) -> None:
    offer = nodes.offer(parcel_of(tmp_path / "source", FILES))
    made = {name: value() if callable(value) else value for name, value in changed.items()}
    with pytest.raises(Refused, match=sentence):
        await nodes.fetch(offer, **made)
    assert offer.sent == 0
    assert left(tmp_path) == []
    await nodes.fetch(offer)
    assert content(nodes.into) == FILES


async def test_without_a_certificate_there_is_no_answer(nodes: Nodes) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=credentials(SOURCE).authority)
    context.set_alpn_protocols(["architect-transfer/1"])
    reader, writer = await asyncio.open_connection("127.0.0.1", nodes.port, ssl=context)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await reader.readexactly(1)
    writer.transport.abort()


async def test_nothing_older_than_tls_1_3_is_spoken(nodes: Nodes) -> None:
    context = credentials(TARGET).client()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", nodes.port, ssl=context)


async def test_a_ticket_is_spent_when_its_parcel_was_taken(nodes: Nodes, tmp_path: Path) -> None:
    offer = nodes.offer(parcel_of(tmp_path / "source", FILES))
    await nodes.fetch(offer)
    with pytest.raises(Refused, match="nothing that is here"):
        await nodes.fetch(offer, into=str(tmp_path / "arrived-again"))
    assert left(tmp_path) == ["arrived"]


@pytest.mark.parametrize("ticket", ["", "x" * 43, "\udcff", "1" * 201])
async def test_a_guessed_ticket_is_for_nothing(nodes: Nodes, tmp_path: Path, ticket: str) -> None:
    nodes.offer(parcel_of(tmp_path / "source", FILES))
    with pytest.raises(Refused, match=r"nothing that is here|200 are allowed|can not be read"):
        await nodes.fetch(ticket)


async def test_an_expired_ticket_is_refused_and_swept(nodes: Nodes, tmp_path: Path) -> None:
    offer = nodes.offer(parcel_of(tmp_path / "source", FILES), seconds=0)
    with pytest.raises(Refused, match="has expired"):
        await nodes.fetch(offer)
    assert nodes.shelf.sweep() == [offer]
    assert nodes.shelf.sweep() == []
    assert offer.taken.cancelled()
    assert content(tmp_path / "source") == {"0": FILES["pages"]}


async def test_a_withdrawn_offer_ends_the_connection_that_serves_it(tmp_path: Path) -> None:
    half = asyncio.Event()
    async with serving(tmp_path, bytes_per_second=CHUNK) as nodes:
        offer = nodes.offer(parcel_of(tmp_path / "source", FILES))
        fetching = asyncio.ensure_future(nodes.fetch(offer, progress=lambda *_: half.set()))
        async with asyncio.timeout(30):
            await half.wait()
        nodes.shelf.withdraw(offer)
        with pytest.raises(Refused, match="nothing that is here"):
            await fetching
        assert offer.taken.cancelled()
    assert left(tmp_path) == []


async def test_a_second_connection_with_a_ticket_takes_the_place_of_the_first(tmp_path: Path) -> None:
    """The first may be one that broke, and that the source has not been told of."""
    async with serving(tmp_path, bytes_per_second=8 * CHUNK) as nodes:
        offer = nodes.offer(parcel_of(tmp_path / "source", {"pages": os.urandom(4 * CHUNK)}))
        held: list[bytes] = []
        stuck = asyncio.Event()

        def swallow(data: bytes, position: int) -> bytes:
            if position < 10_000:
                return data
            held.append(data)
            stuck.set()
            return b""

        async with line(nodes.port, swallow) as (port, _):
            first = asyncio.ensure_future(nodes.fetch(offer, port=port, into=str(tmp_path / "first")))
            async with asyncio.timeout(30):
                await stuck.wait()
            await nodes.fetch(offer)
            with pytest.raises(Refused, match="nothing that is here"):
                await first
    assert len(content(nodes.into)["pages"]) == 4 * CHUNK


async def test_another_parcel_than_announced_is_refused(nodes: Nodes, tmp_path: Path) -> None:
    offer = nodes.offer(parcel_of(tmp_path / "source", FILES))
    with pytest.raises(Corrupt, match="was announced"):
        await nodes.fetch(offer, digest="0" * 64)
    assert left(tmp_path) == []
    assert not offer.taken.done()


async def test_more_than_was_announced_is_refused(nodes: Nodes, tmp_path: Path) -> None:
    offer = nodes.offer(parcel_of(tmp_path / "source", FILES))
    with pytest.raises(NoSpace, match="larger than the 1048576 bytes"):
        await nodes.fetch(offer, limit=CHUNK)
    assert left(tmp_path) == []


async def test_a_file_damaged_at_the_source_is_never_believed(nodes: Nodes, tmp_path: Path) -> None:
    parcel = parcel_of(tmp_path / "source", FILES)
    with (tmp_path / "source" / "0").open("r+b") as file:
        file.seek(CHUNK)
        file.write(b"damage")
    with pytest.raises(Corrupt, match="pages has changed at byte 0 or after"):
        await nodes.fetch(nodes.offer(parcel))
    assert left(tmp_path) == []


@pytest.mark.parametrize("become", ["shorter", "gone", "a link", "a pipe"])
async def test_a_file_that_is_no_longer_there_is_said(nodes: Nodes, tmp_path: Path, become: str) -> None:
    parcel = parcel_of(tmp_path / "source", FILES)
    path = tmp_path / "source" / "0"
    if become == "shorter":
        os.truncate(path, 5)
    else:
        path.rename(tmp_path / "other")
    if become == "a link":
        path.symlink_to(tmp_path / "other")
    if become == "a pipe":
        os.mkfifo(path)
    with pytest.raises(Refused, match="the source: "):
        await nodes.fetch(nodes.offer(parcel), seconds=20)
    assert left(tmp_path) == []


async def test_renewed_credentials_are_for_the_next_connections(nodes: Nodes, tmp_path: Path) -> None:
    nodes.server.renew(credentials(SOURCE, "the next authority's"))
    with pytest.raises(Refused, match="can not be used"):
        nodes.server.renew(Credentials("", "", ""))
    offer = nodes.offer(parcel_of(tmp_path / "source", FILES))
    with pytest.raises(Refused, match="not to be trusted"):
        await nodes.fetch(offer)
    await nodes.fetch(offer, credentials=credentials(TARGET, "the next authority's"))


async def test_those_who_say_nothing_keep_nobody_out_for_long(tmp_path: Path) -> None:
    async with serving(tmp_path, patience=1) as nodes:
        offer = nodes.offer(parcel_of(tmp_path / "source", FILES))
        with ExitStack() as mute:
            for _ in range(MAX_STRANGERS + 3):
                mute.enter_context(socket.create_connection(("127.0.0.1", nodes.port)))
            received = await nodes.fetch(offer)  # they are hung up on after some seconds
    assert content(nodes.into) == FILES
    assert received.seconds < 30


async def test_those_who_say_nothing_keep_out_nobody_of_another_address(nodes: Nodes, tmp_path: Path) -> None:
    offer = nodes.offer(parcel_of(tmp_path / "source", FILES))
    with ExitStack() as mute:
        for _ in range(MAX_CONNECTIONS + 3):
            pod = socket.create_connection(("127.0.0.1", nodes.port), source_address=("127.0.0.2", 0))
            mute.enter_context(pod)
        received = await nodes.fetch(offer)
    assert content(nodes.into) == FILES
    assert received.connections == 1


QUESTIONS = {
    "no JSON": b"{",
    "no object": b"[]",
    "a negative size": b'{"ticket":"x","compression":[],"have":{"a":-1}}',
    "a name that climbs": b'{"ticket":"x","compression":[],"have":{"../a":1}}',
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
async def test_a_question_that_can_not_be_read_is_refused(nodes: Nodes, question: bytes) -> None:
    def ask() -> Frame:
        context = credentials(TARGET).client()
        raw = socket.create_connection(("127.0.0.1", nodes.port))
        with context.wrap_socket(raw) as secure:
            channel = Channel(secure, patience=20, until=time.monotonic() + 20)
            assert channel.expect(Kind.HELLO).value == VERSION
            channel.send(Frame(Kind.ASK, payload=question))
            return channel.receive()

    assert (await asyncio.to_thread(ask)).kind == Kind.REFUSED


async def test_a_server_that_closes_waits_for_nobody() -> None:
    server = Server(Shelf(), credentials(SOURCE))
    port = server.start("127.0.0.1")
    with socket.create_connection(("127.0.0.1", port)) as mute:
        async with asyncio.timeout(5):
            await server.close()
        end(mute)
