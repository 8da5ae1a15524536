"""What a real container leaves behind arrives on the other side of a transfer: its memory wakes, its files
are there.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from architect import images
from architect.images import ImageDir
from architect.inotify import CREATE, Inotify
from daemon.transfer import Credentials, Parcel, Received, Server, Shelf, Source, fetch, follow, pack, unpack
from hack.certificates import Authority
from hack.control import hibernate, status, wake
from hack.cri import Container
from tests.node.asking import PODS, get, images_of
from tests.node.conftest import Run

SECONDS = 100.0
CHANGES = """
import os
os.makedirs("/srv/kept/deep")
open("/srv/kept/deep/file", "w").write("of the container")
os.link("/srv/kept/deep/file", "/srv/link")
os.symlink("/app", "/srv/symlink")
os.unlink("/etc/debian_version") if os.path.exists("/etc/debian_version") else None
os.unlink("/app/service.py")
os.chmod("/app/web.py", 0o640)
os.mkfifo("/srv/pipe")
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory on the disk that images are on."""
    path = PODS.parent / "transfer"
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path)


def layers(app: Container) -> tuple[str, str]:
    """The lower directories and the upper one of a container's root file system."""
    table = Path(f"/proc/{app.pid}/mountinfo").read_text(encoding="utf-8").splitlines()
    root = next(line for line in table if line.split()[4] == "/")
    found = re.search(r"lowerdir=([^,]+),upperdir=([^,]+)", root)
    assert found
    return found[1], found[2]


async def sent(parcel: Parcel, place: Path) -> Received:
    """Fetches a parcel over loopback, as another node would."""
    authority = Authority(str(place / "ca"))
    for node in ("node-1", "node-2"):
        authority.issue(node, f"/CN={node}", [f"DNS:{node}"])

    def credentials(node: str) -> Credentials:
        names = (place / "ca" / name for name in (f"{node}.crt", f"{node}.key", "ca.crt"))
        return Credentials(*(name.read_text(encoding="ascii") for name in names))

    shelf = Shelf()
    server = Server(shelf, credentials("node-1"))
    try:
        offer = shelf.offer(parcel, for_node="node-2", seconds=SECONDS)
        source = Source("127.0.0.1", server.start("127.0.0.1"), "node-1", offer.ticket)
        into = str(place / "arrived")
        return await fetch(source, credentials("node-2"), into=into, limit=1 << 30, seconds=SECONDS)
    finally:
        await server.close()


def test_a_sleeper_wakes_from_an_image_that_was_sent(run: Run, place: Path) -> None:
    app = run(env={"HEAP_MB": "40"})
    assert get(app) == "1"
    hibernate(app)
    path = images_of(app)[0]
    parcel = Parcel()
    parcel.image("image", ImageDir.at(str(path)))
    parcel.finish()
    received = asyncio.run(sent(parcel, place))
    shutil.rmtree(path)
    Path(received.path, "image").rename(path)
    images.verify(ImageDir.at(str(path)))
    wake(app)
    assert get(app) == "2"
    assert status(app).failures == []


def test_an_image_is_sent_while_criu_writes_it(run: Run, place: Path) -> None:
    app = run(env={"HEAP_MB": "100"})
    home = PODS / app.pod.uid / app.name
    home.mkdir(parents=True, exist_ok=True)

    async def story() -> Received:
        parcel = Parcel()
        with Inotify(str(home), CREATE) as watch:
            fetching = asyncio.ensure_future(sent(parcel, place))
            sleeping = asyncio.ensure_future(asyncio.to_thread(hibernate, app))
            async with asyncio.timeout(SECONDS):
                while not (name := (await watch.next()).name).isdecimal():
                    continue
                image = ImageDir.at(str(home / name))
                with Inotify(image.path, CREATE) as made:
                    if not Path(image.engine_path).is_dir():
                        await made.next()
        following = asyncio.ensure_future(follow(parcel, "image", image))
        await sleeping
        following.cancel()
        parcel.image("image", image)
        parcel.finish()
        return await fetching

    received = asyncio.run(story())
    assert received.bytes > 100 << 20
    there = images_of(app)[0]
    assert images.read_manifest(ImageDir.at(str(there))).bytes < received.bytes  # and the manifest itself
    shutil.rmtree(there)
    Path(received.path, "image").rename(there)
    wake(app)
    assert get(app) == "1"


def test_a_container_s_changes_to_its_files_are_the_same_over_there(run: Run, place: Path) -> None:
    app = run()
    assert app.exec("/usr/bin/python3", "-c", CHANGES).exit_code == 0
    lower, upper = layers(app)
    parcel = Parcel()
    with parcel.writing("layer.pack", str(place / "layer.pack")) as output:
        packed = pack(upper, output, layer=True)
    parcel.finish()
    received = asyncio.run(sent(parcel, place))
    arrived = place / "upper"
    arrived.mkdir()
    unpack(f"{received.path}/layer.pack", str(arrived), layer=True, limit=1 << 30)
    assert packed.notes == []
    ours, theirs = seen(place, lower, upper), seen(place, lower, str(arrived))
    assert ours == theirs
    assert "srv/kept/deep/file" in ours
    assert "app/service.py" not in ours
    assert ours["srv/link"][-1] == 2


def seen(place: Path, lower: str, upper: str) -> dict[str, tuple[object, ...]]:
    """Everything in a container's root file system, read through an overlay of our own of a copy of its
    layer.
    """
    copy, work, merged = (place / name for name in ("copy", "work", "merged"))
    subprocess.run(["cp", "-a", upper, copy], check=True, timeout=60)
    for path in (work, merged):
        path.mkdir()
    options = f"lowerdir={lower},upperdir={copy},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True, timeout=20)
    try:
        found: dict[str, tuple[object, ...]] = {}
        for path in merged.rglob("*"):
            status = path.lstat()
            regular = stat.S_ISREG(status.st_mode)
            content = path.read_bytes() if regular and status.st_size < 1 << 20 else status.st_size
            facts = status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content
            found[str(path.relative_to(merged))] = *facts, status.st_nlink if regular else 0
        return found
    finally:
        subprocess.run(["umount", merged], check=True, timeout=20)
        for path in (copy, work, merged):
            shutil.rmtree(path)
