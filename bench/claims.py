"""Sentences of the documents that set this project above others: each needs figures that support it.

A comment behind the sentence says which, and `python -m bench report --check` computes them from the results:

    On an AMD Zen 4 it is 2 times as fast as any peer. <!-- claim: file=model-amd-zen4 precision=bf16 ratio=2.0 -->

file: a file of `bench model`, without its ending.
group: which generators and sizes, as a pattern; all if it is not given.
precision: of ours, several with commas; each of them, in each group, is compared with the best peer that is as close to
eager float32.
peer: the only one that is compared; the best if it is not given.
metric: seconds (if it is not given), peak_memory_bytes or first_frame_seconds; less is better.
ratio: the least of peer / ours over all groups and precisions, 1 or more.

The sentence has to name the processor, and a number of times in it has to lie within what was measured. A sentence
that sounds like a claim and has no such comment is refused; so is one about ourselves, which is better said otherwise.
What stands in blocks that `bench report` writes is computed already.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
import shlex
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.machine import machine_title
from bench.results import Results, Row, ratios
from bench.standing import best_of_ours, peers, standing

METRICS = ("seconds", "peak_memory_bytes", "first_frame_seconds")

_SUPERIOR = re.compile(
    r"\b(?:(?:faster|quicker|sooner) than|fastest|quickest|less (?:memory|time) than|"
    r"times (?:as fast|faster|as quick|quicker)|[\d.]+x (?:as fast|faster)|than (?:any|every|all) (?:other|peer)|"
    r"outperforms?|beats? (?:any|every|all|the)|unmatched|unrivalled)\b",
    re.IGNORECASE,
)
_NUMBER_OF_TIMES = re.compile(r"(\d+(?:\.\d+)?)(?: to (\d+(?:\.\d+)?))?(?: times|x)\b")
_CLAIM = re.compile(r"<!-- claim:(.*?)-->", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_GENERATED = re.compile(r"<!-- bench:([\w-]+) -->.*?<!-- /bench:\1 -->|```.*?```", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9`*\[(])")

# The figures of a sentence have one digit behind the point.
_ROUNDING = 0.05


class ClaimError(ValueError):
    """A claim that is not supported; the message says why."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a comment says; see the module."""

    file: str
    ratio: float
    precisions: tuple[str, ...]
    group: str = "*"
    peer: str | None = None
    metric: str = "seconds"


def unsupported(page: Path, text: str, files: Mapping[str, Results]) -> list[str]:
    """One line for each claim of a page that no figure supports.

    Args:
        text: of the page.
        files: the results, by the name of their file without its ending.
    """
    found = []
    for number, sentence in _sentences(text):
        said = " ".join(_COMMENT.sub("", sentence).split())
        where = f"{page}:{number}"
        comments = _CLAIM.findall(sentence)
        if not comments and (match := _SUPERIOR.search(said)):
            found.append(
                f"{where}: {match[0]!r} without a figure: put <!-- claim: file=... precision=... ratio=... --> behind "
                f"the sentence (bench/claims.py), or say it otherwise"
            )
        troubles = (_trouble(comment, said, files) for comment in comments)
        found += [f"{where}: {trouble}" for trouble in troubles if trouble]
    return found


def _trouble(comment: str, said: str, files: Mapping[str, Results]) -> str | None:
    """Why the figures do not support a claim; None if they do."""
    try:
        _check(parse(comment), said, files)
    except ClaimError as error:
        return str(error)
    return None


