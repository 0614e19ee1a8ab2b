"""Times of a video: read from text, and shown."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from fractions import Fraction

from engine.errors import EngineError

_FORM = re.compile(r"(?:(?:(\d{1,6}):)?(\d{1,6}):)?(\d{1,9}(?:\.\d{1,9})?)", re.ASCII)


class TimeError(EngineError, ArgumentTypeError):
    """Text that is not a time; argparse shows the message if `parse_time` is the type of an option."""


def parse_time(text: str) -> Fraction:
    """Seconds from `SECONDS`, `M:SS` or `H:MM:SS`, each with decimals if need be.

    Raises:
        TimeError: the text has another form, or minutes or seconds behind a colon are not below 60.
    """
    match = _FORM.fullmatch(text)
    hours, minutes, seconds = (Fraction(part or 0) for part in match.groups()) if match else (Fraction(-1),) * 3
    is_over = match is not None and ((match[2] and seconds >= 60) or (match[1] and minutes >= 60))
    if match is None or is_over:
        raise TimeError(f"invalid time {text!r}: expected seconds, M:SS or H:MM:SS, such as 90, 1:30 or 0:01:30.5")
    return hours * 3600 + minutes * 60 + seconds


def show_time(seconds: Fraction | float) -> str:
    """Text for a person: `0:05.96`, `1:02:03`."""
    thousandths = round(seconds * 1000)
    whole, rest = divmod(thousandths, 1000)
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    decimals = f".{rest:03d}".rstrip("0") if rest else ""
    return f"{hours}:{minutes:02d}:{whole:02d}{decimals}" if hours else f"{minutes}:{whole:02d}{decimals}"
