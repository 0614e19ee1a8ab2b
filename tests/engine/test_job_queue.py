"""Several jobs in one run: sources, folders and files of jobs; one that fails, one that is stopped; a dry run."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import dry_run, save_generator
from engine.generators import build
from engine.generators.resnet import ResNetConfig
from engine.job_queue import JobsFileError, groups_of, table_of
from engine.run import build_parser, main
from engine.switching import StyleSwitcher
from engine.video import FileSink
from tests.media import make_video, read


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("style") / "tiny.safetensors"
    save_generator(build(ResNetConfig(width=4, blocks=1)), path, metadata={})
    return path


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    """A good one, a damaged one and another good one, in a folder."""
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("a", "c"):
        make_video(folder / f"{name}.mp4")
    (folder / "b.mp4").write_bytes(b"junk" * 100)
    return [folder / f"{name}.mp4" for name in "abc"]


def options_of(style: Path) -> list[str]:
    return ["--style", str(style), "--precision", "fp32", "--backend", "fused"]


def table_in(text: str, heading: str = "source ") -> list[list[str]]:
    """The words of the lines of the table at the end."""
    lines = text.splitlines()
    begin = max(number for number, line in enumerate(lines) if line.startswith(heading))
    return [line.split() for line in lines[begin + 1 :]]


def groups(path: Path, *arguments: str) -> Any:
    parser = build_parser()
    return groups_of(parser.parse_args(["--jobs", str(path), *arguments]), parser)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# --- what becomes of them ---


def test_a_job_that_fails_does_not_stop_the_others(
    films: list[Path], style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, report = tmp_path / "out", tmp_path / "report.json"
    sources = list(map(str, films))
    assert main([*sources, "-o", str(output), *options_of(style), "--json", str(report)]) == 1
    assert [path.name for path in sorted(output.iterdir())] == ["a_tiny.mp4", "c_tiny.mp4"]
    said = capsys.readouterr().err
    assert said.count("error: ") == 1
    rows = table_in(said)
    assert [row[0] for row in rows] == sources
    assert [row[-1] for row in rows] == ["done", "failed", "done"]
    assert rows[0][1:3] == [str(output / "a_tiny.mp4"), "10"]
    told = json.loads(report.read_text())
    assert [result["source"] for result in told["results"]] == [sources[0], sources[2]]
    assert [failed["source"] for failed in told["failed"]] == [sources[1]]
    assert told["not_begun"] == []


def test_an_unexpected_error_does_not_stop_the_others(
    films: list[Path], style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = FileSink.__init__

    def failing(sink: FileSink, path: Path, **options: Any) -> None:
        if path.name == "a_tiny.mp4":
            raise ZeroDivisionError("a defect")
        original(sink, path, **options)

    monkeypatch.setattr(FileSink, "__init__", failing)
    assert main([str(films[0]), str(films[2]), "-o", str(tmp_path / "out"), *options_of(style)]) == 1
    said = capsys.readouterr().err
    assert "error: " + str(films[0]) + ": unexpected ZeroDivisionError: a defect" in said
    assert [row[-1] for row in table_in(said)] == ["failed", "done"]


def test_what_was_left_out_is_said(
    films: list[Path], style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "a_tiny.mp4").write_bytes(b"done before")
    sources = [str(films[0]), str(films[2])]
    assert main([*sources, "-o", str(output), *options_of(style), "--skip-existing"]) == 0
    first, _ = table_in(capsys.readouterr().err)
    assert " ".join(first[-2:]) == "left out"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_says_what_was_not_begun(
    number: int,
    films: list[Path],
    style: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is done stays, the one under way becomes partial, the last one is not begun."""
    make_video(films[1], pts=[512 * i for i in range(200)])
    submit, seen = StyleSwitcher.submit, []

    def signalling(switcher: StyleSwitcher, frames: Any) -> Any:
        seen.append(frames)
        if len(seen) == 30:
            os.kill(os.getpid(), number)
        elif len(seen) > 30:
            time.sleep(0.01)
        return submit(switcher, frames)

    monkeypatch.setattr(StyleSwitcher, "submit", signalling)
    output, report = tmp_path / "out", tmp_path / "report.json"
    status = main([str(films[0].parent), "-o", str(output), *options_of(style), "--json", str(report)])
    assert status == 128 + number
    rows = table_in(capsys.readouterr().err)
    assert [rows[0][-1], rows[1][-1], " ".join(rows[2][-2:])] == ["done", "stopped", "not begun"]
    assert [path.name for path in sorted(output.iterdir())] == ["a_tiny.mp4", "b_tiny.partial.mp4"]
    assert json.loads(report.read_text())["not_begun"] == [str(films[2])]


def test_one_job_has_no_table(films: list[Path], style: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(films[0]), *options_of(style)]) == 0
    assert "source " not in capsys.readouterr().err