def parse(comment: str) -> Claim:
    """The claim in a comment, without `<!-- claim:` and `-->`.

    Raises:
        ClaimError: something is missing, unknown or no number.
    """
    accepted = ("file", "group", "precision", "peer", "metric", "ratio")
    try:
        fields = dict(word.split("=", 1) for word in shlex.split(comment))
        claim = Claim(
            file=fields["file"],
            ratio=float(fields["ratio"]),
            precisions=tuple(fields["precision"].split(",")),
            group=fields.get("group", "*"),
            peer=fields.get("peer"),
            metric=fields.get("metric", "seconds"),
        )
    except (KeyError, ValueError) as error:
        raise ClaimError(f"the claim {comment.strip()!r} can't be read: it needs file, precision and ratio") from error
    if unknown := set(fields) - set(accepted):
        raise ClaimError(f"a claim has no {', '.join(sorted(unknown))}: accepted are {', '.join(accepted)}")
    if claim.metric not in METRICS:
        raise ClaimError(f"the metric {claim.metric!r} is unknown: accepted are {', '.join(METRICS)}")
    if not claim.ratio >= 1:
        raise ClaimError(f"the ratio {claim.ratio:g} is less than 1, which is no claim")
    return claim


def _check(claim: Claim, said: str, files: Mapping[str, Results]) -> None:
    """Raises ClaimError unless the figures support what is said."""
    results = files.get(claim.file)
    if results is None or results.command != "model":
        raise ClaimError(f"there are no results of bench model in {claim.file}.json")
    if machine_title(results.machine) not in said:
        raise ClaimError(
            f"the claim does not name its processor: write {machine_title(results.machine)!r} in the sentence"
        )
    measured = _ratios(claim, results)
    (least, where), most = min(measured), max(measured)[0]
    if round(least, 2) < claim.ratio:
        raise ClaimError(f"{claim.ratio:g} is claimed and {least:.2f} measured, {where} in {claim.file}.json")
    for match in _NUMBER_OF_TIMES.finditer(said):
        for number in filter(None, match.groups()):
            if not least - _ROUNDING <= float(number) <= most + _ROUNDING:
                raise ClaimError(f"{number} times is said, and {least:.2f} to {most:.2f} are in {claim.file}.json")


def _ratios(claim: Claim, results: Results) -> list[tuple[float, str]]:
    """Peer / ours and where, for every group and precision of the claim."""
    groups = [group for group in results.groups if fnmatch.fnmatch(group, claim.group)]
    if not groups:
        raise ClaimError(f"{claim.file}.json has no group like {claim.group!r}: there are {', '.join(results.groups)}")
    return [
        (_ratio(claim, results, group, precision), f"{precision} of {group}")
        for group in groups
        for precision in claim.precisions
    ]


def _ratio(claim: Claim, results: Results, group: str, precision: str) -> float:
    ours = best_of_ours(results, group, (precision,))
    if ours is None:
        raise ClaimError(f"ours was not measured in {precision}, or misses its limit, at {group} in {claim.file}.json")
    others = [row for row in peers(results, ours) if claim.peer in (None, row.contender)]
    if not others:
        who = claim.peer or "no peer"
        raise ClaimError(f"{who} can't be compared with {precision} at {group} in {claim.file}.json")
    if claim.metric != "seconds":
        return min(_fact(row, claim.metric) for row in others) / _fact(ours, claim.metric)
    if claim.peer is None:
        compared = standing(results, ours)
        assert compared is not None
        return compared[0]
    common = ratios(others[0].seconds, ours.seconds)
    if not common:
        raise ClaimError(f"{claim.peer} has no round in common with ours at {group} in {claim.file}.json")
    return statistics.median(common)


def _fact(row: Row, name: str) -> float:
    value = row.facts.get(name)
    if not value:
        raise ClaimError(f"{row.contender} has no {name} at {row.group}")
    return float(value)


def _sentences(text: str) -> Iterator[tuple[int, str]]:
    """The sentences of a page, with the number of the line that their paragraph begins in."""
    kept = _GENERATED.sub(lambda match: "\n" * match[0].count("\n"), text)
    paragraph: list[str] = []
    first = 1
    for number, line in enumerate([*kept.splitlines(), ""], 1):
        begins = not line.strip() or line.lstrip().startswith(("|", "- ", "* ", "#", "!["))
        if begins:
            for sentence in _SENTENCE_END.split(" ".join(paragraph)):
                if sentence.strip():
                    yield first, sentence
            paragraph, first = [], number
        if line.strip():
            first = first if paragraph else number
            paragraph.append(line)
