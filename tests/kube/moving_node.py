"""A node's daemon in a process of its own, below a directory of its own, beside a real control plane."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from architect.kube import Client
from tests.daemon.moving.shims import PlayedNode
from tests.kube import migrating
from tests.kube.apiserver import DAEMON, ApiServer, until
from tests.kube.migrating import Replica


@dataclass
class MovingNode(PlayedNode):
    """`start` and `kill` its daemon."""

    arguments: dict[str, Any] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        log = open(self.root / "daemon.log", "ab")  # noqa: SIM115
        with log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.kube.moving_node", json.dumps(self.arguments), stderr=log
            )
        await until(self.socket.exists)

    async def kill(self) -> None:
        """kill -9."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)

    async def _end(self, number: int) -> None:
        await self.hang_up()
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            await self.process.wait()

    def said(self) -> str:
        """The daemon's log."""
        return (self.root / "daemon.log").read_text(errors="replace")

    async def people(self, path: str) -> Any:
        """What the daemon answers to people."""
        connector = aiohttp.UnixConnector(str(self.root / "run" / "architectd.sock"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"http://architectd{path}") as answer,
        ):
            return await answer.json()


@asynccontextmanager
async def moving_node(
    name: str, root: Path, server: ApiServer, client: Client, control: Replica
) -> AsyncIterator[MovingNode]:
    """A node with a daemon that runs, and knows the control plane."""
    credentials = root / "credentials"
    credentials.mkdir(parents=True)
    (credentials / "token").write_text(await migrating.token(client, name))
    arguments = {
        "root": str(root),
        "name": name,
        "kubeconfig": server.kubeconfig(DAEMON, migrating.SYSTEM),
        "control": control.address,
        "newcomers": f"127.0.0.1:{control.ports['newcomers']}",
        "server_name": migrating.SERVICE,
        "patience": 30.0,
    }
    node = MovingNode(name, root, arguments=arguments)
    try:
        await node.start()
        yield node
    finally:
        await node.stop()


def main() -> None:
    """The process: the whole daemon, on the directories that it is told."""
    from architect.program import serve
    from daemon.arguments import Migration, Settings
    from daemon.kernel import NetnsKernel, adopt
    from daemon.moving import arriving, coming, leaving
    from daemon.moving.places import Places
    from daemon.service import run

    told = json.loads(sys.argv[1])
    # A machine that runs many tests at once may take longer than a node may.
    leaving.LEAVE_SECONDS = arriving.CLAIM_SECONDS = told["patience"]  # type: ignore[misc]
    coming.PATIENCE_SECONDS = told.get("waits", coming.PATIENCE_SECONDS)  # type: ignore[misc]
    root = told["root"]
    migration = Migration(
        control_plane=told["control"],
        certificates=told["newcomers"],
        server_name=told["server_name"],
        transfer_address=("127.0.0.1", 0),
        places=Places(state=f"{root}/state", kubelet=f"{root}/kubelet", host="/"),
        token=f"{root}/credentials/token",
    )
    settings = Settings(
        run_dir=f"{root}/run",
        metrics_address=("127.0.0.1", 0),
        kubernetes=True,
        node_name=told["name"],
        kubeconfig=told["kubeconfig"],
        migration=migration,
    )
    serve("daemon", "debug", lambda stop: run(settings, stop, kernel=NetnsKernel(), adopt=adopt))


if __name__ == "__main__":
    main()
