"""An image that is being written, told of as it grows: its transfer begins with the dump, not after it."""

from __future__ import annotations

import os

from architect.images import ImageDir
from architect.inotify import CREATE, MODIFY, MOVED_TO, ONLYDIR, OVERFLOW, Inotify
from daemon.transfer.parcel import Parcel

_NAMES = CREATE | MOVED_TO | OVERFLOW


async def follow(parcel: Parcel, prefix: str, image: ImageDir) -> None:
    """Adds an image's files below `prefix` as the engine makes them, until cancelled or the parcel is
    finished. The image may be begun later.

    The caller adds the sealed image (`Parcel.image`) itself. Raises OSError when the image goes away.
    """
    await _made(image.engine_path)
    with Inotify(image.engine_path, CREATE | MODIFY | MOVED_TO | ONLYDIR) as watch:
        parcel.follow(prefix, image)
        while parcel.open:
            change = await watch.next()
            if change.mask & _NAMES and parcel.open:
                parcel.follow(prefix, image)
            else:
                parcel.grew()


async def _made(path: str) -> None:
    """Returns when there is a directory at `path`; those above it may not be there yet, either."""
    while not os.path.isdir(path):
        above, name = os.path.split(path)
        while not os.path.isdir(above):
            above, name = os.path.split(above)
        with Inotify(above, CREATE | MOVED_TO | ONLYDIR) as watch:
            while not os.path.lexists(f"{above}/{name}"):
                await watch.next()
