"""Checkpoints from node to node: what a pod leaves behind is packed, offered, fetched and proved."""

from __future__ import annotations

from daemon.transfer.contents import Contents
from daemon.transfer.credentials import Credentials
from daemon.transfer.errors import Corrupt, NoSpace, Refused, TooLate, TransferError
from daemon.transfer.fetch import Received, Source, fetch
from daemon.transfer.following import follow
from daemon.transfer.landing import discard
from daemon.transfer.pack import Packed, pack
from daemon.transfer.parcel import Parcel
from daemon.transfer.server import Server
from daemon.transfer.shelf import Offer, Shelf
from daemon.transfer.unpack import unpack

__all__ = [
    "Contents",
    "Corrupt",
    "Credentials",
    "NoSpace",
    "Offer",
    "Packed",
    "Parcel",
    "Received",
    "Refused",
    "Server",
    "Shelf",
    "Source",
    "TooLate",
    "TransferError",
    "discard",
    "fetch",
    "follow",
    "pack",
    "unpack",
]
