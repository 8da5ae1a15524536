"""Compression of single chunks, as far as both ends know how: zstd, which Python has from 3.14 on.

Each chunk is a frame of its own, so that a connection that breaks costs no more than a chunk. What comes out
of a frame is bounded before anything is allocated for it.
"""

from __future__ import annotations

import sys
from typing import Final

from daemon.transfer.errors import Corrupt
from daemon.transfer.frames import CHUNK

if sys.version_info >= (3, 14):
    from compression import zstd

    OFFERED: Final[tuple[str, ...]] = ("zstd",)
    _LEVEL: Final = 1
    _OPTIONS: Final = {zstd.DecompressionParameter.window_log_max: 21}  # what the level above needs at most

    def smaller(data: memoryview) -> bytes:
        """One zstd frame with `data`; may be larger than it."""
        return zstd.compress(data, _LEVEL)

    def plain(frame: memoryview) -> bytes:
        """What a zstd frame of at most CHUNK bytes holds. Raises Corrupt."""
        reader = zstd.ZstdDecompressor(options=_OPTIONS)
        try:
            data = reader.decompress(frame, max_length=CHUNK)
            # A frame can have given all that it holds and still have its end to be read.
            if not reader.eof and reader.decompress(b"", max_length=1):
                raise Corrupt("a compressed chunk is longer than a chunk may be")
        except (zstd.ZstdError, EOFError) as error:
            raise Corrupt(f"a compressed chunk can not be read: {error}") from error
        if not reader.eof or reader.unused_data:
            raise Corrupt("a compressed chunk does not end where it should")
        return data

else:
    OFFERED: Final[tuple[str, ...]] = ()

    def smaller(data: memoryview) -> bytes:
        """Not asked for here."""
        raise NotImplementedError

    def plain(frame: memoryview) -> bytes:
        """Raises Corrupt: nobody was told that this node reads compressed chunks."""
        raise Corrupt(f"a compressed chunk of {len(frame)} bytes came; this node reads none")
