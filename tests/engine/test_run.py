"""The command line on real files: what it writes, what it says, and how it fails."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch

from engine import save_generator, video
from engine.export import main as export_main
from engine.generators import build
from engine.generators.resnet import ResNetConfig
from engine.run import main
from engine.samples import SAMPLE
from engine.styles import DEFAULT_STYLE, list_styles
from engine.video import video_decoder, video_encoder
from engine.video.demuxer import Demuxer


@pytest.fixture(scope="session")
def tiny_style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator small enough that a run is about the video."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("style") / "tiny.safetensors"
    save_generator(build(ResNetConfig(width=4, blocks=1)), path, metadata={})
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "my clip.mp4"
    path.write_bytes(SAMPLE.read_bytes())
    return path


def packets(path: Path, kind: str) -> list[tuple[float | None, bytes]]:
    with av.open(str(path)) as container:
        return [
            (float(packet.pts * packet.time_base), bytes(packet))
            for packet in container.demux(getattr(container.streams, kind)[0])
            if packet.pts is not None
        ]


def frame_times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error; anything more is a defect."""
    written = capsys.readouterr().err
    lines = [line for line in written.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in written
    assert len(lines) == 1, written
    return lines[0]


def test_a_clip_becomes_a_translated_clip_beside_it(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The promise of the first command, with the bundled style, on the whole sample clip."""
    assert main([str(clip)]) == 0
    output = clip.with_name(f"my clip_{DEFAULT_STYLE}.mp4")
    printed = capsys.readouterr()
    assert printed.out.strip() == str(output)
    assert "fps" in printed.err
    assert frame_times(output) == frame_times(clip)
    assert packets(output, "audio") == packets(clip, "audio")
    assert sorted(path.name for path in clip.parent.iterdir()) == [clip.name, output.name]


def test_the_second_run_does_not_touch_the_first(clip: Path, tiny_style: Path) -> None:
    for _ in range(3):
        assert main([str(clip), "--style", str(tiny_style), "--frames", "3", "--quiet"]) == 0
    names = sorted(path.name for path in clip.parent.iterdir())
    assert names == ["my clip.mp4", "my clip_tiny-2.mp4", "my clip_tiny-3.mp4", "my clip_tiny.mp4"]


def test_json_tells_what_was_done(clip: Path, tiny_style: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    output = tmp_path / "out.mp4"
    arguments = [str(clip), "-o", str(output), "--style", str(tiny_style), "--json", str(report), "--frames", "20"]
    assert main([*arguments, "--precision", "fp32", "--quiet"]) == 0
    (result,) = json.loads(report.read_text())["results"]
    assert result["output"] == str(output)
    assert result["frames"] == 20
    assert result["completed"] is True
    assert (result["width"], result["height"]) == (640, 360)
    assert (result["backend"], result["precision"]) == ("fused", "fp32")
    assert set(result["stage_ms"]) == {"decode", "translate", "encode"}
    assert result["fps"] > 0
    assert result["peak_memory_bytes"] > 0
    assert len(frame_times(output)) == 20


def test_explain_shows_every_backend_once(clip: Path, tiny_style: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(clip), "--style", str(tiny_style), "--frames", "3", "--explain", "--device", "cpu"]) == 0
    written = capsys.readouterr().err
    assert written.count("ready in") == 1
    for backend in ("fused", "eager", "torchscript", "aoti"):
        assert f" {backend} " in written
    assert "is the fastest" in written


def test_an_exported_engine_is_run_with_its_style(clip: Path, tiny_style: Path, tmp_path: Path) -> None:
    engine_file, report = tmp_path / "tiny.pt", tmp_path / "report.json"
    export = ["--format", "torchscript", "--size", "640x360", "--precision", "fp32", "-o", str(engine_file)]
    assert export_main([str(tiny_style), *export]) == 0
    arguments = [str(clip), "--style", str(tiny_style), "--engine", str(engine_file), "--frames", "3", "--quiet"]
    assert main([*arguments, "--json", str(report)]) == 0
    (result,) = json.loads(report.read_text())["results"]
    assert (result["backend"], result["precision"], result["frames"]) == ("torchscript", "fp32", 3)


def test_several_styles_need_a_window(clip: Path, tiny_style: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(clip), "--style", str(tiny_style), "--style", DEFAULT_STYLE]) == 1
    assert "add --show" in error_line(capsys)


def test_the_sound_of_the_first_frames_ends_with_them(clip: Path, tiny_style: Path, tmp_path: Path) -> None:
    """24 of 144 frames: a sixth of the sound's packets, one more at most."""
    output = tmp_path / "out.mp4"
    assert main([str(clip), "-o", str(output), "--style", str(tiny_style), "--frames", "24", "--quiet"]) == 0
    assert frame_times(output) == frame_times(clip)[:24]
    sound, whole = packets(output, "audio"), packets(clip, "audio")
    assert sound == whole[: len(sound)]
    assert len(whole) * 24 // 144 <= len(sound) <= len(whole) * 24 // 144 + 2


@pytest.mark.parametrize(
    ("frames", "summary"), [(1, r"1 frame of 640x360 in [\d.]+ s, f"), (5, r"5 frames .* fps once started, ")]
)
def test_benchmark_writes_nothing(
    frames: int, summary: str, clip: Path, tiny_style: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rate takes two frames."""
    assert main([str(clip), "--style", str(tiny_style), "--benchmark", "--frames", str(frames)]) == 0
    assert re.search(summary, capsys.readouterr().err)
    assert list(clip.parent.iterdir()) == [clip]


def test_quiet_is_quiet(clip: Path, tiny_style: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(clip), "--style", str(tiny_style), "--frames", "2", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_an_image_becomes_an_image(tmp_path: Path, tiny_style: Path) -> None:
    source = tmp_path / "photo.png"
    cv2.imwrite(str(source), np.full((50, 70, 3), 99, np.uint8))
    assert main([str(source), "--style", str(tiny_style), "--quiet"]) == 0
    assert cv2.imread(str(tmp_path / "photo_tiny.png")).shape == (50, 70, 3)


def test_a_folder_of_images_becomes_a_folder(tmp_path: Path, tiny_style: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, (height, width) in enumerate([(32, 40), (40, 32), (33, 41)]):
        cv2.imwrite(str(folder / f"{number}.jpg"), np.full((height, width, 3), 60 * number, np.uint8))
    output = tmp_path / "translated"
    assert main([str(folder), "-o", str(output), "--style", str(tiny_style), "--quiet"]) == 0
    written = [cv2.imread(str(output / f"{number}.jpg")).shape[:2] for number in range(3)]
    assert written == [(32, 40), (40, 32), (33, 41)]


def test_a_folder_of_videos_goes_on_after_a_damaged_one(
    clip: Path, tiny_style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("a.mp4", "c.mp4"):
        (folder / name).write_bytes(clip.read_bytes())
    (folder / "b.mp4").write_text("not a video")
    output = tmp_path / "translated"
    status = main([str(folder), "-o", str(output), "--style", str(tiny_style), "--frames", "3"])
    assert status == 1
    assert "b.mp4" in error_line(capsys)
    assert sorted(path.name for path in output.iterdir()) == ["a_tiny.mp4", "c_tiny.mp4"]


def test_list_styles(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list-styles"]) == 0
    listed = capsys.readouterr().out
    for style in list_styles():
        for expected in (style.name, style.architecture, style.trained_on, style.licence):
            assert expected in listed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4"], "nowhere.mp4"),
        (["{clip}", "--style", DEFAULT_STYLE[:-1]], f"did you mean {DEFAULT_STYLE}"),
        (["{clip}", "--style", "{clip}"], "my clip.mp4"),
        (["{clip}", "-o", "{clip}"], "my clip.mp4"),
        (["{clip}", "-o", "missing/out.mp4"], "missing"),
        (["{clip}", "-o", "out.xyz"], "xyz"),
        (["{clip}", "--codec", "libx246"], "libx264"),
        (["{clip}", "--backend", "tensorrtx"], "accepted are auto"),
        (["{clip}", "--precision", "fp8"], "accepted are auto"),
        (["9", "--benchmark"], "9"),
        (["{clip}", "--json", "missing/report.json", "--frames", "1", "--benchmark"], "missing"),
        (["{clip}", "--json", "{clip}", "--benchmark"], "my clip.mp4"),
        (["{clip}", "--json", "out.mp4", "-o", "out.mp4"], "out.mp4"),
        (["{clip}", "--json", ".", "--benchmark"], "is a folder"),
        (["{clip}", "--threads", "100000"], "accepted are 1 to"),
        (["{clip}", "-o", "x" * 250 + ".mp4"], "too long"),
        (["{clip}", "--codec", "h264_nvenc"], "can't be opened"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, clip: Path, tiny_style: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    original = clip.read_bytes()
    style = [] if "--style" in arguments else ["--style", str(tiny_style)]
    assert main([argument.format(clip=clip) for argument in arguments] + style) == 1
    assert message in error_line(capsys)
    assert clip.read_bytes() == original
    assert list(tmp_path.iterdir()) == [clip]


@pytest.mark.parametrize("source", ["{name}", "file:{name}", "file://{path}"])
def test_names_with_a_colon_are_no_protocols(
    source: str, clip: Path, tiny_style: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    renamed = clip.rename(tmp_path / "a:b.mp4")
    spec = source.format(name=renamed.name, path=renamed)
    assert main([spec, "-o", "c:d.mp4", "--style", str(tiny_style), "--frames", "2", "--quiet"]) == 0
    assert len(frame_times(tmp_path / "c:d.mp4")) == 2


def test_a_summary_on_standard_output_is_all_there_is(
    clip: Path, tiny_style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(clip), "-o", str(tmp_path / "out.mp4"), "--style", str(tiny_style), "--frames", "2"]
    assert main([*arguments, "--json", "-"]) == 0
    (summary,) = json.loads(capsys.readouterr().out)["results"]
    assert (summary["frames"], summary["output"]) == (2, str(tmp_path / "out.mp4"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("streams", [">&-", "2>&-", ">/dev/full", "| head -c 0"])
def test_closed_standard_streams_do_not_spoil_the_job(
    streams: str, clip: Path, tiny_style: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.mp4"
    command = (
        f'set -o pipefail; "{sys.executable}" -m engine.run "{clip}" -o "{output}" --style "{tiny_style}" --frames 2'
    )
    done = subprocess.run(["bash", "-c", f"{command} {streams}"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "error" not in done.stderr + done.stdout
    assert len(frame_times(output)) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--frames", "0"],
        ["-o", ""],
        ["--crf", "x"],
        ["--camera-size", "12"],
        ["--background", "red"],
        ["--audio", "mp3"],
        ["--batch", "-1"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["clip.mp4", *arguments])
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def start(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "engine.run", *arguments], stderr=subprocess.PIPE, text=True, env=environment
    )


def repeated(clip: Path, times: int, path: Path) -> Path:
    """The clip's pictures `times` times, one after the other."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as output:
        stream = source.streams.video[0]
        copied = output.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.pts is not None]
        for repetition in range(times):
            for packet in packets:
                picture = av.Packet(bytes(packet))
                picture.pts = packet.pts + repetition * stream.duration
                picture.dts = packet.dts + repetition * stream.duration
                picture.time_base = packet.time_base
                picture.is_keyframe = packet.is_keyframe
                picture.stream = copied
                output.mux(picture)
    return path


@pytest.mark.parametrize(("number", "times_sent"), [(signal.SIGINT, 2), (signal.SIGTERM, 1), (signal.SIGHUP, 1)])
def test_a_signal_keeps_what_is_done(number: signal.Signals, times_sent: int, clip: Path, tmp_path: Path) -> None:
    """One Ctrl-C can arrive twice, from a terminal and from a parent."""
    if signal.getsignal(number) == signal.SIG_IGN and number == signal.SIGHUP:
        pytest.skip("this process and its children ignore it, as under nohup")
    clip = repeated(clip, 10, tmp_path / "long.mp4")  # 1,440 frames: no processor is through before the signal comes
    output = tmp_path / "results" / "out.mp4"
    output.parent.mkdir()
    process = start([str(clip), "-o", str(output), "--part-seconds", "0"])
    deadline = time.monotonic() + 60
    while sum(path.stat().st_size for path in output.parent.iterdir()) < 100_000:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    for _ in range(times_sent):
        process.send_signal(number)
        time.sleep(0.02)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    partial = output.with_name("out.partial.mp4")
    assert str(partial) in errors
    times = frame_times(partial)
    assert 0 < len(times) < len(frame_times(clip))
    assert times == frame_times(clip)[: len(times)]
    assert list(output.parent.iterdir()) == [partial]


def test_a_signal_before_the_first_frame_leaves_nothing(clip: Path, tmp_path: Path) -> None:
    process = start([str(clip), "-o", str(tmp_path / "out.mp4")])
    maps = Path(f"/proc/{process.pid}/maps")
    deadline = time.monotonic() + 60
    while maps.exists() and "libtorch" not in maps.read_text():  # torch is imported when the command line is understood
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.1 if maps.exists() else 1.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == [clip]


# --- video hardware ---


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_video_hardware_that_is_not_there_is_one_line(
    clip: Path, tiny_style: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(clip), "--style", str(tiny_style), "--hwaccel", "cuda"]) == 1
    assert "--hwaccel cuda: no video hardware can be used here" in error_line(capsys)
    assert list(clip.parent.iterdir()) == [clip]


def test_on_the_processor_auto_is_software(clip: Path, tiny_style: Path, tmp_path: Path) -> None:
    written = []
    for hwaccel in ("auto", "none"):
        output = tmp_path / f"{hwaccel}.mp4"
        options = ["--style", str(tiny_style), "--device", "cpu", "--precision", "fp32", "--backend", "eager"]
        assert main([str(clip), "-o", str(output), *options, "--hwaccel", hwaccel, "--frames", "12", "--quiet"]) == 0
        written.append(output.read_bytes())
    assert written[0] == written[1]


def test_the_summary_names_the_hardware(
    clip: Path,
    tiny_style: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With stand-ins for the decoder, which is the software's, and for the encoder, which is another codec's."""
    monkeypatch.setattr(video, "choose_hardware", lambda hwaccel, device: video.VideoHardware())
    monkeypatch.setattr(video_decoder, "decoder_missing", lambda index: None)
    monkeypatch.setattr(video_decoder, "decode_on_hardware", decode_in_software)
    monkeypatch.setattr(video_encoder, "why_not_encoded", lambda *_: None)
    monkeypatch.setattr(video_encoder, "ENCODER", "mpeg4")
    monkeypatch.setattr(video_encoder, "nvenc_options", lambda hardware, crf: {})
    output, report = tmp_path / "out.mp4", tmp_path / "report.json"
    arguments = [str(clip), "-o", str(output), "--style", str(tiny_style), "--frames", "3", "--json", str(report)]
    assert main([*arguments, "--hwaccel", "cuda"]) == 0
    assert ", video on NVDEC and mpeg4\n" in capsys.readouterr().err
    assert json.loads(report.read_text())["results"][0]["video_hardware"] == ["NVDEC", "mpeg4"]
    assert frame_times(output) == frame_times(clip)[:3]


def decode_in_software(
    spec: str, demuxer: Demuxer, stream: Any, hardware: video.VideoHardware
) -> Iterator[av.VideoFrame]:
    for packet in demuxer.pictures():
        yield from stream.decode(packet)


@pytest.mark.parametrize(("backend", "frames_device"), [("auto", "cuda:0"), ("fused", "cuda:0"), ("eager", "")])
def test_frames_stay_on_the_device_for_our_own_engine_alone(
    backend: str, frames_device: str, clip: Path, tiny_style: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other backends would copy each of them twice."""
    offered: list[video.VideoHardware] = []
    open_source = video.open_source

    def opened(spec: str, *, hardware: video.VideoHardware, **settings: object) -> object:
        offered.append(hardware)
        return open_source(spec)

    hardware = video.VideoHardware(frames_device="cuda:0")
    monkeypatch.setattr(video, "choose_hardware", lambda hwaccel, device: hardware)
    monkeypatch.setattr(video, "open_source", opened)
    arguments = [str(clip), "--style", str(tiny_style), "--frames", "1", "--benchmark", "--backend", backend]
    assert main([*arguments, "--hwaccel", "cuda"]) == 0
    assert [one.frames_device for one in offered] == [frames_device]


def test_an_image_that_is_damaged_is_named_and_the_status_tells(
    tmp_path: Path, tiny_style: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are translated; status 0 would say that nothing is missing."""
    photos, results, summary = tmp_path / "photos", tmp_path / "results", tmp_path / "summary.json"
    photos.mkdir()
    for name in ("a", "c"):
        cv2.imwrite(str(photos / f"{name}.png"), np.zeros((32, 32, 3), np.uint8))
    (photos / "b.png").write_bytes(b"broken")
    command = [str(photos), "-o", f"{results}/", "--style", str(tiny_style), "--json", str(summary)]
    assert main(command) == 1
    assert sorted(path.name for path in results.iterdir()) == ["a.png", "c.png"]
    assert "skipped: " in capsys.readouterr().err
    assert any("b.png" in warning for warning in json.loads(summary.read_text())["results"][0]["warnings"])


def test_one_file_can_not_hold_several_videos(
    tmp_path: Path, tiny_style: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").write_bytes(SAMPLE.read_bytes())
    output = tmp_path / "out.mp4"
    assert main([str(tmp_path), "-o", str(output), "--style", str(tiny_style), "--quiet"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2
    assert all("name a folder" in line for line in lines)
    assert not output.exists()
