"""What has left, on this node's disk: taken from the shims, found again after a restart, kept, dropped.

A part is whole when its `part.json` is there, which is written last. An image's files are linked, so that its
shim may remove them; what containers can write to is packed. Everything here blocks.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from architect.files import make_private_dirs, names, read_whole, write_whole
from architect.images import ImageDir, read_manifest
from architect.images.layout import MANIFEST, PART
from architect.untrusted import Unreadable
from daemon.moving import hostfiles, volumes
from daemon.moving.parts import MAX_BYTES, Departure, Part
from daemon.moving.places import Places, checked
from daemon.transfer import Parcel, TooLate, pack
from daemon.transfer.contents import digest
from daemon.transfer.parcel import Writing

POD: Final = "pod.json"
PARCEL: Final = "parcel"
LAYER: Final = "layer.pack"
GRACE_SECONDS: Final = 600
"""From when nobody can ask for a kept copy any more until it is removed."""
_MAX_NOTES: Final = 100

log = logging.getLogger(__name__)


class Custody:
    """The directories `leaving` and `kept` of a node."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def begin(self, departure: Departure) -> None:
        """Notes that a pod leaves. Raises OSError, ValueError."""
        home = self._home(self._places.leaving, departure.namespace, departure.migration)
        make_private_dirs(home)
        write_whole(f"{home}/{POD}", departure.encode(), durable=False)

    def take(self, departure: Departure, left: Left, until: float, parcel: Parcel | None = None) -> Part:
        """Saves a container; the one that was saved before, if it was. `until`: by the monotonic clock.
        `parcel`: what has been sent of its image already; it is finished when the container is saved.

        Raises OSError, ValueError, ImageError, TransferError: nothing is left here then.
        """
        parcel = parcel or Parcel()
        home = self._part_home(self._places.leaving, departure, left.container)
        if (known := self._read(home)) is not None:
            return known
        _remove(home)
        try:
            part = self._save(home, departure, left, until, parcel)
            write_whole(f"{home}/{PART}", part.encode(), durable=False)
            parcel.finish()  # last: who has all of it may run it
        except BaseException:
            _remove(home)
            raise
        return part

    def parcel(self, part: Part) -> Parcel:
        """What is sent of it. Raises ValueError."""
        parcel = Parcel()
        for name, file in part.files.items():
            parcel.add(name, f"{self.directory(part)}/{PARCEL}/{name}", file)
        parcel.finish()
        return parcel

    def directory(self, part: Part) -> str:
        """Where it lies."""
        return self._part_home(
            self._places.kept if part.kept_until else self._places.leaving, part, part.container
        )

    def image(self, part: Part) -> ImageDir:
        """Its image."""
        root = f"{self.directory(part)}/{PARCEL}/image"
        return ImageDir(root, part.pod_uid, part.container, part.generation)

    def drop(self, part: Part) -> None:
        """Removes it for good. Raises OSError."""
        _remove(self.directory(part))

    def keep(self, part: Part, reason: str, until: float) -> Part:
        """Puts it where nobody fetches it, until then (Unix seconds). Raises OSError."""
        kept = part.until(int(until), reason)
        before, after = self._part_home(self._places.leaving, part, part.container), self.directory(kept)
        make_private_dirs(os.path.dirname(after))
        _remove(after)
        write_whole(f"{before}/{PART}", kept.encode(), durable=True)
        os.rename(before, after)
        return kept

    def end(self, departure: Departure) -> None:
        """All of it is over: removes what is left of its directory but parts. Raises OSError."""
        home = self._home(self._places.leaving, departure.namespace, departure.migration)
        for name in names(home):
            if not os.path.exists(f"{home}/{name}/{PART}"):
                _remove(f"{home}/{name}")
        for path in (home, os.path.dirname(home)):
            try:
                os.rmdir(path)
            except OSError:
                return  # other migrations', or a part that is kept where it is

    def departures(self) -> Iterator[tuple[Departure, list[Part]]]:
        """What was leaving when the daemon before this one ended."""
        for home in _homes(self._places.leaving):
            try:
                departure = Departure.decode(read_whole(f"{home}/{POD}", 1 << 20))
                found = [self._found(departure, name) for name in departure.volumes]
            except (Unreadable, OSError) as error:
                log.warning("what was leaving can not be read", extra={"path": home, "reason": str(error)})
                continue
            yield departure, [part for part in found if part is not None]

    def kept(self) -> list[Part]:
        """What is kept, the oldest first."""
        homes = (f"{home}/{name}" for home in _homes(self._places.kept) for name in names(home))
        found = (self._read(home) for home in homes)
        return sorted((part for part in found if part is not None), key=lambda part: part.saved)

    def sweep(self, now: float) -> float:
        """Removes what was kept long enough; returns when the next is due (Unix seconds), or 0."""
        due: list[int] = []
        for part in self.kept():
            if part.kept_until + GRACE_SECONDS > now:
                due.append(part.kept_until + GRACE_SECONDS)
                continue
            log.info("a copy is not kept any longer", extra={"copy": part.reference})
            self.drop(part)
            for path in self._above(part):
                try:
                    os.rmdir(path)
                except OSError:
                    break
        return min(due, default=0)

    def _above(self, part: Part) -> tuple[str, str]:
        home = os.path.dirname(self.directory(part))
        return home, os.path.dirname(home)

    def _save(self, home: str, departure: Departure, left: Left, until: float, parcel: Parcel) -> Part:
        source = left.image
        target = ImageDir(f"{home}/{PARCEL}/image", source.pod_uid, source.container, source.generation)
        manifest = read_manifest(source)
        make_private_dirs(target.engine_path)
        for name in (*manifest.files, MANIFEST):
            os.link(f"{source.path}/{name}", f"{target.path}/{name}", follow_symlinks=False)
        parcel.image(prefix(source), target)
        notes: list[str] = []

        def packed(name: str, path: str, *, layer: bool) -> None:
            with parcel.writing(name, f"{home}/{PARCEL}/{name}") as out:
                notes.extend(pack(path, _Until(out, until), layer=layer).notes)

        if left.layer:
            with hostfiles.directory(self._places.host, left.layer) as path:
                packed(LAYER, path, layer=True)
        for volume in departure.volumes.get(left.container, ()):
            make_private_dirs(f"{home}/{PARCEL}/volumes")
            with volumes.opened(self._places, departure.pod_uid, volume) as path:
                packed(f"volumes/{volume}.pack", path, layer=False)
        contents = parcel.contents()
        return Part(
            namespace=departure.namespace,
            migration=departure.migration,
            pod=departure.pod,
            pod_uid=departure.pod_uid,
            container=left.container,
            generation=source.generation,
            asleep=left.asleep,
            freeze_us=left.freeze_us,
            saved=int(time.time()),
            digest=digest(contents),
            files=contents,
            notes=tuple(note[:500] for note in notes[:_MAX_NOTES]),
        )

    def _found(self, departure: Departure, container: str) -> Part | None:
        """What is here of a container: leaving, or kept already."""
        part = self._read(self._part_home(self._places.leaving, departure, container))
        if part is None:
            return self._read(self._part_home(self._places.kept, departure, container))
        # Killed between the two steps of `keep`, it is kept.
        return self.keep(part, part.reason, part.kept_until) if part.kept_until else part

    def _read(self, home: str) -> Part | None:
        """What is whole there."""
        try:
            return Part.decode(read_whole(f"{home}/{PART}", 2 * MAX_BYTES))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (Unreadable, OSError) as error:
            log.warning("a part can not be read", extra={"path": home, "reason": str(error)})
            return None

    def _part_home(self, root: str, of: Departure | Part, container: str) -> str:
        return f"{self._home(root, of.namespace, of.migration)}/{checked(container)}"

    @staticmethod
    def _home(root: str, namespace: str, migration: str) -> str:
        return f"{root}/{checked(namespace)}/{checked(migration)}"


def prefix(image: ImageDir) -> str:
    """Where an image's files are in a parcel."""
    return f"image/{image.pod_uid}/{image.container}/{image.generation}"


@dataclass(frozen=True, slots=True)
class Left:
    """What a shim hands over. `layer`: a directory as the node's processes see it, "" if there is none."""

    container: str
    image: ImageDir
    layer: str
    asleep: bool
    freeze_us: int


class _Until:
    """An output that takes nothing any more when it is too late."""

    def __init__(self, output: Writing, until: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._until = until
        self._clock = clock

    def write(self, data: bytes | memoryview) -> None:
        if self._clock() > self._until:
            raise TooLate("its files were not saved before its grace period ended")
        self._output.write(data)


def _remove(home: str) -> None:
    """Removes a directory; its name for being whole goes first. None there is no error."""
    try:
        os.unlink(f"{home}/{PART}")
    except (FileNotFoundError, NotADirectoryError):
        pass  # it never was
    try:
        shutil.rmtree(home)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(home)


def _homes(root: str) -> Sequence[str]:
    return [f"{root}/{space}/{name}" for space in names(root) for name in names(f"{root}/{space}")]
