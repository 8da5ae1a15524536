"""What containers that are gone have left is removed; nothing that a shim may still want."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

from architect.images import claim
from architect.room import Room
from daemon.node import Node
from daemon.sweeping import KEPT_SECONDS, Sweeping
from tests.daemon.conftest import Box, until
from tests.daemon.fake_shim import container

ID = "c" * 64


def left(root: Path, uid: str) -> Path:
    """What a container has left long ago."""
    home = root / uid / "app"
    (home / "1.quarantined" / "criu").mkdir(parents=True)
    (home / "state.json").write_text("{}")
    for path in (home / "1.quarantined", home / "state.json", home):
        os.utime(path, (1_000, 1_000))
    return home


async def test_only_what_nobody_serves_is_swept_and_only_when_all_are_heard(box: Box, tmp_path: Path) -> None:
    root = tmp_path / "pods"
    node = Node(box.shims, 2, box.kernel, box.adopt, Room())
    clock = itertools.count(0.0, KEPT_SECONDS / 2)  # half a day from each look to the next
    sweeping = Sweeping(node, box.shims, str(root), clock=lambda: next(clock))
    gone, changed, served, claimed = (left(root, uid) for uid in ("gone", "changed", "uid-web", "claimed"))
    holder = claim(str(claimed))
    assert holder is not None
    async with box.shim("pod1", container(ID)) as shim:
        shim.identity = "default", "web", "uid-web"
        assert await sweeping.sweep() == [], "that shim is not heard yet"
        follower = node.shim("pod1")
        task = node.tasks.start("shim", follower.run())
        await until(lambda: follower.pod.uid == "uid-web")
        assert await sweeping.sweep() == [], "old as it is, its container may still come"
        assert await sweeping.sweep() == []
        os.utime(changed, (2_000, 2_000))
        assert await sweeping.sweep() == [str(gone)]
        assert await sweeping.sweep() == []
        assert await sweeping.sweep() == [str(changed)], "a day after it had changed"
        assert served.exists()
        assert claimed.exists()
        task.cancel()
    await node.close()
    os.close(holder)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(f"{box.shims}/deaf.sock")
        assert await sweeping.sweep() == []
