"""Architect leaves a node: its pods' requests are what they were, and nothing is said of them any more.

Run on every node when the release is deleted (`installer/withdraw.py`), after the daemon has ended:
`python3 -m daemon.kubernetes.farewell --node-name=NAME`. Sleepers sleep on; their shims wake them without a
daemon, and nobody would give them back their requests then. So they get them now: the scheduler counts what
they will need. Where the node is too full kubelet defers the resize, and tries again by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import Final

from architect.kube import (
    ApiError,
    Client,
    Conflict,
    NoAccess,
    NotFound,
    Refused,
    in_cluster,
    pod_path,
    pods_path,
)
from daemon.kubernetes.pods import PodView, view
from daemon.kubernetes.steps import take
from daemon.kubernetes.wanted import Resize, State, next_step

_STEPS: Final = 8
"""For one pod; more are only needed when somebody else writes to it all the time."""


async def leave(client: Client, node: str) -> list[str]:
    """Says farewell to the pods of `node`; a sentence for each whose requests stay low. Raises ApiError."""
    pods = [view(each) for each in await client.all(pods_path(), fieldSelector=f"spec.nodeName={node}")]
    return [sentence for pod in pods if (sentence := await _leave(client, pod))]


async def _leave(client: Client, pod: PodView) -> str:
    uid, refusal = pod.uid, ""
    for _ in range(_STEPS):
        # As if they had ended: no label, and requests as they were.
        states = {container.name: State.ENDED for container in pod.containers}
        step = next_step(pod, states, may_raise=not refusal)
        if step is None or pod.uid != uid:
            break
        try:
            pod = await take(client, pod, step)
        except Conflict:
            pod = view(await client.get(pod_path(pod.namespace, pod.name)))
        except NotFound:
            break
        except Refused as error:
            if not isinstance(step, Resize):
                raise
            refusal = f"{pod.namespace}/{pod.name} keeps the requests of a sleeper: {error}"
    else:
        return refusal or f"{pod.namespace}/{pod.name} may keep the requests of a sleeper: others change it"
    return refusal


def main(argv: Sequence[str] | None = None) -> int:
    """Say farewell; the exit code."""
    parser = argparse.ArgumentParser("python3 -m daemon.kubernetes.farewell", description=__doc__)
    parser.add_argument("--node-name", required=True, metavar="NAME", help="this node's name in Kubernetes")
    node = parser.parse_args(argv).node_name
    try:
        said = asyncio.run(_main(node))
    except (ApiError, NoAccess) as error:
        sys.stderr.write(f"requests are not given back to the pods of {node}: {error}\n")
        return 1
    sys.stderr.writelines(f"{sentence}\n" for sentence in said)
    return 0


async def _main(node: str) -> list[str]:
    async with Client(in_cluster()) as client:
        return await leave(client, node)


if __name__ == "__main__":
    sys.exit(main())
