"""A container that is to go on with another's state, on the disk of the node that it comes to.

`arrival.json` says how far it is, so that a daemon that was killed is followed by one that knows: to whom the
state was given above all, for it is given once. Everything here blocks.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, Self

from architect.files import make_private_dirs, names, read_whole, remove_empty, write_whole
from architect.images import ImageDir, read_manifest
from architect.untrusted import Unreadable, parse
from daemon.moving import volumes
from daemon.moving.custody import LAYER, PARCEL
from daemon.moving.places import Places, checked
from daemon.transfer import Corrupt, discard, unpack

VERSION: Final = 1
RECORD: Final = "arrival.json"
FILLED: Final = ".filled."  # no container's name begins so
_FORGOTTEN_SECONDS: Final = 24 * 3600
_MAX_BYTES: Final = 1 << 20
_MAX_TEXT: Final = 4096

log = logging.getLogger(__name__)


class Step(StrEnum):
    """How far it is."""

    EXPECTED = "expected"
    HERE = "here"  # all of it, and nobody else gets it
    GIVEN = "given"  # to the shim of container `given_to`
    SETTLED = "settled"  # the control plane is to hear what became of it
    OVER = "over"  # and has


@dataclass(slots=True)
class Arrival:
    """Which container of which pod, whose state it gets, and what is known of that."""

    namespace: str
    pod: str
    pod_uid: str
    container: str
    migration: str
    source: str
    """The node that it comes from."""
    began: int
    """Unix seconds."""
    step: Step = Step.EXPECTED
    asleep: bool = False
    size: int = 0
    """Bytes."""
    freeze_us: int = 0
    image: str = ""
    """Below its directory."""
    layer: str = ""
    given_to: str = ""
    image_digest: str = ""
    """Of the image that its container was made from there, where that is known."""
    arrived: bool = False
    """Once it is settled: whether it goes on with that state."""
    reason: str = ""
    restore_us: int = 0

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Reads what `Arrivals.write` wrote. Raises Unreadable."""
        body = parse(data, limit=_MAX_BYTES)
        if body.member("version").integer() != VERSION:
            raise Unreadable("version", "is another program's")
        texts = (
            "namespace", "pod", "pod_uid", "container", "migration", "source", "image", "layer", "given_to",
            "reason", "image_digest",
        )  # fmt: skip
        step = body.member("step").text(limit=20)
        if step not in Step:
            raise Unreadable("step", "is none")
        found: dict[str, Any] = {name: body.member(name).text(limit=_MAX_TEXT) for name in texts}
        numbers = ("began", "size", "freeze_us", "restore_us")
        found |= {name: body.member(name).integer() for name in numbers}
        found |= {name: body.member(name).boolean() for name in ("asleep", "arrived")}
        return cls(**found, step=Step(step))


class Arrivals:
    """The directory `arriving` of a node."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def home(self, arrival: Arrival) -> str:
        """Its directory. Raises ValueError."""
        return f"{self._places.arriving}/{checked(arrival.pod_uid)}/{checked(arrival.container)}"

    def parcel(self, arrival: Arrival) -> str:
        """Where its parcel is, once all of it is here."""
        return f"{self.home(arrival)}/{PARCEL}"

    def write(self, arrival: Arrival) -> None:
        """Notes how far it is. Raises OSError, ValueError."""
        make_private_dirs(self.home(arrival))
        body = {"version": VERSION, **asdict(arrival)} | {"reason": arrival.reason[:_MAX_TEXT]}
        write_whole(f"{self.home(arrival)}/{RECORD}", json.dumps(body).encode(), durable=False)

    def found(self) -> list[Arrival]:
        """What a daemon before this one has left; what is of no use is removed."""
        found: list[Arrival] = []
        for pod_uid in names(self._places.arriving):
            above = f"{self._places.arriving}/{pod_uid}"
            for name in names(above):
                if name.startswith(FILLED):
                    if os.lstat(f"{above}/{name}").st_mtime + _FORGOTTEN_SECONDS < time.time():
                        os.unlink(f"{above}/{name}")
                elif (arrival := self._read(f"{above}/{name}")) is not None:
                    found.append(arrival)
            remove_empty(above, self._places.arriving)
        return found

    def forget(self, arrival: Arrival) -> None:
        """Removes what came. That nothing is there is no error. Raises OSError."""
        home = self.home(arrival)
        self.clear(arrival)
        try:
            shutil.rmtree(home)
        except FileNotFoundError:
            return
        remove_empty(os.path.dirname(home), self._places.arriving)

    def clear(self, arrival: Arrival) -> None:
        """Removes what came, but not what is noted of it. Raises OSError."""
        discard(self.parcel(arrival))
        for name in (PARCEL, "layer"):
            shutil.rmtree(f"{self.home(arrival)}/{name}", ignore_errors=False, onexc=_missing)

    def room(self) -> int:
        """Bytes that fit. Raises OSError."""
        make_private_dirs(self._places.arriving)
        about = os.statvfs(self._places.arriving)
        return about.f_bavail * about.f_frsize

    def unpack(self, arrival: Arrival) -> None:
        """Makes of a parcel what the shim is given: sets `image`, `layer` and `size`.

        Raises Corrupt and the other TransferErrors, ImageError, OSError, ValueError.
        """
        parcel, home = self.parcel(arrival), self.home(arrival)
        parts: list[str] = []
        for _ in range(3):  # pod, container, generation
            found = names("/".join([parcel, "image", *parts]))
            if len(found) != 1:
                raise Corrupt(f"the parcel holds {len(found)} images")
            parts += found
        image = ImageDir(f"{parcel}/image", parts[0], parts[1], int(parts[2]))
        if image.container != arrival.container:
            raise Corrupt(f"the parcel is that of a container {image.container}")
        read_manifest(image)
        arrival.image, arrival.layer = image.path.removeprefix(f"{home}/"), ""
        arrival.size = sum(
            os.lstat(f"{above}/{name}").st_size for above, _, files in os.walk(parcel) for name in files
        )
        pack = f"{parcel}/{LAYER}"
        if os.path.exists(pack):
            shutil.rmtree(f"{home}/layer", onexc=_missing)
            make_private_dirs(f"{home}/layer")
            unpack(pack, f"{home}/layer", layer=True, limit=os.stat(pack).st_size)
            arrival.layer = "layer"

    def fill(self, arrival: Arrival, names: Iterable[str]) -> None:
        """Fills those of the pod's volumes that came along, each once in the pod's life.

        Raises OSError, ValueError, TransferError.
        """
        for name in names:
            pack = f"{self.parcel(arrival)}/volumes/{checked(name)}.pack"
            mark = f"{os.path.dirname(self.home(arrival))}/{FILLED}{name}"
            if os.path.exists(pack) and not os.path.exists(mark):
                volumes.fill(self._places, arrival.pod_uid, name, pack, os.stat(pack).st_size)
                write_whole(mark, b"", durable=False)

    def _read(self, home: str) -> Arrival | None:
        try:
            arrival = Arrival.decode(read_whole(f"{home}/{RECORD}", _MAX_BYTES))
            if self.home(arrival) == home:
                return arrival
            reason = "it is another's"
        except (Unreadable, OSError, ValueError) as error:
            reason = str(error)
        log.warning("what was arriving is removed", extra={"path": home, "reason": reason})
        shutil.rmtree(home, ignore_errors=True)
        return None


def _missing(_what: object, _path: str, error: BaseException) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
