"""The daemon as a whole: one per node, from start to SIGTERM.

It holds nothing that a successor would miss. When it ends, the shims see their connections end and read their
queues themselves; its successor finds everything again.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Final

from aiohttp import web

from architect.files import make_private_dirs
from architect.program import Unable
from architect.room import Room
from architect.ttrpc import node_v1
from daemon import VERSION
from daemon.api import metrics_app, people_app, private_socket
from daemon.arguments import Settings
from daemon.discovery import Discovery
from daemon.held import Queue
from daemon.node import Node
from daemon.supervision import Tasks
from daemon.sweeping import Sweeping
from daemon.traffic import Kernel

SHIMS: Final = "shims"
API_SOCKET: Final = "architectd.sock"
_LOCK: Final = "architectd.lock"
_GRACE_SECONDS: Final = 0.5  # for requests under way when the daemon ends

log = logging.getLogger(__name__)


@asynccontextmanager
async def running(
    settings: Settings, kernel: Kernel, adopt: Callable[[int], Queue], room: Room | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    """The daemon runs within the block. The task ends only if it cannot go on. Raises Unable when it cannot
    start.
    """
    async with AsyncExitStack() as stack:
        try:
            make_private_dirs(settings.run_dir)
            stack.enter_context(_only_one(os.path.join(settings.run_dir, _LOCK)))
            shims = os.path.join(settings.run_dir, SHIMS)
            node = Node(shims, settings.restore_limit, kernel, adopt, room or Room())
            stack.push_async_callback(node.close)
            if settings.migration is None:
                _forget_moves(settings.run_dir)
            if settings.kubernetes:
                await _report(stack, node, settings)
            await _serve_people(stack, node, os.path.join(settings.run_dir, API_SOCKET))
            address = await _serve_metrics(stack, node, settings.metrics_address)
        except OSError as error:
            raise Unable(str(error)) from error
        tasks = Tasks()
        stack.push_async_callback(tasks.close)
        discovery = tasks.start("discovery", Discovery(shims, node.shim).run())
        tasks.start("sweeping", Sweeping(node, shims).run())
        log.info(
            "the daemon serves", extra={"version": VERSION, "run_dir": settings.run_dir, "metrics": address}
        )
        yield discovery


async def run(
    settings: Settings, stop: asyncio.Event, *, kernel: Kernel, adopt: Callable[[int], Queue]
) -> None:
    """Serves until `stop` is set. Raises Unable."""
    async with running(settings, kernel, adopt) as discovery:
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({stopped, discovery}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        if discovery.done() and not stop.is_set():
            raise Unable(
                f"the shims in {settings.run_dir}/{SHIMS} cannot be followed: {discovery.exception()}"
            )
    log.info("the daemon has ended; the shims carry on")


def _forget_moves(run_dir: str) -> None:
    """Removes the socket of a daemon before this one that took part in moves: nobody is to wait for it."""
    try:
        os.unlink(os.path.join(run_dir, os.path.basename(node_v1.SOCKET)))
    except FileNotFoundError:
        return


@contextmanager
def _only_one(path: str) -> Iterator[None]:
    """Holds the lock of the run directory: two daemons would take each other's queues away. Raises Unable."""
    with open(path, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unable(f"another architectd serves this node (it holds {path}); end it first") from None
        yield


async def _report(stack: AsyncExitStack, node: Node, settings: Settings) -> None:
    """Has Kubernetes told what becomes of this node's pods. Raises Unable."""
    # A daemon that reports to nobody does without all of this.
    from architect.kube import Client, NoAccess, in_cluster
    from architect.kube.kubeconfig import from_kubeconfig
    from daemon.kubernetes.reports import Reports

    try:
        access = from_kubeconfig(settings.kubeconfig) if settings.kubeconfig else in_cluster()
    except NoAccess as error:
        raise Unable(f"{error}; or serve without, with --kubernetes=off") from error
    client = await stack.enter_async_context(Client(access))
    reports = Reports(client, settings.node_name, node.containers)
    reports.start()
    stack.push_async_callback(reports.close)
    node.audience = reports
    node.metrics.reports_waiting.set_function(lambda: len(reports.rounds))
    node.metrics.connected.set_function(lambda: not reports.lost_because)
    node.metrics.events_dropped.set_function(lambda: reports.events.dropped)
    if settings.migration is not None:
        # gRPC is memory that a daemon without a control plane does not have to spend.
        from daemon.moving.service import start

        events = reports.events.happened
        moving = await start(
            stack, settings.migration, settings.run_dir, settings.node_name, node, client, events
        )
        node.kept = moving.leaving.kept
        reports.appeared = moving.arriving.appeared


async def _serve_people(stack: AsyncExitStack, node: Node, path: str) -> None:
    listener = stack.enter_context(private_socket(path))
    runner = await _runner(stack, people_app(node))
    await web.SockSite(runner, listener).start()


async def _serve_metrics(stack: AsyncExitStack, node: Node, address: tuple[str, int]) -> str:
    runner = await _runner(stack, metrics_app(node))
    try:
        await web.TCPSite(runner, *address, reuse_address=True).start()
    except OSError as error:
        raise Unable(f"{error}; choose another with --metrics-address") from error
    return " ".join(f"{host}:{port}" for host, port, *_ in runner.addresses)


async def _runner(stack: AsyncExitStack, app: web.Application) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GRACE_SECONDS)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner
