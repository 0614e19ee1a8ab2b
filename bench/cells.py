"""What stands in the cells of the report's tables."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable, Sequence

from bench.results import Row


def prose(text: str) -> str:
    """A paragraph, its lines as long as those of the pages that it stands in."""
    return textwrap.fill(text, 140, break_long_words=False, break_on_hyphens=False)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; the first column is text."""
    lines = [header, ["---", *["---"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def numbers(fact: object) -> list[float]:
    """A fact that is a number, a list of one per round, or missing, as a list."""
    values = fact if isinstance(fact, list) else [fact]
    return [float(value) for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]


def short(row: Row) -> str:
    """The name of one of our engines."""
    return row.contender.removeprefix("engine ")


def milliseconds(row: Row) -> str:
    """The median time of a frame or a step."""
    return significant(statistics.median(row.measured) * 1e3) if row.measured else "failed"


def significant(value: float) -> str:
    """Three significant digits, without an exponent."""
    return (
        f"{value:.0f}"
        if value >= 100
        else f"{value:.1f}"
        if value >= 10
        else f"{value:.2f}"
        if value >= 1
        else f"{value:.3f}"
    )


def median_and_range(values: Sequence[float], factor: float) -> str:
    """The median, and in brackets the smallest and the largest."""
    if not values:
        return ""
    scaled = [value * factor for value in values]
    middle = _three(statistics.median(scaled))
    return middle if len(scaled) == 1 else f"{middle} ({_three(min(scaled))} to {_three(max(scaled))})"


def _three(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def fact(row: Row, name: str, factor: float, form: str) -> str:
    """The median of a fact times `factor`; empty where it is missing."""
    values = numbers(row.facts.get(name))
    return form.format(statistics.median(values) * factor) if values else ""


def cell(text: str) -> str:
    """A text as it can stand in a table."""
    return " ".join(text.replace("|", "\\|").split())


def trouble_of(row: Row) -> str:
    """Why a row has no figures."""
    return cell(row.failure or "no round was measured")
