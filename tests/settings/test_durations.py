"""Durations are read as Go reads them; what makes no sense as one is refused with a sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.settings import parse_duration

UNITS = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,
    "\u03bcs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("+0", 0),
        ("-0", 0),
        ("0s", 0),
        ("5s", 5 * 10**9),
        ("+5s", 5 * 10**9),
        ("1m30s", 90 * 10**9),
        ("250ms", 250 * 10**6),
        ("1.5h", 5400 * 10**9),
        (".5s", 5 * 10**8),
        ("1.s", 10**9),
        ("1.0000000009s", 10**9),
        ("3us", 3000),
        ("3\u00b5s", 3000),
        ("1h1h", 7200 * 10**9),
        ("87600h", 87600 * 3600 * 10**9),
    ],
)
def test_what_go_takes_is_taken(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "+", "s", ".s", ".", "1", "10", "1 s", "1s ", " 1s", "1S", "1d", "1s1", "-1s", "--1s"),
        *("1e3s", "0x1s", "\u0661s", "1,5s", "87601h", "9" * 63 + "h", "1s" * 40, "infinity", "1s\n"),
    ],
)
def test_anything_else_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"[a-z]"):
        parse_duration(text)


@given(st.lists(st.tuples(st.integers(0, 999), st.sampled_from(sorted(UNITS))), min_size=1, max_size=6))
def test_terms_add_up(terms: list[tuple[int, str]]) -> None:
    assert parse_duration("".join(f"{n}{unit}" for n, unit in terms)) == sum(
        n * UNITS[unit] for n, unit in terms
    )


@given(st.text() | st.text(alphabet="0123456789.+-nuµmsh"))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        assert 0 <= parse_duration(text) <= 10 * 365 * 24 * 3600 * 10**9
    except ValueError as error:
        assert str(error)  # noqa: PT017  (either outcome is right)
