"""The serving shim: one process, one event loop, the containers of one pod."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from typing import Final

from architect.engine.children import Children
from architect.engine.criu_engine import CriuEngine
from architect.ttrpc import shim_v1
from architect.ttrpc.server import Server
from shim.control import ControlService
from shim.events import Publisher
from shim.journal import log_to_containerd
from shim.pod import Pod
from shim.post import Post
from shim.task import SERVICES, TaskService

CRIU_PATHS: Final = (
    os.path.dirname(os.path.dirname(os.path.realpath(__file__))) + "/bin/criu",  # the install's own
    "/opt/architect/criu/criu",
    "/usr/sbin/criu",
    "/usr/local/sbin/criu",
    "/usr/bin/criu",
)
_DRAIN_SECONDS: Final = 2.0

log = logging.getLogger(__name__)


def serve(post: Post, listener: socket.socket) -> None:
    """Serves until containerd says Shutdown; returns then. To be called in a process of its own."""
    log_to_containerd(os.path.join(post.bundle, "log"), debug=post.debug)
    asyncio.run(_serve(post, listener))


async def _serve(post: Post, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    children = Children(time.time_ns)
    children.start(loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, log.info, "ignoring a signal: a shim ends when its containers have")
    publisher = Publisher(post.events_address, post.namespace)
    criu = next((path for path in CRIU_PATHS if os.access(path, os.X_OK)), CRIU_PATHS[0])
    gate_path = post.socket_path.removesuffix(".sock") + ".gate"
    pod = Pod(post.namespace, children, CriuEngine(criu, children), publisher.publish, gate_path)
    task = TaskService(pod, done.set)
    services = {name: task.methods() for name in SERVICES}
    server = Server({**services, shim_v1.SERVICE: ControlService(pod).methods()})
    publishing = asyncio.create_task(publisher.run(), name="events")
    await server.start(listener)
    try:
        await done.wait()
        await publisher.drain(_DRAIN_SECONDS)
    finally:
        publishing.cancel()
        pod.close()
        await server.close()
        for path in (post.socket_path, gate_path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
