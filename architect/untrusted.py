"""JSON that nobody vouches for: annotations, state files, manifests. Read once, at the border, typed from
there on.

A `Value` knows the path it was found under, so that every complaint names the place:
`scaledown-durations.app: ...`. Limits come first: size before parsing, depth and duplicate members while
parsing. What a complaint means (refuse a pod, distrust an image) is the caller's business: it translates
`Unreadable` into its own error.

The trap: Python's parser accepts more than JSON (NaN, duplicate members, numbers of any length). This one
does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn, cast

__all__ = ["Unreadable", "Value", "parse", "shown"]

MAX_DEPTH: Final = 16
MAX_SHOWN: Final = 60
_KINDS: Final = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
}
# All that is no bracket. Matches whatever follows a quote, so that hostile text costs linear time.
_PLAIN: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[^][{}"]+', re.DOTALL)


class Unreadable(Exception):
    """`where` (a dotted path, "" for the whole text) does not hold what it should; `sentence` says why."""

    def __init__(self, where: str, sentence: str) -> None:
        super().__init__(f"{where}: {sentence}" if where else sentence)
        self.where = where
        self.sentence = sentence


def shown(value: object) -> str:
    """`value` quoted for a message: ASCII only, so that no log or terminal chokes on it, and cut."""
    text = ascii(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


@dataclass(frozen=True, slots=True)
class Value:
    """A JSON value and the path it was found under. Every getter raises Unreadable, naming that path."""

    raw: object
    where: str = ""

    def refuse(self, sentence: str) -> NoReturn:
        """Raises Unreadable about this place."""
        raise Unreadable(self.where, sentence)

    def text(self, *, limit: int) -> str:
        """A string of at most `limit` characters."""
        if not isinstance(self.raw, str):
            self._wrong("a string")
        if len(self.raw) > limit:
            self.refuse(f"is {len(self.raw)} characters long; {limit} are allowed")
        return self.raw

    def integer(self, *, low: int = 0, high: int = (1 << 63) - 1) -> int:
        """A whole number within `low` and `high`, both included."""
        # bool is an int to Python and never a number to us.
        if not isinstance(self.raw, int) or isinstance(self.raw, bool):
            self._wrong("a whole number")
        if not low <= self.raw <= high:
            self.refuse(f"{shown(self.raw)} is not within {low} and {high}")
        return self.raw

    def boolean(self) -> bool:
        """True or false."""
        if not isinstance(self.raw, bool):
            self._wrong("a boolean")
        return self.raw

    def items(self, *, limit: int) -> list[Value]:
        """The entries of a list of at most `limit`."""
        if not isinstance(self.raw, list):
            self._wrong("a list")
        if len(self.raw) > limit:
            self.refuse(f"has {len(self.raw)} entries; {limit} are allowed")
        return [Value(entry, f"{self.where}[{index}]") for index, entry in enumerate(self.raw)]

    def members(self, *, limit: int) -> dict[str, Value]:
        """The members of an object of at most `limit`."""
        found = self.mapping()
        if len(found) > limit:
            self.refuse(f"has {len(found)} members; {limit} are allowed")
        return {name: Value(entry, self._below(name)) for name, entry in found.items()}

    def member(self, name: str) -> Value:
        """One member of an object, which must be there."""
        found = self.mapping()
        if name not in found:
            self.refuse(f"has no {shown(name)}")
        return Value(found[name], self._below(name))

    def mapping(self) -> Mapping[str, object]:
        """An object as it is, its values unread."""
        if not isinstance(self.raw, dict):
            self._wrong("an object")
        return cast("Mapping[str, object]", self.raw)

    def _below(self, name: str) -> str:
        plain = name if re.fullmatch(r"[A-Za-z0-9_./-]{1,60}", name) else shown(name)
        return f"{self.where}.{plain}" if self.where else plain

    def _wrong(self, wanted: str) -> NoReturn:
        self.refuse(f"is {_KINDS.get(type(self.raw), 'null')} where {wanted} belongs")


def parse(text: str | bytes, *, limit: int, where: str = "", depth: int = MAX_DEPTH) -> Value:
    """Parses one JSON text of at most `limit` bytes, nested at most `depth` deep.

    Raises Unreadable, whatever the text.
    """
    size = len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "surrogatepass"))
    if size > limit:
        raise Unreadable(where, f"is {size} bytes long; {limit} are allowed")
    try:
        plain = text.decode("utf-8") if isinstance(text, bytes) else text
        _check_depth(plain, where, depth)
        return Value(json.loads(plain, object_pairs_hook=_members, parse_constant=_constant), where)
    except _NotJson as error:
        raise Unreadable(where, str(error)) from None
    except ValueError as error:  # of the parser, of the decoder, of a number with thousands of digits
        raise Unreadable(where, f"is no JSON: {str(error)[:200]}") from error


def _check_depth(text: str, where: str, limit: int) -> None:
    """Counted before parsing: how deep Python's own parser dares to go differs by version and by stack."""
    depth = 0
    for char in _PLAIN.sub("", text):
        if char in "[{":
            depth += 1
            if depth > limit:
                raise Unreadable(where, f"is nested deeper than {limit} levels")
        elif char in "]}":
            depth -= 1


class _NotJson(Exception):
    """Raised within the parser, for what it would let pass."""


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise _NotJson(f"names {shown(name)} twice")
        found[name] = value
    return found


def _constant(name: str) -> NoReturn:
    raise _NotJson(f"holds {name}, which is not a JSON number")
