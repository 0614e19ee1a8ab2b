"""The comparison from file to file: rows, failures, interruption, and its clips. Nothing judges a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from bench import clips, pipeline, results
from bench.__main__ import main
from bench.measured_process import run_process
from engine import save_generator
from engine.errors import SourceError
from engine.generators import build
from engine.generators.resnet import ResNetConfig
from tests.media import Audio, make_sound, make_video

pytestmark = pytest.mark.time_limit(900)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("clip") / "tiny.mp4", audio=(Audio(seconds=0.4),))


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("style") / "tiny.safetensors"
    torch.manual_seed(0)
    save_generator(build(ResNetConfig(width=4, blocks=1)), path)
    return str(path)


@pytest.fixture(scope="module")
def measured(clip: Path, style: str, tmp_path_factory: pytest.TempPathFactory) -> results.Results:
    """One round of all contenders, as it is read back from the file."""
    report = tmp_path_factory.mktemp("report") / "report.json"
    options = ["--device", "cpu", "--threads", "1", "--rounds", "1", "--generator-seconds", "0.05"]
    assert main(["pipeline", str(clip), "--style", style, *options, "--json", str(report)]) == 0
    return results.read(report)


class OneFrameASecond(pipeline.GeneratorAlone):
    """Stands for the generator alone where its speed does not matter."""

    def __init__(self) -> None:
        self.engine, self.device = "eager fp32", "cpu"

    def seconds_per_frame(self) -> float:
        return 1.0


def compare(clip: Path, **programs: str) -> pipeline.Comparison:
    """A comparison of Python programs, which get the clip and the output as arguments."""

    def contender(program: str) -> pipeline.Contender:
        return pipeline.Contender(
            lambda job, output: [sys.executable, "-S", "-c", program, str(job.clip), str(output)],
            facts=lambda printed: {"steady_fps": printed["rate"]},
        )

    table = {name: contender(program) for name, program in programs.items()}
    job = pipeline.Job(clip=clip, size=(64, 48), style="")
    return pipeline.Comparison("clip 64x48", job, clips.inspect(clip), table, OneFrameASecond())


COPY = "import shutil, sys; shutil.copy(*sys.argv[1:]); print('{\"rate\": 5}')"


def test_every_contender_that_can_run_delivers(measured: results.Results) -> None:
    assert measured.groups == ["tiny.mp4 64x48"]
    rows = {row.contender: row for row in measured.rows}
    assert rows.pop(pipeline.ALONE).measured
    table = pipeline.contenders("cpu")
    assert list(rows) == list(table)
    for name, row in rows.items():
        assert row.failure == table[name].unavailable
        if row.failure is None:
            assert row.facts["frames_right"], name
            assert row.facts["size"] == "64x48", name
            assert row.facts["fps"] == pytest.approx([1 / row.seconds[0]], rel=1e-4)
            for fact in ("steady_fps", "cpu_seconds_per_frame", "ratio_to_generator"):
                assert len(row.facts[fact]) == 1, fact
                assert row.facts[fact][0] > 0, fact


def test_ours_keeps_everything_and_the_others_what_they_keep(measured: results.Results) -> None:
    rows = {row.contender: row for row in measured.rows}
    ours = rows["engine.run"]
    assert ours.ours
    facts = ("frames", "frames_right", "timestamps_right", "sound", "codec")
    assert [ours.facts[name] for name in facts] == [10, True, True, True, "h264"]
    loop = rows["OpenCV loop, eager float32"]
    assert not loop.ours
    assert [loop.facts[name] for name in facts] == [10, True, True, False, "mpeg4"]
    pipe = rows["ffmpeg pipe, eager float32"]
    assert pipe.failure or [pipe.facts[name] for name in facts] == [10, True, True, True, "h264"]


def test_another_version_in_turn_with_this_one(clip: Path, style: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = [
        "--device",
        "cpu",
        "--threads",
        "1",
        "--rounds",
        "1",
        "--generator-seconds",
        "0.05",
        "--backend",
        "eager",
    ]
    here = Path(pipeline.__file__).parents[1]
    assert main(["pipeline", str(clip), "--style", style, *options, "--against", str(here), "--json", str(report)]) == 0
    rows = [row for row in results.read(report).rows if row.contender != pipeline.ALONE]
    other = f"engine.run of {here.name}"
    names = ["engine.run, first time", f"{other}, first time", "engine.run", other]
    assert [row.contender for row in rows] == names
    assert all(row.failure is None and row.facts["frames_right"] for row in rows)


def test_the_table_lists_all_rows(measured: results.Results, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.print_table(measured)
    printed = capsys.readouterr().out
    assert all(row.contender in printed for row in measured.rows)
    assert "10 frames, h264, 64x48, sound, timestamps right" in printed


def test_a_failing_contender_is_listed_with_its_reason(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = compare(
        clip,
        copy=COPY,
        broken="import sys; print('progress\\rno such thing', file=sys.stderr); sys.exit(3)",
        empty="",
    )
    comparison.run_round()
    comparison.run_round()
    copy, broken, empty, alone = comparison.rows
    assert len(copy.measured) == 2
    assert copy.facts["steady_fps"] == [5, 5]
    assert copy.facts["ratio_to_generator"] == pytest.approx([1 / seconds for seconds in copy.measured])
    assert (broken.seconds, broken.failure) == ([None, None], "no such thing")
    assert empty.failure
    assert "output.mp4" in empty.failure
    assert alone.seconds == [1.0, 1.0]
    report = results.start("pipeline", threads=1, arguments={"style": "none"})
    report.rows = comparison.rows
    pipeline.print_table(report)
    assert "no such thing" in capsys.readouterr().out


def test_what_is_lost_is_noticed() -> None:
    times = tuple(Fraction(index, 25) for index in range(4))
    sound = (Fraction(0), Fraction(1))
    source = clips.Contents("h264", (64, 48), times, (sound,))
    moved = tuple(time + Fraction(1, 25) for time in times)
    assert clips.Contents("vp9", (64, 48), times, (sound,)).keeps_times_of(source)
    assert not clips.Contents("h264", (64, 48), moved, (sound,)).keeps_times_of(source)
    assert clips.Contents("h264", (64, 48), moved, ()).keeps_times_of(source)  # nothing that it is early against
    assert not clips.Contents("h264", (64, 48), times[:3], ()).keeps_times_of(source)
    assert clips.Contents("h264", (64, 48), times, ()).keeps_sound_of(source) is False
    assert clips.Contents("h264", (64, 48), times, ((Fraction(0), Fraction(1, 2)),)).keeps_sound_of(source) is False
    assert source.keeps_sound_of(clips.Contents("h264", (64, 48), times, ())) is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="memory is read from /proc")
def test_memory_and_processor_time_include_children(tmp_path: Path) -> None:
    work = "data = b'x' * 50_000_000; end = time.time() + 0.7\nwhile time.time() < end: pass"
    program = f"import subprocess, sys\nsubprocess.run([sys.executable, '-S', '-c', {f'import time; {work}'!r}])"
    ended = run_process([sys.executable, "-S", "-c", program], tmp_path)
    assert ended.status == 0
    assert ended.cpu_seconds > 0
    assert max(size for _, size in ended.memory) > 50_000_000
    assert ended.cpu_seconds > 0.05  # the parent alone only waits; a busy machine leaves the child a share of 0.7 s


def test_an_interruption_leaves_no_process_and_no_file(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, started = tmp_path / "scratch", tmp_path / "started"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    sleeper = "import subprocess, sys; child = subprocess.Popen(['sleep', '600'])\n"
    comparison = compare(clip, sleeps=f"{sleeper}open({str(started)!r}, 'w').write(f'{{child.pid}} ')\nchild.wait()")

    def interrupt() -> None:
        deadline = time.monotonic() + 30
        while not (started.exists() and started.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        comparison.run_round()
    assert not list(scratch.iterdir())
    assert not _runs(int(started.read_text()))


def _runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
        if not state.stdout.strip() or state.stdout.startswith("Z"):
            return False
        time.sleep(0.05)
    return True


def test_the_generator_alone_needs_no_video_library(
    clip: Path, style: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    options = ["--generator-only", "--scale", "32x24", "--rounds", "2", "--generator-seconds", "0.05"]
    assert main(["pipeline", str(clip), "--style", style, *options]) == 0
    printed = capsys.readouterr().out
    assert "generator alone" in printed
    assert "32x24" in printed


def test_a_missing_clip_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pipeline", "nowhere.mp4"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_sound_alone_is_no_clip(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no video"):
        clips.inspect(make_sound(tmp_path / "sound.mp4", Audio(seconds=0.2)))


# --- clips ---


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_cut_is_a_beginning_of_the_clip(tmp_path: Path, suffix: str) -> None:
    pts = [index * 512 + (index > 30) * 100 for index in range(60)]  # 25 per second, one gap
    options = {"bf": "3", "g": "250"}
    clip = make_video(tmp_path / f"long{suffix}", pts=pts, options=options, audio=(Audio(seconds=2.4),))
    source = clips.inspect(clip)
    folder = tmp_path / "cut"
    folder.mkdir()
    cut = clips.inspect(clips.prepare(clip, folder, seconds=1.0))
    count = len(cut.times)
    assert 25 <= count <= 25 + 4
    assert cut.times == source.times[:count]
    assert cut.codec == "h264"
    assert float(cut.sounds[0][1]) == pytest.approx(count / 25, abs=0.05)
    assert len(clips.inspect(clips.prepare(clip, folder, seconds=100.0)).times) == 60


def test_a_scaled_cut_keeps_timestamps_and_sound(tmp_path: Path) -> None:
    pts = [index * 512 + (index > 5) * 100 for index in range(12)]
    clip = make_video(tmp_path / "clip.mp4", pts=pts, audio=(Audio(seconds=0.48),))
    folder = tmp_path / "scaled"
    folder.mkdir()
    scaled = clips.inspect(clips.prepare(clip, folder, size=(32, 24)))
    assert scaled.size == (32, 24)
    assert scaled.keeps_times_of(clips.inspect(clip))
    assert scaled.keeps_sound_of(clips.inspect(clip))
    assert clips.prepare(clip, folder) == clip


def test_the_film_is_taken_out_of_what_pip_fetches(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(tmp_path / "film.zip", "w") as archive:
            archive.write(clip, "moviepy_10_minutes/resources/bbb.mp4")
        with tarfile.open(folder / "moviepy-2.2.1.tar.gz", "w:gz") as sdist:
            name = "moviepy-2.2.1/docs/_static/medias/getting_started/moviepy_10_minutes/moviepy_10_minutes.zip"
            sdist.add(tmp_path / "film.zip", name)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["pipeline", "--film"]) == 1
    assert "python -m bench.clips --film" in capsys.readouterr().err
    monkeypatch.setattr(subprocess, "run", download)
    assert clips.main(["--film"]) == 0
    film = clips.find_film()
    assert film.read_bytes() == clip.read_bytes()
    assert list(film.parent.iterdir()) == [film]


def test_a_failed_download_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: slow\nERROR: no network\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert clips.main(["--film", str(tmp_path / "films")]) == 1
    assert capsys.readouterr().err.endswith("ERROR: no network\n")
