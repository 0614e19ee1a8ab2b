"""Times of a video as text."""

from __future__ import annotations

from fractions import Fraction

import pytest

from engine.times import TimeError, parse_time, show_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("0", 0), ("90", 90), ("1.5", Fraction(3, 2)), ("1:30", 90), ("0:05.96", Fraction(149, 25))),
        *(("1:02:03.004", 3723 + Fraction(4, 1000)), ("100:00", 6000), ("26:00:00", 93600)),
    ],
)
def test_a_time_is_read(text: str, seconds: Fraction) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "-1", "1:70", "1:60:00", "nan", "inf", "1:2:3:4", "1,5", "1:", ":5", "1.", "1e3", "٣", "1 s", "9" * 20]
)
def test_a_text_that_is_no_time(text: str) -> None:
    with pytest.raises(TimeError, match="expected seconds, M:SS or H:MM:SS"):
        parse_time(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (5.96, "0:05.96"), (59.9999, "1:00"), (90, "1:30"), (3723.004, "1:02:03.004")]
)
def test_a_time_is_shown(seconds: float, text: str) -> None:
    assert show_time(seconds) == text
