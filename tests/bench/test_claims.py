"""Claims in documents: what figures support passes, everything else is refused with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import claims, results
from bench.claims import ClaimError, parse
from bench.results import Results, Row

PAGE = Path("README.md")


def row(group: str, contender: str, ms: list[float], precision: str, psnr: float, **facts: float) -> Row:
    values = {"precision": precision, "psnr_db": psnr, "peak_memory_bytes": 1e8, "first_frame_seconds": 1.0, **facts}
    return Row(group, contender, contender.startswith("engine"), [value / 1e3 for value in ms], None, values)


@pytest.fixture
def files() -> dict[str, Results]:
    """Ours is 2.5 times as fast as the best peer in float32; in bf16 2 times at one size, half as fast at another."""
    machine = {"name": "amd-zen4", "processor": "AMD EPYC", "device": "cpu"}
    rows = [
        row("resnet 256x256", "engine fused fp32", [40, 40], "fp32", 75.0, peak_memory_bytes=5e7),
        row("resnet 256x256", "engine fused bf16", [20, 20], "bf16", 48.0),
        row("resnet 256x256", "engine fused fast", [20, 20], "fast", 30.0),  # misses its limit
        row("resnet 256x256", "openvino fp32", [100, 100], "fp32", 80.0),
        row("resnet 256x256", "openvino bf16", [40, 40], "bf16", 46.0),
        row("resnet 256x256", "ncnn fp32", [120, 120], "fp32", 80.0, first_frame_seconds=0.5),
        row("resnet 256x256", "sloppy bf16", [5, 5], "bf16", 41.0),
        row("unet 640x360", "engine fused bf16", [30, 30], "bf16", 48.0),
        row("unet 640x360", "openvino bf16", [15, 15], "bf16", 48.0),
    ]
    return {
        "model-amd-zen4": Results("model", machine, "2026-11-23", {}, rows),
        "ops-amd-zen4": Results("ops", machine, "2026-11-23", {}, []),
    }


def complaints(text: str, files: dict[str, Results]) -> list[str]:
    return claims.unsupported(PAGE, text, files)


def claim(fields: str, said: str = "On an AMD Zen 4 it is faster than its peers.") -> str:
    return f"{said} <!-- claim: {fields} -->\n"


@pytest.mark.parametrize(
    "text",
    [
        "It is faster than every other runtime.",
        "The fastest engine for video.",
        "It is 3 times as fast.",
        "It is three times faster.",
        "It is 3.5x faster.",
        "It takes less memory than OpenVINO.",
        "Its first frame comes sooner than with any peer.",
        "It outperforms ncnn.",
        "It beats every peer.",
        "| `fused` | the fastest |",
        "- plain words\n- it is faster\n  than all of them",
        "One sentence. Another is **faster than** it.",
    ],
)
def test_a_claim_without_a_figure_is_refused(text: str, files: dict[str, Results]) -> None:
    (line,) = complaints(text, files)
    assert "without a figure" in line
    assert line.startswith("README.md:")


@pytest.mark.parametrize(
    "text",
    [
        "`auto` takes the faster one, and remembers the winner.",
        "Two threads give 1.9 times the speed.",
        "<!-- bench:model -->\nmore than 1 is faster than the fastest\n<!-- /bench:model -->",
        "```\nfaster than light\n```",
        "Half of the time it waits.",
        "SSIM is hard to beat.",
    ],
)
def test_what_is_no_claim_passes(text: str, files: dict[str, Results]) -> None:
    assert complaints(text, files) == []


def test_the_line_is_that_of_the_paragraph(files: dict[str, Results]) -> None:
    text = "# Title\n\n<!-- bench:ops -->\n| a |\n| b |\n<!-- /bench:ops -->\n\nFine.\nIt is the fastest.\n"
    assert complaints(text, files)[0].startswith("README.md:8: ")


@pytest.mark.parametrize(
    "fields",
    [
        "file=model-amd-zen4 precision=fp32 group='resnet *' ratio=2.5",
        "file=model-amd-zen4 precision=fp32,bf16 group='resnet 256x256' ratio=2.0",
        "file=model-amd-zen4 precision=fp32 group='resnet *' peer='ncnn fp32' ratio=3",
        "file=model-amd-zen4 precision=fp32 group='resnet *' metric=peak_memory_bytes ratio=2",
    ],
)
def test_what_was_measured_may_be_said(fields: str, files: dict[str, Results]) -> None:
    assert complaints(claim(fields), files) == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ("file=model-amd-zen4 precision=fp32 group='resnet *' ratio=2.6", "2.6 is claimed and 2.50 measured, fp32 of"),
        ("file=model-amd-zen4 precision=bf16 ratio=1", "1 is claimed and 0.50 measured, bf16 of unet 640x360"),
        ("file=model-amd-zen4 precision=fast group='resnet *' ratio=1", "ours was not measured in fast, or misses"),
        ("file=model-amd-zen4 precision=fp32 ratio=1", "ours was not measured in fp32, or misses its limit, at unet"),
        ("file=model-amd-zen4 precision=fp32 group='vgg *' ratio=1", "no group like 'vgg \\*'"),
        ("file=model-amd-zen4 precision=fp32 group='resnet *' peer=mnn ratio=1", "mnn can't be compared"),
        (
            "file=model-amd-zen4 precision=fp32 group='resnet *' metric=first_frame_seconds ratio=1",
            "1 is claimed and 0.50 measured",
        ),
        ("file=model-intel-amx precision=fp32 ratio=1", "no results of bench model in model-intel-amx.json"),
        ("file=ops-amd-zen4 precision=fp32 ratio=1", "no results of bench model in ops-amd-zen4.json"),
        ("file=model-amd-zen4 ratio=1", "needs file, precision and ratio"),
        ("file=model-amd-zen4 precision=fp32 ratio=much", "needs file, precision and ratio"),
        ("file=model-amd-zen4 precision=fp32 ratio=0.9", "less than 1"),
        ("file=model-amd-zen4 precision=fp32 ratio=nan", "less than 1"),
        ("file=model-amd-zen4 precision=fp32 ratio=1 colour=red", "a claim has no colour"),
        ("file=model-amd-zen4 precision=fp32 ratio=1 metric=watts", "metric 'watts' is unknown"),
    ],
)
def test_what_was_not_measured_may_not(fields: str, reason: str, files: dict[str, Results]) -> None:
    (line,) = complaints(claim(fields), files)
    assert reason.replace("\\", "") in line
    assert "\n" not in line


def test_a_claim_names_its_processor(files: dict[str, Results]) -> None:
    fields = "file=model-amd-zen4 precision=fp32 group='resnet *' ratio=2.5"
    (line,) = complaints(claim(fields, "It is faster than its peers."), files)
    assert "write 'AMD Zen 4' in the sentence" in line
    other_sentence = claim(fields, "On an AMD Zen 4 it runs. It is faster than its peers.")
    assert "AMD Zen 4" in complaints(other_sentence, files)[0]


@pytest.mark.parametrize(
    ("said", "supported"),
    [
        ("On an AMD Zen 4 it is 2.5 times as fast.", True),
        ("On an AMD Zen 4 it is 2 to 2.5 times as fast.", True),
        ("On an AMD Zen 4 it is 2 to 3 times as fast.", False),
        ("On an AMD Zen 4 it is 4x faster.", False),
    ],
)
def test_a_number_of_times_is_one_that_was_measured(said: str, supported: bool, files: dict[str, Results]) -> None:
    fields = "file=model-amd-zen4 precision=fp32,bf16 group='resnet *' ratio=2"
    assert (complaints(claim(fields, said), files) == []) == supported


def test_one_sentence_may_have_several_comments(files: dict[str, Results]) -> None:
    good, bad = (f"<!-- claim: file=model-amd-zen4 precision=fp32 group='resnet *' ratio={r} -->" for r in ("2", "9"))
    assert complaints(f"On an AMD Zen 4 it is faster than any peer.\n{good}\n{good}\n", files) == []
    assert len(complaints(f"On an AMD Zen 4 it is faster than any peer.\n{good}\n{bad}\n", files)) == 1


def test_the_fields_of_a_claim() -> None:
    found = parse(' file=model-amd-zen4 group="resnet9-64 *" precision=fp32,bf16 peer="ncnn fp32" ratio=1.5 ')
    assert (found.file, found.group, found.peer) == ("model-amd-zen4", "resnet9-64 *", "ncnn fp32")
    assert found.precisions == ("fp32", "bf16")
    with pytest.raises(ClaimError, match="can't be read"):
        parse("file='unclosed")


def test_the_claims_of_this_repository_are_supported_and_there_are_some() -> None:
    root = Path(__file__).parents[2]
    files = {path.stem: results.read(path) for path in results.FOLDER.glob("*.json")}
    texts = {page: page.read_text() for page in (root / "README.md", *(root / "docs").glob("*.md"))}
    assert [line for page, text in texts.items() for line in claims.unsupported(page, text, files)] == []
    assert "<!-- claim:" in texts[root / "README.md"]