def test_numbers_stand_at_the_right() -> None:
    lines = table_of(("source", "output", "frames", "state"), [("a", "bb", "7", "done"), ("abcdefg", "", "1000", "x")])
    assert lines == ["source   output  frames  state", "a        bb           7  done", "abcdefg            1000  x"]


# --- a file of jobs ---


def test_jobs_have_their_own_options(films: list[Path], style: Path, tmp_path: Path) -> None:
    """The file's defaults hold where a job says nothing, and the command line's where neither does."""
    file = written(
        tmp_path / "jobs.toml",
        f"""
        frames = 4
        [[job]]
        source = "{films[0]}"
        output = "{tmp_path}/one.mkv"
        start = 00:00:00.2
        codec = "ffv1"
        [[job]]
        source = ["{films[0]}", "{films[2]}"]
        output = "{tmp_path}/two/"
        frames = 3
        strength = 0.5
        compare = "side"
        """,
    )
    assert main(["--jobs", str(file), *options_of(style), "--quiet"]) == 0
    assert read(tmp_path / "one.mkv").codec == "ffv1"
    assert len(read(tmp_path / "one.mkv").times) == 4
    assert [path.name for path in sorted((tmp_path / "two").iterdir())] == ["a_tiny.mp4", "c_tiny.mp4"]
    assert read(tmp_path / "two" / "a_tiny.mp4").size == (128, 48)
    assert len(read(tmp_path / "two" / "c_tiny.mp4").times) == 3


def test_what_a_file_says_becomes_options(tmp_path: Path) -> None:
    file = written(
        tmp_path / "jobs.toml",
        """
        style = "a"
        overwrite = true
        start = "1:30"
        [[job]]
        source = "in.mp4"
        [[job]]
        source = "in.mp4"
        style = ["b", "c"]
        overwrite = false
        crf = 30
        """,
    )
    first, second = (group.options for group in groups(file, "--crf", "20", "--style", "z"))
    assert (first.style, first.overwrite, first.start, first.crf) == (["a"], True, Fraction(90), 20)
    assert (second.style, second.overwrite, second.start, second.crf) == (["b", "c"], False, Fraction(90), 30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[job]]\nsource = 'a'\nstlye = 'b'", r"jobs\.toml: job 1: unknown key 'stlye'; did you mean style\?"),
        ("[[job]]\nsource = 'a'\npart_seconds = 3", r"unknown key 'part_seconds'; did you mean part-seconds\?"),
        ("[[job]]\nsuorce = 'a'", r"job 1: source is missing"),
        ("crff = 3\n[[job]]\nsource = 'a'", r"above the first job: unknown key 'crff'; did you mean crf\?"),
        ("[[job]]\nsource = 'a'\n[[job]]\nsource = 'b'\nzzzzzz = 1", r"job 2: unknown key 'zzzzzz'; python -m"),
        ("[[job]]\nsource = 'a'\nquiet = true", r"quiet holds for all jobs: give --quiet on the command line"),
        ("[[job]]\nsource = 'a'\ncrf = 99", r"job 1: --crf: '99' is not a whole number from 0 to 63"),
        ("[[job]]\nsource = 'a'\nstart = '1:99'", r"job 1: --start: invalid time '1:99'"),
        ("[[job]]\nsource = 'a'\ncompare = 'all'", r"job 1: --compare: invalid choice: 'all'"),
        ("[[job]]\nsource = 'a'\noverwrite = 'yes'", r"overwrite is 'yes', and true or false is needed"),
        ("[[job]]\nsource = 'a'\ncrf = true", r"crf is True, and a text or a number is needed"),
        ("[[job]]\nsource = 3", r"source is missing"),
        ("[[job]]\nsource = []", r"source is missing"),
        ("source = 'a'", r"no job in it"),
        ("job = 3", r"no job in it"),
        ("", r"no job in it"),
        ("[[job]\n", r"not a TOML file"),
        ("[[job]]\nsource = 'a'\nstart = 1:30", r"not a TOML file .* texts are quoted"),
        (
            "[[job]]\nsource = 'a'\noutput = 'o.mp4'\n[[job]]\nsource = 'b'\noutput = 'o.mp4'",
            r"jobs 1 and 2 both write o\.mp4",
        ),
    ],
)
def test_a_bad_file_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(JobsFileError, match=message) as caught:
        groups(written(tmp_path / "jobs.toml", text))
    assert "\n" not in str(caught.value)


