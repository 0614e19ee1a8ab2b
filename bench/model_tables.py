"""The tables of `python -m bench model`: ours beside the peers, by precision."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.cells import cell, fact, milliseconds, prose, short, significant, table, trouble_of
from bench.results import Results, Row, median_interval
from bench.standing import best_of_ours, gflops, peers, psnr_text, ratio_text, share_of_peak, standing
from engine.parity import PARITY_DB

# Tiers of the model table: title, precisions of ours that are in it, precision whose parity limit peers have to meet.
_TIERS = (
    ("float32", ("fp32",), "fp32"),
    ("half precision", ("bf16", "fp16"), "bf16"),
    ("fast", ("fast",), "fast"),
)


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
    return f"{table(header, rows)}\n\n{prose(_MODEL_NOTE)}"


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
            cells.append(milliseconds(ours) if ours else "-")
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
    return f"{table(header, rows)}\n\n" + prose(f"{verdict}{': ' + '; '.join(lost) if lost else ''}.")


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
    return f"{peer.contender}, {milliseconds(peer)} ms"


def _our_cells(results: Results, group: str, precisions: Sequence[str], ours: Row | None) -> tuple[str, str]:
    if ours is None:
        tried = [row for row in results.group(group) if row.ours and row.facts.get("precision") in precisions]
        if not tried:
            return "not measured", "-"
        return f"none: {_trouble(tried[0])}", "-"
    compared = standing(results, ours)
    ratio = ratio_text(*compared[:3]) if compared else "no peer"
    return f"{short(ours)}, {milliseconds(ours)} ms, {psnr_text(ours)}", ratio


def _trouble(row: Row) -> str:
    return cell(row.failure or "") or f"{psnr_text(row) or 'PSNR unknown'}, below its limit"


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
        reasons = [(row.group.replace(" ", ", ", 1), row.contender, trouble_of(row)) for row in failures]
        parts += ["#### Not measured", table(("group", "contender", "reason"), reasons)]
    return "\n\n".join([*parts, prose(_FULL_NOTE)])


_FULL_NOTE = (
    "**Bold**: ours. Best peer / this: ours against the fastest peer of each round that meets the parity limit of our "
    "precision; more than 1 is faster. A dash: below its own limit, or nothing to compare with. Interval: 95 %, of the "
    "median over rounds."
)


def _full_row(results: Results, row: Row) -> list[str]:
    low, high = median_interval(row.measured)
    compared = standing(results, row) if row.ours else None
    share, rate = share_of_peak(results, row), gflops(row)
    return [
        f"**{row.contender}**" if row.ours else row.contender,
        milliseconds(row),
        f"{significant(low * 1e3)} to {significant(high * 1e3)}",
        (ratio_text(*compared[:3]) if compared else "-") if row.ours else "",
        f"{rate:.0f}" if rate else "",
        f"{share:.0%}" if share is not None else "",
        psnr_text(row),
        fact(row, "peak_memory_bytes", 1e-6, "{:.0f}"),
        fact(row, "first_frame_seconds", 1.0, "{:.2f}"),
        fact(row, "conversion_seconds", 1.0, "{:.1f}"),
    ]
