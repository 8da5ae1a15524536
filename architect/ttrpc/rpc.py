"""The envelope of a call and its outcome: what ttrpc puts into request and response frames.

Field numbers are those of ttrpc's `Request` and `Response` and of google.rpc's `Status`; the metadata of
a request is not read, nothing here needs it.
"""

from dataclasses import dataclass
from enum import IntEnum

from architect.ttrpc.codec import BYTES, INT32, INT64, STRING, field, message

_MAX_MESSAGE = 16 << 10  # characters of an error that travel; containerd writes them into events and logs


class Code(IntEnum):
    """Outcome of a call, numbered as gRPC does; containerd decides by these what an error means."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """A call that failed with a status: handlers raise it to answer so, clients when answered so."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


@message("google.rpc.Status")
@dataclass(slots=True)
class Status:
    """A Code and a sentence."""

    code: int = field(1, INT32)
    message: str = field(2, STRING)


@message("ttrpc.Request")
@dataclass(slots=True)
class Request:
    """Which method is called with what; `timeout_nano` is how long the caller waits, 0 for ever."""

    service: str = field(1, STRING)
    method: str = field(2, STRING)
    payload: bytes = field(3, BYTES)
    timeout_nano: int = field(4, INT64)


@message("ttrpc.Response")
@dataclass(slots=True)
class Response:
    """The end of a call. Old clients insist on a status even when all is well."""

    status: Status | None = field(1, Status)
    payload: bytes = field(2, BYTES)


def status_of(error: RpcError) -> Status:
    """An error as it travels: valid UTF-8 (paths may hold stray bytes), of bounded length."""
    text = error.message[:_MAX_MESSAGE].encode("utf-8", "backslashreplace").decode()
    return Status(code=error.code, message=text)


def error_of(status: Status | None) -> RpcError | None:
    """The error that a response reports, or None; a code unknown to us is UNKNOWN."""
    if status is None or status.code == Code.OK:
        return None
    code = Code(status.code) if status.code in Code else Code.UNKNOWN
    return RpcError(code, status.message)
