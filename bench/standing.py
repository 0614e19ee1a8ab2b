"""How a contender stands: against the fastest peer of equal fidelity in each round, and against the machine's peak."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence

from bench.results import Results, Row, summary
from engine.parity import PARITY_DB

# Contenders that do not do the job: what the machine gives at most. Shown, but never the peer that a ratio is to.
LIMITS = ("copy", "generator alone")

# Precision -> names of the peak it is held against; the first that was measured counts.
_CPU_PEAKS = {
    "fp32": ("float32_gflops",),
    "bf16": ("bf16_gflops", "float32_gflops"),
    "fp16": ("float16_gflops", "float32_gflops"),
    "fast": ("bf16_gflops", "float32_gflops"),
}
_CUDA_PEAKS = {**_CPU_PEAKS, **dict.fromkeys(("fp16", "fast"), ("float16_gflops", "bf16_gflops"))}


def meets(row: Row, precision: str) -> bool:
    """Whether the output is as close to eager float32 as `precision` asks; no difference at all is written as None.

    An unknown difference passes for a peer and fails for us: in doubt, the comparison is the harder one.
    """
    if "psnr_db" not in row.facts:
        return not row.ours
    psnr = row.facts["psnr_db"]
    return psnr is None or psnr >= PARITY_DB[precision]


def peers(results: Results, row: Row) -> list[Row]:
    """The peers that `row` is compared with: measured in its group, and as faithful as its precision asks."""
    precision = row.facts.get("precision")
    return [
        peer
        for peer in results.group(row.group)
        if not peer.ours
        and peer.contender not in LIMITS
        and peer.failure is None
        and peer.measured
        and (precision is None or meets(peer, precision))
    ]


def best_of_ours(results: Results, group: str, precisions: Sequence[str]) -> Row | None:
    """Our fastest contender of these precisions that keeps its own parity limit."""
    rows = [
        row
        for row in results.group(group)
        if row.ours
        and row.failure is None
        and row.measured
        and row.facts.get("precision") in precisions
        and meets(row, row.facts["precision"])
    ]
    return min(rows, key=lambda row: statistics.median(row.measured), default=None)


def fastest_peers(results: Results, row: Row) -> Iterator[tuple[float, float, str]]:
    """Per round: the seconds of `row`, those of the fastest of its peers, and that one's name."""
    others = peers(results, row)
    for index, own in enumerate(row.seconds):
        times = [(seconds, peer.contender) for peer in others if (seconds := at(peer, index)) is not None]
        if own is not None and times:
            yield own, *min(times)


def standing(results: Results, row: Row) -> tuple[float, float, float, str] | None:
    """The median of fastest peer's seconds / own seconds within rounds, its interval, and that peer's name.

    More than 1 means that `row` is faster. The peer named is the one that was fastest most often.

    Returns:
        None where there is nothing to compare: no peer, no common round, a failure, or an output of ours that is not
        as close to eager float32 as its own precision promises.
    """
    precision = row.facts.get("precision")
    if row.failure is not None or (precision is not None and not meets(row, precision)):
        return None
    rounds = list(fastest_peers(results, row))
    if not rounds:
        return None
    name = Counter(peer for _, _, peer in rounds).most_common(1)[0][0]
    return *summary([peer / own for own, peer, _ in rounds]), name


def peak_gflops(results: Results, group: str, precision: str) -> list[float | None]:
    """The peak of each round of `group` for `precision`, in GFLOP/s; None in a round where it was not measured."""
    table = _CPU_PEAKS if results.machine.get("device", "cpu") == "cpu" else _CUDA_PEAKS
    of_group = [peak for peak in results.peaks if peak.get("group") == group]
    for name in table.get(precision, ()):
        if any(peak.get(name) for peak in of_group):
            return [peak.get(name) or None for peak in of_group]
    return []


def gflops(row: Row) -> float | None:
    """GFLOP/s, counted as direct convolution; None where the work is not known."""
    gflop = row.facts.get("gflop")
    return gflop / statistics.median(row.measured) if gflop and row.measured else None


def share_of_peak(results: Results, row: Row) -> float | None:
    """Median over rounds of GFLOP/s over the peak of the same round, in 0 to 1 (beyond with fewer multiplications)."""
    gflop, precision = row.facts.get("gflop"), row.facts.get("precision")
    if not gflop or precision is None:
        return None
    peaks = peak_gflops(results, row.group, precision)
    shares = [
        gflop / own / peak
        for own, peak in zip(row.seconds, peaks, strict=False)
        if own is not None and peak is not None
    ]
    return statistics.median(shares) if shares else None


def at(row: Row, index: int) -> float | None:
    """Seconds of one round; None where the row sat it out or ended before."""
    return row.seconds[index] if index < len(row.seconds) else None


def psnr_text(row: Row) -> str:
    """PSNR for a table."""
    if "psnr_db" not in row.facts:
        return ""
    psnr = row.facts["psnr_db"]
    return "identical" if psnr is None or math.isinf(psnr) else f"{psnr:.0f} dB"


def ratio_text(ratio: float, low: float, high: float) -> str:
    """A ratio with its interval, and in words where it is not in our favour."""
    verdict = ", slower" if high < 1 else "" if low > 1 else ", no clear difference"
    return f"{ratio:.2f}x ({low:.2f} to {high:.2f}){verdict}"
