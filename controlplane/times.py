"""The API's times (RFC 3339, UTC) as Unix seconds, and back."""

from __future__ import annotations

from datetime import UTC, datetime


def seconds(text: object) -> float:
    """The moment that the API wrote; 0.0 for none, or for what is no time."""
    if not isinstance(text, str) or not text:
        return 0.0
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return found.timestamp() if found.tzinfo else found.replace(tzinfo=UTC).timestamp()


def written(moment: float) -> str:
    """As a field of format date-time wants it, to the microsecond."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
