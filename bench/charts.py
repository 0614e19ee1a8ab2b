"""The charts of docs/charts/, drawn from results: ours in one colour, peers in grey, the machine's limit marked."""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import machine_title
from bench.results import Results, Row
from bench.standing import meets, peak_gflops, psnr_text
from engine.errors import EngineError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Vermilion for us; a lighter one where ours has two lines or bars to tell apart.
_OURS, _OURS_LIGHT, _PEER, _LIMIT, _TEXT = "#d9381e", "#ee9a88", "#a9adb2", "#4a4f55", "#2b2e32"
_DASHES = ("-", "--", ":", "-.")
_BAR_SIZES = ("640x360", "256x256", "1280x720", "1920x1080")
_PEERS_IN_BARS = 4  # of each precision
_BASELINE = "pytorch eager fp32"
_DPI = 144


@dataclasses.dataclass(frozen=True)
class Picture:
    """A chart that can be drawn: what its title says, and how."""

    title: str
    draw: Callable[[], Figure]


def plan(named: Iterable[tuple[str, Results]]) -> dict[str, Picture]:
    """File name -> chart, for all results that have something to draw; needs no matplotlib."""
    pictures = {}
    for stem, results in named:
        for suffix, title, has_data, draw in _CHARTS.get(results.command, ()):
            if has_data(results):
                full = f"{title}: {_where(results)}"
                pictures[f"{stem}-{suffix}.png"] = Picture(full, functools.partial(draw, results, full))
    return pictures


def draw(pictures: dict[str, Picture], folder: Path) -> None:
    """Writes the charts as PNG; with one version of matplotlib the same results give the same bytes.

    Raises:
        EngineError: matplotlib is missing.
    """
    if not pictures:
        return
    try:
        import matplotlib.style
    except ImportError as error:
        raise EngineError("charts need matplotlib: pip install 'streamgan[bench]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    # The defaults and not the user's matplotlibrc, so that charts are alike everywhere.
    with matplotlib.style.context(["default", _STYLE]):
        for name, picture in pictures.items():
            picture.draw().savefig(folder / name, dpi=_DPI, metadata={"Software": None})


_STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _PEER,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelcolor": _TEXT,
    "text.color": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "figure.titlesize": 11,
    "legend.frameon": False,
}


def _where(results: Results) -> str:
    machine = results.machine
    device = str(machine.get("device", "cpu"))
    if device != "cpu":
        return device
    return f"{machine_title(machine)}, {machine.get('threads')} threads"


