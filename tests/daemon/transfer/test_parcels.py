"""What a parcel is, when it is whole; offers, and the limit on bytes per second."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from architect import images
from architect.images import Facts, ImageDir
from daemon.transfer import Parcel, Shelf, contents
from daemon.transfer.following import follow
from daemon.transfer.frames import CHUNK
from daemon.transfer.pace import Pace
from tests.daemon.transfer.conftest import Nodes, content, parcel_of, proof


def image_in(root: Path) -> ImageDir:
    return images.begin(str(root / "images"), "uid", "app", 3)


async def test_a_checkpoint_image_arrives_as_an_image(tmp_path: Path, nodes: Nodes) -> None:
    """Followed while it was written, sealed, taken up where it arrived: it is proved by its own manifest."""
    image = image_in(tmp_path)
    parcel = Parcel()
    parcel.follow("image", image)
    engine = Path(image.engine_path)
    (engine / "pages-1.img").write_bytes(os.urandom(3 << 20))
    (engine / "stats-dump.tmp").write_bytes(b"passing")
    parcel.follow("image", image)
    (engine / "stats-dump.tmp").rename(engine / "stats-dump")
    (engine / "inventory.img").write_bytes(b"x")
    with parcel.writing("layer.pack", str(tmp_path / "layer.pack")) as output:
        output.write(b"a layer")
    images.seal(image, Facts("id", "default/pod", 3, "criu"))
    parcel.image("image", image)
    wanted = parcel.finish()

    received = await nodes.fetch(nodes.offer(parcel), digest=wanted)
    names = {"image/manifest.json", "layer.pack"}
    names |= {f"image/criu/{name}" for name in ("pages-1.img", "stats-dump", "inventory.img")}
    assert set(content(nodes.into)) == set(received.contents) == names
    there = ImageDir(str(tmp_path / "there"), "uid", "app", 3)
    Path(there.home).mkdir(parents=True)
    (nodes.into / "image").rename(there.path)
    assert images.verify(there) == images.read_manifest(image)


async def test_an_image_is_sent_while_the_engine_writes_it(tmp_path: Path, nodes: Nodes) -> None:
    image = image_in(tmp_path)
    parcel = Parcel()
    following = asyncio.ensure_future(follow(parcel, "image", image))
    half = asyncio.Event()
    fetching = asyncio.ensure_future(
        nodes.fetch(nodes.offer(parcel), progress=lambda done, _: half.set() if done >= 2 * CHUNK else None)
    )
    with open(f"{image.engine_path}/pages-1.img", "wb", buffering=0) as file:
        for _ in range(600):
            file.write(os.urandom(4096))
            await asyncio.sleep(0)
        async with asyncio.timeout(30):
            await half.wait()
        file.write(b"the end")
    images.seal(image, Facts("id", "default/pod", 3, "criu"))
    parcel.image("image", image)
    parcel.finish()
    Path(image.engine_path, "pages-1.img").touch()
    async with asyncio.timeout(30):
        await asyncio.gather(fetching, following)
    assert content(nodes.into)["image/criu/pages-1.img"].endswith(b"the end")


def test_a_parcel_is_finished_when_all_its_digests_are_known(tmp_path: Path) -> None:
    parcel = Parcel()
    with pytest.raises(ValueError, match="it is empty"):
        parcel.finish()
    parcel.add("a", str(tmp_path / "a"))
    with pytest.raises(ValueError, match="'a'"):
        parcel.finish()
    parcel.add("a", str(tmp_path / "a"), proof(b"x"))
    assert parcel.finish() == parcel.digest == contents.digest({"a": proof(b"x")})
    with pytest.raises(ValueError, match="the parcel is finished"):
        parcel.add("b", str(tmp_path / "b"))
    parcel.abandon("gone")
    assert parcel.look().failure == "gone"
    with pytest.raises(ValueError, match="the parcel is abandoned"):
        parcel.finish()


def test_the_digest_is_of_what_there_is_and_not_of_how_it_was_added() -> None:
    one, two = Parcel(), Parcel()
    one.add("a", "/a", proof(b"a"))
    for name in ("b", "a"):
        two.add(name, f"/elsewhere/{name}", proof(name.encode()))
    one.add("b", "/b", proof(b"b"))
    assert one.finish() == two.finish()


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "..", "a/../b", ".a", "a\n", "ä", "a" * 201, "a/" * 6 + "a"]
)
def test_names_that_could_lead_elsewhere_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="can not name"):
        Parcel().add(name, "/a")


def test_a_file_that_is_written_into_a_parcel_does_not_overwrite_another(tmp_path: Path) -> None:
    path = tmp_path / "pack"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError), Parcel().writing("pack", str(path)):
        pass
    assert path.read_bytes() == b"precious"


def test_what_fails_while_it_is_written_is_not_taken_for_whole(tmp_path: Path) -> None:
    parcel = Parcel()
    with pytest.raises(TypeError), parcel.writing("pack", str(tmp_path / "pack")) as output:
        output.write(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not complete"):
        parcel.finish()


def test_tickets_are_not_to_be_guessed_and_not_to_be_seen(tmp_path: Path) -> None:
    shelf = Shelf()
    parcel = parcel_of(tmp_path / "source", {"a": b""})
    offers = [shelf.offer(parcel, for_node="node-2", seconds=60) for _ in range(100)]
    assert len({offer.ticket for offer in offers}) == 100
    assert all(len(offer.ticket) == 43 for offer in offers)
    assert offers[0].ticket not in repr(offers[0])


def test_a_limit_is_kept_by_any_number_of_threads() -> None:
    waits: list[float] = []

    class Stopped(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            return False

    pace = Pace(1000)
    threads = [threading.Thread(target=pace.wait, args=(500, Stopped())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Nobody really waits here: the last one would have to until all 4000 bytes are paid, less the burst.
    assert 3.2 < max(waits) <= 3.75
    assert not Pace(0).limited
    with pytest.raises(ValueError, match="-1"):
        Pace(-1)
