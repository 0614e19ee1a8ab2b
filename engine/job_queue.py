"""Several jobs: from the command line or from a file of jobs, and a table of what became of them."""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import datetime
import difflib
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from engine.errors import EngineError, SourceError
from engine.samples import SAMPLE
from engine.times import show_time

# These are of the whole run.
_NOT_OF_A_JOB = {"help", "version", "jobs", "dry-run", "status", "list-styles", "json", "quiet", "debug"}

_HEADINGS = ("source", "output", "frames", "fps", "time", "state")


class JobsFileError(EngineError):
    """A file of jobs that can't be read, or that says something unknown."""


@dataclasses.dataclass
class Job:
    """One source, and what became of it.

    Attributes:
        summary: as `engine.report.summarise` gives it; None where nothing was translated.
        state: "not begun", "done", "stopped", "left out" or "failed".
        error: why it failed.
    """

    source: str
    summary: dict[str, Any] | None = None
    state: str = "not begun"
    error: str = ""

    def end(self, summary: dict[str, Any] | None) -> None:
        """Says what came of it; None: it was left out."""
        self.summary = summary
        self.state = "left out" if summary is None else "done" if summary["completed"] else "stopped"

    def fail(self, error: Exception) -> None:
        """Says that it failed."""
        self.state, self.error = "failed", str(error)

    @property
    def row(self) -> tuple[str, ...]:
        """Its line of the table."""
        if self.summary is None:
            return (self.source, "", "", "", "", self.state)
        fps, seconds = self.summary["fps"], self.summary["seconds"]
        output, frames = self.summary["output"] or "", str(self.summary["frames"])
        return (self.source, output, frames, f"{fps:.1f}" if fps else "", show_time(round(seconds)), self.state)


@dataclasses.dataclass
class Group:
    """Jobs that have their options in common.

    Attributes:
        place: where in a file of jobs they are; "" for those of the command line.
    """

    options: argparse.Namespace
    jobs: list[Job]
    place: str = ""

    def check(self, check: Callable[[argparse.Namespace], None]) -> None:
        """Raises JobsFileError with the place where `check` finds something in the options of a file."""
        try:
            check(self.options)
        except EngineError as error:
            if not self.place:
                raise
            raise JobsFileError(f"{self.place}: {error}") from error


def groups_of(options: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Group]:
    """The jobs of a command line, and of the file that it names with --jobs.

    Raises:
        JobsFileError: the file can't be read, or says something unknown.
        SourceError: the only source is a folder or glob without media.
    """
    if options.jobs is None:
        sources = options.source or [str(SAMPLE)]
        return [Group(options, [job for source in sources for job in _jobs(source, is_only=len(sources) == 1)])]
    if options.source:
        raise JobsFileError(f"{options.source[0]}: the sources of --jobs are in {options.jobs}; give one or the other")
    tables = _read(Path(options.jobs), options, parser)
    is_only = len(tables) == 1 and len(tables[0].source) == 1
    return [
        Group(
            table,
            [job for source in table.source for job in _jobs(source, is_only=is_only)],
            f"{options.jobs}: job {number}",
        )
        for number, table in enumerate(tables, 1)
    ]


def table_of(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; numbers, which are the columns between the second and the last, stand at the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = []
    for row in (headings, *rows):
        cells = [
            cell.rjust(width) if 1 < place < len(widths) - 1 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def summary_table(jobs: Sequence[Job]) -> list[str]:
    """Lines that say what became of each job."""
    return table_of(_HEADINGS, [job.row for job in jobs])


def _jobs(source: str, *, is_only: bool) -> list[Job]:
    from engine.video import expand

    try:
        return [Job(found) for found in expand(source)]
    except SourceError:
        if is_only:
            raise
        return [Job(source)]  # which fails in its turn


# --- the file ---


def _read(path: Path, options: argparse.Namespace, parser: argparse.ArgumentParser) -> list[argparse.Namespace]:
    """The options of each [[job]]; `source` is a list."""
    document = _parse(path)
    tables = document.pop("job", None)
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise JobsFileError(f"{path}: no job in it; begin each with a line [[job]], below it source = 'clip.mp4'")
    defaults = _with(options, document, parser, f"{path}: above the first job", takes_source=False)
    made = []
    for number, table in enumerate(tables, 1):
        where = f"{path}: job {number}"
        sources = table.pop("source", None)
        sources = [sources] if isinstance(sources, str) else sources
        if not isinstance(sources, list) or not sources or not all(isinstance(source, str) for source in sources):
            raise JobsFileError(f"{where}: source is missing; write source = 'clip.mp4' or a list of several")
        job = _with(defaults, table, parser, where, takes_source=True)
        job.source = sources
        made.append(job)
    _refuse_common_outputs(path, made)
    return made


def _parse(path: Path) -> dict[str, Any]:
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        with path.open("rb") as file:
            document: dict[str, Any] = tomllib.load(file)
            return document
    except OSError as error:
        raise JobsFileError(f"{path}: can't be read ({error.strerror})") from error
    except ValueError as error:  # TOMLDecodeError, or not UTF-8
        raise JobsFileError(f"{path}: not a TOML file ({error}); texts are quoted: start = '1:30'") from error


def _with(
    options: argparse.Namespace,
    table: dict[str, Any],
    parser: argparse.ArgumentParser,
    where: str,
    *,
    takes_source: bool,
) -> argparse.Namespace:
    """A copy of the options, changed by a table of them."""
    known = {
        name.removeprefix("--"): action
        for action in parser._actions
        for name in action.option_strings
        if name.startswith("--")
    }
    made, arguments = copy.copy(options), []
    for key, value in table.items():
        if key in _NOT_OF_A_JOB:
            raise JobsFileError(f"{where}: {key} holds for all jobs: give --{key} on the command line")
        action = known.get(key)
        if action is None:
            names = [*(known.keys() - _NOT_OF_A_JOB), *(["source"] if takes_source else [])]
            near = difflib.get_close_matches(key.replace("_", "-"), names, 1, 0.4)
            hint = f"did you mean {near[0]}?" if near else "python -m engine.run --help lists the options"
            raise JobsFileError(f"{where}: unknown key {key!r}; {hint}")
        setattr(made, action.dest, action.default)
        is_flag = action.nargs == 0
        for item in value if isinstance(value, list) else [value]:
            if is_flag != isinstance(item, bool):
                expected = "true or false" if is_flag else "a text or a number"
                raise JobsFileError(f"{where}: {key} is {item!r}, and {expected} is needed")
            if item is True:
                arguments.append(f"--{key}")
            elif not is_flag:
                text = item.isoformat() if isinstance(item, datetime.time) else str(item)  # start = 00:01:30
                arguments.append(f"--{key}={text}")
    with _errors_of(parser, where):
        return parser.parse_args(arguments, made)


@contextlib.contextmanager
def _errors_of(parser: argparse.ArgumentParser, where: str) -> Any:
    """Raises what the parser would end the process with."""

    def error(message: str) -> NoReturn:
        raise JobsFileError(f"{where}: {message.removeprefix('argument ')}")

    parser.error = error  # type: ignore[method-assign]
    try:
        yield
    finally:
        del parser.error


def _refuse_common_outputs(path: Path, jobs: Sequence[argparse.Namespace]) -> None:
    seen: dict[str, int] = {}
    for number, job in enumerate(jobs, 1):
        if job.output is None or job.output.endswith("/") or Path(job.output).is_dir():
            continue
        if job.output in seen:
            both = f"jobs {seen[job.output]} and {number} both write {job.output}"
            raise JobsFileError(f"{path}: {both}; name two outputs")
        seen[job.output] = number