def test_options_that_do_not_go_together_are_found_first(
    films: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the first job is begun."""
    text = f"[[job]]\nsource = '{films[0]}'\n[[job]]\nsource = '{films[2]}'\nstart = 3\nend = 2"
    assert main(["--jobs", str(written(tmp_path / "jobs.toml", text))]) == 1
    assert "jobs.toml: job 2: nothing lies between" in capsys.readouterr().err
    assert len(list(films[0].parent.iterdir())) == 3


def test_a_device_that_is_not_there_fails_its_job_alone(
    films: list[Path], style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"[[job]]\nsource = '{films[0]}'\ndevice = 'cuda:99'\n[[job]]\nsource = '{films[2]}'"
    assert main(["--jobs", str(written(tmp_path / "jobs.toml", text)), *options_of(style)]) == 1
    assert [row[-1] for row in table_in(capsys.readouterr().err)] == ["failed", "done"]


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_can_not_be_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(JobsFileError, match="can't be read"):
        groups(tmp_path / name)


def test_sources_beside_a_file(tmp_path: Path) -> None:
    parser = build_parser()
    options: argparse.Namespace = parser.parse_args(["in.mp4", "--jobs", "jobs.toml"])
    with pytest.raises(JobsFileError, match=r"in\.mp4: the sources of --jobs are in jobs\.toml"):
        groups_of(options, parser)


def test_a_translator_stays_for_jobs_that_ask_for_the_same(
    films: list[Path], style: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, original = [], StyleSwitcher.__init__

    def counting(switcher: StyleSwitcher, styles: Any, make: Any, **options: Any) -> None:
        made.append(styles)
        original(switcher, styles, make, **options)

    monkeypatch.setattr(StyleSwitcher, "__init__", counting)
    job = f"[[job]]\nsource = '{films[0]}'\nframes = 2\n"
    file = written(tmp_path / "jobs.toml", job + job + "crf = 30\n" + job + "precision = 'bf16'\n")
    assert main(["--jobs", str(file), *options_of(style), "--quiet"]) == 0
    assert len(made) == 2


# --- a dry run ---


def test_a_dry_run_writes_nothing(
    films: list[Path], style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It measures jobs that are alike once."""
    measured = []
    original = dry_run.DryRun._measure

    def counting(run: dry_run.DryRun, job: str, trial: Any) -> Any:
        measured.append(job)
        return original(run, job, trial)

    monkeypatch.setattr(dry_run.DryRun, "_measure", counting)
    before = sorted(tmp_path.rglob("*"))
    sources = [str(films[0]), str(films[2])]
    assert main([*sources, "-o", f"{tmp_path}/new/folder", *options_of(style), "--dry-run"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    rows = table_in(capsys.readouterr().out)
    assert rows[0][:6] == [sources[0], f"{tmp_path}/new/folder/a_tiny.mp4", "64x48", "10", "0:00", "fused"]
    assert rows[2][:2] == ["together", "0:00,"]
    assert measured == [sources[0]]


def test_a_dry_run_finds_what_would_fail(
    films: list[Path], style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "there.mp4"
    output.write_bytes(b"done before")
    a, b, c = (f"[[job]]\nsource = '{film}'\n" for film in films)
    text = f"{a}output = '{output}'\n{b}{c}"
    file = written(tmp_path / "jobs.toml", text)
    assert main(["--jobs", str(file), *options_of(style), "--dry-run"]) == 1
    printed = capsys.readouterr()
    assert "there.mp4: exists already" in printed.err
    assert "b.mp4: not a video file" in printed.err
    assert [row[0] for row in table_in(printed.out)] == [str(films[2])]
    assert main(["--jobs", str(file), *options_of(style), "--dry-run", "--skip-existing"]) == 1
    assert "left out: it is there already" in capsys.readouterr().out
    assert output.read_bytes() == b"done before"


def test_a_dry_run_stops_measuring(style: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its seconds, however long the film is."""
    monkeypatch.setattr(dry_run, "_SECONDS", 0.0)
    film, report = make_video(tmp_path / "a.mp4", pts=[512 * i for i in range(400)]), tmp_path / "report.json"
    submit, seen = StyleSwitcher.submit, []

    def counting(switcher: StyleSwitcher, frames: Any) -> Any:
        seen.append(frames)
        return submit(switcher, frames)

    monkeypatch.setattr(StyleSwitcher, "submit", counting)
    assert main([str(film), *options_of(style), "--dry-run", "--json", str(report)]) == 0
    assert 2 <= len(seen) < 100
    (plan,) = json.loads(report.read_text())["plans"]
    assert (plan["frames"], plan["size"]) == (400, [64, 48])
    assert plan["seconds"] > 0


def test_a_dry_run_takes_nothing_from_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert main([str(fifo), "--dry-run"]) == 0
    assert "not looked at: it can be read only once" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["-y"]])
def test_films_of_one_stem_become_two_files(films: list[Path], style: Path, tmp_path: Path, options: list[str]) -> None:
    folder, output = tmp_path / "alike", tmp_path / "out"
    folder.mkdir()
    for suffix in (".mp4", ".mkv"):
        (folder / f"clip{suffix}").write_bytes(films[0].read_bytes())
    assert main([str(folder), "-o", f"{output}/", "--style", str(style), "--frames", "2", "--quiet", *options]) == 0
    assert sorted(path.stem for path in output.iterdir()) == ["clip_tiny", "clip_tiny-2"]
