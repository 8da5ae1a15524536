"""Start and end of this node's part in moves."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from architect.kube import Client
from architect.kube.access import Renewed, read_token
from architect.migration.identity import Issuer
from architect.ttrpc import node_v1
from daemon.api import private_socket
from daemon.arguments import Migration
from daemon.moving.arriving import Arriving
from daemon.moving.calls import server
from daemon.moving.leaving import Leaving
from daemon.moving.link import Link
from daemon.moving.telling import MoveMetrics, Tell
from daemon.moving.trust import Trust
from daemon.node import Node
from daemon.supervision import Tasks

SOCKET: Final = os.path.basename(node_v1.SOCKET)


@dataclass(frozen=True, slots=True)
class Moving:
    """Both sides of it, on one node."""

    link: Link
    leaving: Leaving
    arriving: Arriving


async def start(
    stack: AsyncExitStack,
    settings: Migration,
    run_dir: str,
    node_name: str,
    node: Node,
    client: Client,
    tell: Tell,
) -> Moving:
    """Takes part until the stack ends. Raises OSError."""
    places = settings.places
    trust = Trust(client)
    issuer = _issuer(settings, trust)
    listen, pace = settings.transfer_address, settings.bytes_per_second
    link = Link(node_name, settings.control_plane, issuer, trust, listen, pace)
    stack.push_async_callback(link.close)
    metrics = MoveMetrics(node.metrics.registry)
    metrics.ready.set_function(lambda: link.ready)
    leaving = Leaving(link, places, client, node.containers.of_pod, tell, metrics)
    arriving = Arriving(link, places, client, tell, metrics)
    for each in (leaving, arriving):
        stack.push_async_callback(each.close)
        await each.start()
    answering = server(leaving, arriving)
    listener = private_socket(os.path.join(run_dir, SOCKET))
    # It stays when this daemon ends: shims wait for the next one, and where there is none they ask nobody.
    stack.push_async_callback(answering.close)
    await answering.start(listener)
    tasks = Tasks()
    stack.push_async_callback(tasks.close)
    tasks.start("identity", link.run())
    return Moving(link, leaving, arriving)


def _issuer(settings: Migration, trust: Trust) -> Issuer:
    token = Renewed(settings.token, read_token)
    return Issuer(settings.certificates, settings.server_name, trust.get, token.get)
