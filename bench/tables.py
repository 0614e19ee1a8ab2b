"""The tables of the other benchmarks."""

from __future__ import annotations

import statistics

from bench import charts
from bench.cells import fact, median_and_range, milliseconds, numbers, prose, significant, table, trouble_of
from bench.results import Results, Row, ratios, summary
from bench.standing import ratio_text

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
            rows.append([group, "", f"failed: {trouble_of(ours)}" if ours else "-", *[""] * (len(header) - 3)])
            continue
        moved = ours.facts.get("bytes_moved")
        rows.append(
            [
                group,
                str(ours.facts.get("kernel", "")),
                milliseconds(ours),
                *(milliseconds(by_name[name]) if name in by_name else "" for name in others),
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
            rows.append([row.group, name, f"failed: {trouble_of(row)}", *[""] * (len(header) - 3)])
            continue
        ratio = numbers(row.facts.get("ratios_to_generator")) or numbers(row.facts.get("ratio_to_generator"))
        rows.append(
            [
                row.group,
                name,
                median_and_range(frames_per_second(row), 1.0),
                median_and_range(numbers(row.facts.get("steady_fps")), 1.0),
                median_and_range(ratio, 100.0) + " %" if ratio else "",
                fact(row, "cpu_seconds_per_frame", 1.0, "{:.3f}"),
                fact(row, "max_memory_bytes", 1e-6, "{:.0f}"),
                _output(row),
            ]
        )
    return f"{table(header, rows)}\n\nMedian over rounds, smallest to largest in brackets. **Bold**: ours."


def frames_per_second(row: Row) -> list[float]:
    """Per round; from the seconds of a frame where the row does not state it."""
    return numbers(row.facts.get("fps")) or [1 / seconds for seconds in row.measured]


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
            rows.append([row.group, "", name, f"failed: {trouble_of(row)}", *[""] * (len(header) - 4)])
            continue
        captured, dropped = row.facts.get("captured"), row.facts.get("dropped")
        rows.append(
            [
                row.group,
                fact(row, "input_fps", 1.0, "{:.1f}"),
                name,
                fact(row, "shown_fps", 1.0, "{:.1f}"),
                f"{dropped} of {captured}" if captured is not None and dropped is not None else "",
                *(fact(row, name, 1.0, "{:.0f}") for name in ("age_ms_median", "age_ms_p95", "age_ms_max")),
                fact(row, "generator_ms", 1.0, "{:.0f}"),
            ]
        )
    note = "Age: from the moment a frame is captured to the moment its translation is shown. **Bold**: ours."
    return f"{table(header, rows)}\n\n{prose(note)}"


# training


def training_table(results: Results) -> str:
    """Images per second of a training step, beside the tutorial's."""
    rows = []
    for group in results.groups:
        tutorial = next(row for row in results.group(group) if not row.ours)
        for row in results.group(group):
            name = f"**{row.contender}**" if row.ours else row.contender
            if not row.measured or row.failure is not None:
                rows.append([group.replace(" ", ", "), name, f"failed: {trouble_of(row)}", "", ""])
                continue
            images = row.facts["batch"] / statistics.median(row.measured)
            ratio = _ratio(tutorial, row) if row.ours else ""
            rows.append([group.replace(" ", ", "), name, milliseconds(row), significant(images), ratio])
    note = (
        "A step: forwards, losses, backwards and updates of all networks. Tutorial / ours: within rounds; median and "
        "95 % interval of the median, more than 1 is faster. **Bold**: ours."
    )
    return f"{table(['model, generator, size', 'step', 'ms', 'images/s', 'tutorial / ours'], rows)}\n\n{prose(note)}"


# backends


def backends_table(results: Results) -> str:
    """What each backend takes to start, with an empty and with a filled cache, and then for a frame."""
    header = ["generator, size", "backend", "precision", "first frame, s: cold", "cached", "ms a frame", "PSNR"]
    header.append("memory at most, MB")
    rows = []
    for row in results.rows:
        cells = [row.group.replace(" ", ", ", 1), row.contender]
        if row.failure is not None or not row.measured:
            rows.append([*cells, f"not run: {trouble_of(row)}", *[""] * (len(header) - 3)])
            continue
        parity = row.facts.get("psnr_db")
        rows.append(
            [
                *cells,
                str(row.facts["precision"]),
                fact(row, "cold_first_frame_seconds", 1.0, "{:.1f}"),
                median_and_range(numbers(row.facts["first_frame_seconds"]), 1.0),
                milliseconds(row),
                "exact" if parity is None else f"{parity:.0f} dB",
                fact(row, "peak_memory_bytes", 1e-6, "{:.0f}"),
            ]
        )
    note = (
        "First frame: from the start of the process, imports and the comparison with float32 included; cold: with an "
        "empty cache. Medians over rounds; smallest to largest in brackets. PSNR against eager float32, of fused when "
        "cached against fused float32, which the cold run has compared with eager."
    )
    return f"{table(header, rows)}\n\n{prose(note)}"


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
            rows.append([f"{x:g}", *("" if value is None else significant(value * 1e3) for value in values)])
        failed = [f"{row.contender}: {trouble_of(row)}" for row in results.group(group) if row.failure is not None]
        parts += [table(header, rows), *([prose(f"Not measured: {'; '.join(failed)}.")] if failed else [])]
    return "\n\n".join(parts)
