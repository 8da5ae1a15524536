"""Why a call is not answered, and the status it gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc

from architect.kube import ApiError
from controlplane.book import Ended, Gone
from controlplane.records import TooLate

_BY_ERROR: Final[dict[type[Exception], grpc.StatusCode]] = {
    Ended: grpc.StatusCode.UNAVAILABLE,
    Gone: grpc.StatusCode.NOT_FOUND,
    TooLate: grpc.StatusCode.FAILED_PRECONDITION,
    ApiError: grpc.StatusCode.UNAVAILABLE,
    TimeoutError: grpc.StatusCode.UNAVAILABLE,
}


class Refusal(Exception):
    """A call that is not answered; the message is for people."""

    def __init__(self, code: grpc.StatusCode, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@contextmanager
def translated() -> Iterator[None]:
    """What goes wrong within becomes a Refusal. Bugs do not."""
    try:
        yield
    except Refusal:
        raise
    except tuple(_BY_ERROR) as error:
        code = next(code for kind, code in _BY_ERROR.items() if isinstance(error, kind))
        raise Refusal(code, str(error) or "what it takes could not be done in time") from error


def not_yours(node: str, what: str) -> Refusal:
    """The certificate is another node's."""
    return Refusal(grpc.StatusCode.PERMISSION_DENIED, f"{node} does not speak for {what}")


def malformed(sentence: str) -> Refusal:
    """A field is missing or makes no sense."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, sentence)