def _panels(title: str, count: int, *, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels, in rows of `columns`; sizes of one panel in inches."""
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(width * columns, 6.4), height * rows + 0.4), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for unused in grid[count:]:
        unused.set_axis_off()
    return figure, list(grid[:count])


def _measured(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.failure is None and row.measured]


def _fps(row: Row) -> float:
    return 1 / statistics.median(row.measured)


def _short(name: str) -> str:
    return name.removeprefix("engine ")


# model: bars


def _split(group: str) -> tuple[str, str]:
    """Generator and size of a group of the model benchmark."""
    generator, _, size = group.rpartition(" ")
    return generator, size


def _bar_groups(results: Results) -> list[str]:
    """One group per generator: the first of the preferred sizes that it was measured at."""
    chosen: dict[str, str] = {}
    for size in _BAR_SIZES:
        for group in results.groups:
            generator, of_group = _split(group)
            if of_group == size and _measured(results.group(group)):
                chosen.setdefault(generator, group)
    return [group for group in results.groups if group in chosen.values()]


def _draw_bars(results: Results, title: str) -> Figure:
    groups = _bar_groups(results)
    bars = {group: _bars(results, group) for group in groups}
    most = max(len(rows) for rows in bars.values())
    figure, panels = _panels(title, len(groups), columns=2, width=5.4, height=0.24 * most + 1.15)
    for axes, group in zip(panels, groups, strict=True):
        _draw_bar_panel(axes, results, group, bars[group])
    return figure


def _bars(results: Results, group: str) -> list[Row]:
    """All of ours, the best peers of each precision and plain PyTorch, slowest first: the fastest bar is on top."""
    rows = sorted(_measured(results.group(group)), key=_fps, reverse=True)
    kept = {row.contender for row in rows if row.ours or row.contender == _BASELINE}
    for precision in {row.facts.get("precision") for row in rows}:
        peers = [row for row in rows if not row.ours and row.facts.get("precision") == precision]
        kept.update(row.contender for row in sorted(peers, key=lambda row: not _is_faithful(row))[:_PEERS_IN_BARS])
    return [row for row in reversed(rows) if row.contender in kept]


def _draw_bar_panel(axes: Axes, results: Results, group: str, rows: Sequence[Row]) -> None:
    generator, size = _split(group)
    axes.set_title(f"{generator}, {size}")
    places = range(len(rows))
    bars = axes.barh(places, [_fps(row) for row in rows], height=0.72, edgecolor="white", linewidth=0)
    for bar, row in zip(bars, rows, strict=True):
        bar.set_facecolor(_OURS if row.ours else _PEER)
        bar.set_hatch("" if _is_faithful(row) else "////")
    axes.set_yticks(places, [row.contender for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.ours else "normal")
    for place, row in zip(places, rows, strict=True):
        text = axes.annotate(
            _bar_text(row), (_fps(row), place), (3, 0), textcoords="offset points", va="center", size=8, zorder=3
        )
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6})
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("frames/s")
    limits = _limits(results, group)
    for (name, limit), dash in zip(limits.items(), _DASHES[1:], strict=False):
        axes.axvline(limit, color=_LIMIT, linestyle=dash, linewidth=1.2, label=f"{name} limit: {limit:.3g}", zorder=2)
    axes.set_xlim(0, 1.14 * max([_fps(row) for row in rows] + list(limits.values())))
    if limits:
        # The shortest bars are at the bottom and leave room there.
        axes.legend(loc="lower right", fontsize=8, frameon=True, facecolor="white", edgecolor="none", framealpha=1)


def _bar_text(row: Row) -> str:
    """The figure, and the PSNR of an output that is too far from eager float32 to count as the same work."""
    return f"{_fps(row):.3g}" if _is_faithful(row) else f"{_fps(row):.3g} (only {psnr_text(row)})"


def _is_faithful(row: Row) -> bool:
    precision = row.facts.get("precision")
    return precision is None or meets(row, precision)


def _limits(results: Results, group: str) -> dict[str, float]:
    """Frames per second at the machine's peak, if every multiplication of direct convolution is done."""
    gflop = next((row.facts["gflop"] for row in results.group(group) if row.facts.get("gflop")), None)
    precisions = dict.fromkeys(row.facts["precision"] for row in results.group(group) if row.facts.get("precision"))
    limits: dict[str, float] = {}
    for precision in sorted(precisions.keys() - {"fast"}, reverse=True):
        peaks = [peak for peak in peak_gflops(results, group, precision) if peak]
        limit = statistics.median(peaks) / gflop if gflop and peaks else None
        if limit and limit not in limits.values():
            limits[precision] = limit
    return dict(sorted(limits.items(), key=lambda item: item[1]))


# model: speed over frame area


def _area_lines(results: Results) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Generator -> contender -> megapixels and frames per second, for generators measured at two sizes or more.

    Without outputs that are too far from eager float32 to count as the same work.
    """
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in _measured(results.rows):
        if not _is_faithful(row):
            continue
        generator, size = _split(row.group)
        width, _, height = size.partition("x")
        if width.isdigit() and height.isdigit():
            point = (int(width) * int(height) / 1e6, _fps(row))
            lines.setdefault(generator, {}).setdefault(row.contender, []).append(point)
    return {
        generator: {name: sorted(points) for name, points in by_name.items() if len(points) > 1}
        for generator, by_name in lines.items()
        if any(len(points) > 1 for points in by_name.values())
    }


def _draw_area(results: Results, title: str) -> Figure:
    lines = _area_lines(results)
    ours = {row.contender for row in results.rows if row.ours}
    precisions = {row.contender: str(row.facts.get("precision")) for row in results.rows}
    figure, panels = _panels(title, len(lines), columns=2, width=4.8, height=3.2)
    for axes, (generator, by_name) in zip(panels, lines.items(), strict=True):
        axes.set_title(generator)
        _draw_lines(axes, _best_lines(by_name, ours, precisions), ours)
        axes.set_xlabel("megapixels a frame")
        axes.set_ylabel("frames/s")
    return figure


def _best_lines(
    by_name: dict[str, list[tuple[float, float]]], ours: set[str], precisions: dict[str, str]
) -> dict[str, list[tuple[float, float]]]:
    """The best of ours and the best peer of each precision, on the largest area that they ran on.

    Of each precision, so that a peer that beats us in one of them is never hidden behind faster ones of another.
    """
    best: dict[tuple[str, bool], str] = {}
    for name in sorted(by_name, key=lambda name: by_name[name][-1], reverse=True):
        best.setdefault((precisions[name], name in ours), name)
    return {name: by_name[name] for _, name in sorted(best.items())}


def _draw_lines(axes: Axes, lines: dict[str, list[tuple[float, float]]], ours: set[str]) -> None:
    styles = {
        True: iter([(c, d) for d in _DASHES for c in (_OURS, _OURS_LIGHT)]),
        False: iter([(_PEER, d) for d in _DASHES * 4]),
    }
    for name, points in lines.items():
        colour, dash = next(styles[name in ours], (_PEER, ":"))
        xs, ys = zip(*points, strict=True)
        order = 3 if name in ours else 2
        axes.plot(xs, ys, dash, color=colour, marker="o", markersize=3.5, label=_short(name), zorder=order)
    places = sorted({x for points in lines.values() for x, _ in points})
    is_logarithmic = places[0] > 0
    if is_logarithmic:
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain_ticks(axes, [y for points in lines.values() for _, y in points])
    else:  # a quantity that begins at none, such as the number of blocks
        axes.set_ylim(bottom=0)
    ticks = _apart(places) if is_logarithmic else places
    axes.set_xticks(ticks, [f"{tick:.2g}" if tick < 10 else f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(visible=True, color="#e6e7e9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8)


def _apart(values: Sequence[float]) -> list[float]:
    """Those values whose labels have room beside each other on a logarithmic axis."""
    total = math.log(max(values) / min(values)) if len(values) > 1 and min(values) > 0 else 0.0
    kept: list[float] = []
    for value in values:
        if not kept or math.log(value / kept[-1]) > 0.09 * total:
            kept.append(value)
    return kept


def _plain_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Ticks at 1, 2 and 5 times powers of ten in plain digits: a short logarithmic axis has too few."""
    low, high = min(values), max(values)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    shown = [tick for tick in ticks if low / 1.6 <= tick <= high * 1.6]
    axes.set_yticks(shown, [f"{tick:g}" for tick in shown])


# latency


def _rates(results: Results) -> dict[tuple[str, float], list[Row]]:
    """Group and input rate -> the contenders that were given it."""
    rates: dict[tuple[str, float], list[Row]] = {}
    for row in _measured(results.rows):
        rates.setdefault((row.group, float(row.facts.get("input_fps") or 0)), []).append(row)
    return rates


def _draw_latency(results: Results, title: str) -> Figure:
    rates = _rates(results)
    ages = [1e3 * age for rows in rates.values() for row in rows for age in row.measured]
    figure, panels = _panels(title, len(rates), columns=3, width=3.6, height=2.7)
    for axes, ((group, rate), rows) in zip(panels, rates.items(), strict=True):
        of_generator = group.partition(", ")[2] or group
        axes.set_title(f"{of_generator}\n{rate:.3g} frames/s in" if rate else group)
        for row in rows:
            _draw_ages(axes, row)
        axes.set_xscale("log")
        axes.set_xlim(min(ages) / 1.2, max(ages) * 1.2)
        axes.set_ylim(0, 100)
        axes.set_xlabel("age of the picture when shown, ms")
        axes.set_ylabel("frames not older, %")
        axes.grid(visible=True, color="#e6e7e9", linewidth=0.7)
    for axes in panels:
        _plain_x_ticks(axes, ages)
    if any(not row.ours for row in results.rows):
        panels[0].legend(loc="best", fontsize=8)
    return figure


def _draw_ages(axes: Axes, row: Row) -> None:
    ages = sorted(1e3 * age for age in row.measured)
    shares = [100 * (place + 1) / len(ages) for place in range(len(ages))]
    colour = _OURS if row.ours else _PEER
    axes.plot(ages, shares, color=colour, linewidth=2, label=row.contender, drawstyle="steps-post")


def _plain_x_ticks(axes: Axes, values: Sequence[float]) -> None:
    low, high = min(values), max(values)
    steps = (1, 3) if high / low < 300 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    shown = [tick for tick in ticks if low / 1.2 <= tick <= high * 1.2]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.minorticks_off()


# pipeline: memory


def _memory_rows(results: Results) -> list[Row]:
    return [row for row in results.rows if len(row.facts.get("memory_bytes") or ()) > 1]


def _draw_memory(results: Results, title: str) -> Figure:
    groups = list(dict.fromkeys(row.group for row in _memory_rows(results)))
    figure, panels = _panels(title, len(groups), columns=2, width=6.4, height=3.4)
    for axes, group in zip(panels, groups, strict=True):
        axes.set_title(group)
        dashes = iter(_DASHES * 4)
        for row in _memory_rows(results):
            if row.group != group:
                continue
            times, sizes = zip(*row.facts["memory_bytes"], strict=True)
            colour, dash = (_OURS, "-") if row.ours else (_PEER, next(dashes))
            axes.plot(times, [size / 1e6 for size in sizes], dash, color=colour, linewidth=1.8, label=row.contender)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.set_xlabel("seconds")
        axes.set_ylabel("resident memory, MB")
        axes.grid(visible=True, color="#e6e7e9", linewidth=0.7)
        axes.legend(fontsize=8, loc="lower right")
    return figure


# scaling


def series_name(row: Row) -> str:
    """The engine of a row of the scaling benchmark, whose contender is the engine and x."""
    return str(row.facts.get("engine") or row.contender.rpartition(" ")[0] or row.contender)


def series(rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """Engine -> x and median seconds, sorted by x, of one group of the scaling benchmark."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in _measured(rows):
        if row.facts.get("x") is not None:
            lines.setdefault(series_name(row), []).append((float(row.facts["x"]), statistics.median(row.measured)))
    return {name: sorted(points) for name, points in lines.items()}


def _scaling_groups(results: Results) -> list[str]:
    return [
        group for group in results.groups if any(len(points) > 1 for points in series(results.group(group)).values())
    ]


def _draw_scaling(results: Results, title: str) -> Figure:
    groups = _scaling_groups(results)
    figure, panels = _panels(title, len(groups), columns=2, width=4.8, height=3.2)
    for axes, group in zip(panels, groups, strict=True):
        rows = results.group(group)
        ours = {series_name(row) for row in rows if row.ours}
        milliseconds = {name: [(x, 1e3 * y) for x, y in points] for name, points in series(rows).items()}
        axes.set_title(group)
        _draw_lines(axes, milliseconds, ours)
        axes.set_xlabel(group)
        axes.set_ylabel("ms")
    return figure


# Command -> suffix of the file, title, whether there is something to draw, how.
_CHARTS: dict[str, tuple[tuple[str, str, Callable[[Results], object], Callable[[Results, str], Figure]], ...]] = {
    "model": (
        ("speed", "Frames per second, and the limit of direct convolution", _bar_groups, _draw_bars),
        ("area", "Speed over the size of the frame", _area_lines, _draw_area),
    ),
    "latency": (("age", "How old a live picture is", _rates, _draw_latency),),
    "pipeline": (("memory", "Memory while a video is translated", _memory_rows, _draw_memory),),
    "scaling": (("time", "Time over one quantity", _scaling_groups, _draw_scaling),),
}
