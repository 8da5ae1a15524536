"""What can become of a transfer, named by what its caller does next."""

from __future__ import annotations


class TransferError(Exception):
    """Base of all that ends a transfer or a packing for good."""


class Refused(TransferError):
    """One side will not, or may not: the sentence says why. Trying again does not help."""


class Corrupt(TransferError):
    """What arrived is not what was announced, or no sense can be made of it."""


class NoSpace(TransferError):
    """It does not fit here: the disk is full, or it is larger than was announced."""


class TooLate(TransferError):
    """The deadline is over; the cause is the last thing that went wrong."""


class Broken(ConnectionError):
    """This connection is of no use any more; another one may be."""
