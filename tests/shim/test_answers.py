"""What a shadow port says while its container sleeps, to clients with and without manners."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.probes import Protocol
from shim import answers
from shim.passage import Plain, complaint

Answer = Callable[[Plain, bytes], Awaitable[None]]
SECONDS = 30.0


async def asleep(client: Plain, first: bytes) -> None:
    await answers.http(client, first, "200 OK", "asleep")


def talk(answer: Answer, *said: bytes) -> tuple[bytes, str]:
    """What a client gets that says this, then nothing more; and what the shim thinks of it."""
    ours, theirs = socket.socketpair()

    def client() -> bytes:
        got = b""
        with theirs:
            theirs.settimeout(SECONDS)
            try:
                for each in said[1:]:
                    theirs.sendall(each)
                theirs.shutdown(socket.SHUT_WR)
                while data := theirs.recv(1 << 16):
                    got += data
            except ConnectionError:
                pass
        return got

    async def serve() -> str:
        ours.setblocking(False)
        end = Plain(ours)
        try:
            await answer(end, said[0])
        except answers.Nonsense as error:
            return str(error)
        finally:
            end.close()
        return ""

    with ThreadPoolExecutor(1) as pool:
        got = pool.submit(client)
        thought = asyncio.run(serve())
        return got.result(), thought


@pytest.mark.parametrize("cut", [1, 5, 16, 17, 40])
def test_a_request_in_pieces_is_one_request(cut: int) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: pod\r\nUser-Agent: kube-probe\r\n\r\n"
    got, thought = talk(asleep, request[:cut], request[cut:])
    assert (got.startswith(b"HTTP/1.1 200 OK\r\n"), got.endswith(b"\r\n\r\nasleep\n"), thought) == (
        True,
        True,
        "",
    )


def test_head_gets_a_head() -> None:
    got, _ = talk(asleep, b"HEAD / HTTP/1.0\r\n\r\n")
    assert b"Content-Length: 7\r\n" in got
    assert got.endswith(b"\r\n\r\n")


def test_http_clients_understand_it() -> None:
    got, _ = talk(asleep, b"GET / HTTP/1.1\r\n\r\n")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(got)
        answer = http.client.HTTPResponse(theirs)
        answer.begin()
        assert (answer.status, answer.read()) == (200, b"asleep\n")
        answer.close()


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.booleans(), st.booleans())
def test_whatever_a_client_says_it_is_answered_or_let_go(said: list[bytes], grpc: bool, polite: bool) -> None:
    first = answers._PREFACE if grpc and polite else b""
    got, thought = talk(answers.serving if grpc else asleep, first + said[0], *said[1:])
    assert got or thought


@given(st.binary(max_size=100), st.sampled_from(Protocol))
def test_whatever_an_application_answers_it_is_judged(answer: bytes, protocol: Protocol) -> None:
    assert complaint(protocol, answer).isascii()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n", ""),
        (b"HTTP/1.0 302 Found\r\n", ""),
        (b"HTTP/1.1 503 Service Unavailable\r\n", "its last probe was answered '503'"),
        (b"", "its last probe got no answer"),
    ],
)
def test_kubelets_idea_of_well_is_ours(answer: bytes, said: str) -> None:
    assert complaint(Protocol.HTTP, answer) == said
