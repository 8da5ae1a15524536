"""What can come of a request, named by what to do next; the message is the API server's own sentence.

The trap: a body that is no `Status` comes from a proxy in between and may hold anything: it is not repeated.
"""

from __future__ import annotations

import json
from typing import Any, Final

_LONGEST_SENTENCE: Final = 500


class ApiError(Exception):
    """A request that failed. `status` is the HTTP status, 0 when there was no answer."""

    def __init__(self, sentence: str, *, status: int = 0, reason: str = "", after: float = 0.0) -> None:
        super().__init__(sentence)
        self.status = status
        self.reason = reason
        self.after = after
        """Seconds to wait before the next attempt, if the server said so."""


class NotFound(ApiError):
    """The object is not there (any more)."""


class Conflict(ApiError):
    """Somebody else wrote first: read again. For a create: there is one already."""


class Expired(ApiError):
    """The server has forgotten the version that a watch or a list wants to go on from: list anew."""


class Refused(ApiError):
    """The request will not be better for being repeated: not allowed, invalid, not authenticated."""


class Busy(ApiError):
    """Too many requests: later."""


class Unreachable(ApiError):
    """No answer, or one of a server in trouble: later."""


_BY_STATUS: Final[dict[int, type[ApiError]]] = {
    404: NotFound,
    409: Conflict,
    410: Expired,
    429: Busy,
    400: Refused,
    401: Refused,
    403: Refused,
    405: Refused,
    413: Refused,
    415: Refused,
    422: Refused,
}


def from_answer(status: int, body: bytes, retry_after: str = "") -> ApiError:
    """The error of an answer with `status` from 400 on."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    after = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
    if isinstance(found, dict) and found.get("kind") == "Status":
        return from_status(found, status=status, after=after)
    return _BY_STATUS.get(status, Unreachable)(
        f"the API server answered with status {status}", status=status, after=after
    )


def from_status(found: dict[str, Any], *, status: int = 0, after: float = 0.0) -> ApiError:
    """The error of a `Status` object, in an answer or a watch."""
    code = found.get("code")
    status = status or (code if isinstance(code, int) else 0)
    sentence = str(found.get("message") or f"the API server answered with status {status}")
    kind = _BY_STATUS.get(status, Unreachable)
    reason = str(found.get("reason") or "")
    return kind(sentence[:_LONGEST_SENTENCE], status=status, reason=reason, after=after)
