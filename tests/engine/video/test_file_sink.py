"""The output file: its name, its errors, odd sizes, full disks, browsers."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from engine.errors import FrameSizeError, SinkError
from engine.parity import psnr_db
from engine.video import Frame, Source, SourceInfo, open_sink, open_source
from engine.video.file_sink import FileSink
from tests.engine.video.through import through
from tests.media import Audio, make_video, moving_picture, read
from tests.tolerances import ENCODER_DEFAULT_DB


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return open_source(str(make_video(tmp_path / "in.mp4", audio=(Audio(),))))


def refusal(source: Source, output: Path | str, **options: object) -> str:
    with pytest.raises(SinkError) as caught:
        open_sink(str(output), source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def info(width: int, height: int) -> SourceInfo:
    return SourceInfo(name="test", width=width, height=height, frame_rate=Fraction(25), time_base=Fraction(1, 25))


def encode(path: Path, width: int, height: int, count: int = 5, **options: object) -> tuple[Path | None, FileSink]:
    sink = FileSink(path, info=info(width, height), **options)
    try:
        for index in range(count):
            sink.write(Frame(moving_picture(index, width, height), pts=index, duration=1))
    except BaseException:
        sink.abort()
        raise
    return sink.finish(), sink


# --- names ---


def test_the_name_appears_at_the_end(tmp_path: Path, source: Source) -> None:
    output = tmp_path / "out.mp4"
    sink = open_sink(str(output), source)
    for frame in source:
        sink.write(frame)
        assert not output.exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".out.mp4")]
    assert sink.finish() == output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_exists(tmp_path: Path, source: Source) -> None:
    output = tmp_path / "out.mp4"
    output.write_bytes(b"precious")
    assert "exists" in refusal(source, output)
    assert output.read_bytes() == b"precious"
    open_sink(str(output), source, overwrite=True)
    assert output.read_bytes() == b"precious"


def test_is_the_input(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "symlink.mp4").symlink_to(tmp_path / "in.mp4")
    os.link(tmp_path / "in.mp4", tmp_path / "hardlink.mp4")
    monkeypatch.chdir(tmp_path)
    for name in ("in.mp4", "./in.mp4", "symlink.mp4", "hardlink.mp4", tmp_path / "in.mp4"):
        assert "input itself" in refusal(source, name, overwrite=True)


def test_folder_missing(tmp_path: Path, source: Source) -> None:
    assert "does not exist" in refusal(source, tmp_path / "none" / "out.mp4")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_folder_read_only(tmp_path: Path, source: Source) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    assert "permission" in refusal(source, folder / "out.mp4")


def test_unknown_container(tmp_path: Path, source: Source) -> None:
    assert ".mp4" in refusal(source, tmp_path / "out.xyz")
    assert ".mp4" in refusal(source, tmp_path / "out")


@pytest.mark.parametrize(("wrong", "right"), [("libx246", "libx264"), ("x265", "libx265"), ("h264_nvec", "h264_nvenc")])
def test_unknown_codec_suggests(tmp_path: Path, source: Source, wrong: str, right: str) -> None:
    assert right in refusal(source, tmp_path / "out.mp4", codec=wrong)


@pytest.mark.parametrize("codec", ["aac", "libvorbis", "zzz"])
def test_no_video_codec(tmp_path: Path, source: Source, codec: str) -> None:
    assert "no such video encoder" in refusal(source, tmp_path / "out.mp4", codec=codec)


def test_codec_that_the_container_cannot_hold(tmp_path: Path, source: Source) -> None:
    assert "can't hold" in refusal(source, tmp_path / "out.webm", codec="libx264")


def test_crf(tmp_path: Path) -> None:
    good, _ = encode(tmp_path / "good.mp4", 320, 240, crf=5)
    small, _ = encode(tmp_path / "small.mp4", 320, 240, crf=45)
    assert good.stat().st_size > 2 * small.stat().st_size
    _, sink = encode(tmp_path / "out.mp4", 128, 96, codec="mpeg4", crf=10)
    assert any("--crf" in line for line in sink.warnings)


def test_hardware_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="h264_nvenc") as caught:
        encode(tmp_path / "out.mp4", 320, 240, codec="h264_nvenc")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_frames_of_x265(tmp_path: Path, count: int) -> None:
    """Its decoding times are random where there are fewer frames than it looks ahead."""
    for attempt in range(5):
        output, _ = encode(tmp_path / f"{attempt}.mp4", 64, 48, count, codec="libx265")
        assert output is not None
        contents = read(output)
        assert contents.times == [Fraction(index, 25) for index in range(count)]
        for shown, decoded in contents.tracks[0].times:
            assert shown is not None
            assert decoded is not None
            assert 0 <= shown - decoded <= Fraction(3, 25)


def test_a_gif_shows_nothing_of_the_frame_before(tmp_path: Path) -> None:
    """Its frames have palettes of their own, in which what stays the same has other numbers."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    sink = FileSink(tmp_path / "out.gif", info=info(64, 48))
    images = [noise, np.full_like(noise, 255), noise[::-1].copy(), np.full_like(noise, 255)]
    for number, image in enumerate(images):
        sink.write(Frame(image, pts=number))
    sink.finish()
    with av.open(str(tmp_path / "out.gif")) as container:
        shown = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert [int(image.min()) for image in shown[1::2]] == [255, 255]


def test_a_name_that_is_no_unicode(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"bad\xff.mp4")
    sink = FileSink(path, info=info(64, 48))
    sink.write(Frame(np.zeros((48, 64, 3), np.uint8), pts=0))
    assert sink.finish() == path
    assert list(tmp_path.iterdir()) == [path]


def test_no_frame(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "out.mp4", info=info(64, 48))
    with pytest.raises(SinkError, match="no frame"):
        sink.finish()
    assert sink.abort() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_hevc_is_tagged_as_apple_wants_it(tmp_path: Path, suffix: str) -> None:
    path, _ = encode(tmp_path / f"out{suffix}", 128, 96, codec="libx265")
    with av.open(str(path)) as video:
        assert video.streams.video[0].codec_context.codec_tag == "hvc1"


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        *(("mpeg4", ".mp4"), ("mpeg2video", ".mkv"), ("mjpeg", ".mov"), ("mjpeg", ".avi"), ("wmv2", ".wmv")),
        *(("dnxhd", ".mov"), ("prores_ks", ".mov"), ("ffv1", ".mkv"), ("rawvideo", ".mkv"), ("libx265", ".mp4")),
        *(("libvpx", ".webm"), ("libvpx-vp9", ".webm"), ("libsvtav1", ".mp4"), ("gif", ".gif")),
    ],
)
def test_every_encoder_has_a_good_default(tmp_path: Path, codec: str, suffix: str) -> None:
    path, _ = encode(tmp_path / f"out{suffix}", 320, 240, codec=codec)
    images = read(path).frames
    worst = min(
        psnr_db(frame.to_ndarray(format="bgr24"), moving_picture(index, 320, 240)) for index, frame in enumerate(images)
    )
    assert len(images) == 5
    assert worst > ENCODER_DEFAULT_DB


@pytest.mark.parametrize(("codec", "suffix"), [("rawvideo", ".mov"), ("libvpx-vp9", ".mov")])
def test_what_cannot_be_read_back_is_refused_up_front(tmp_path: Path, source: Source, codec: str, suffix: str) -> None:
    assert "can't be read back" in refusal(source, tmp_path / f"out{suffix}", codec=codec)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_sizes_that_a_codec_takes_are_named(tmp_path: Path) -> None:
    with pytest.raises(FrameSizeError, match="720x480, 720x576"):
        encode(tmp_path / "out.avi", 320, 240, codec="dvvideo")
    path, _ = encode(tmp_path / "fits.avi", 720, 576, codec="dvvideo")
    assert len(read(path).frames) == 5


# --- sizes ---


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 2), (1, 64), (63, 47), (64, 47), (63, 48), (3, 500)])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_odd_sizes_are_padded_by_repeating_the_edge(tmp_path: Path, width: int, height: int, suffix: str) -> None:
    path, sink = encode(tmp_path / f"out{suffix}", width, height)
    contents = read(path)
    assert contents.size == (width + width % 2, height + height % 2)
    assert len(contents.frames) == 5
    assert any("padded" in line for line in sink.warnings) == bool(width % 2 or height % 2)
    image = contents.image().astype(int)
    if width > 8 and height > 8:
        assert np.abs(image[:height, :width] - moving_picture(0, width, height)).mean() < 6
        assert np.abs(image[-1] - image[-2]).mean() < 6


def test_odd_source(tmp_path: Path) -> None:
    odd = make_video(tmp_path / "in.mkv", codec="ffv1", pixel_format="yuv444p", size=(63, 47))
    result = through(odd, tmp_path / "out.mp4")
    assert result.contents.size == (64, 48)
    assert any("63x47" in line for line in result.warnings)


def test_a_size_beyond_the_codec(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "out.mp4", info=info(20000, 32))
    with pytest.raises(FrameSizeError, match="20000x32") as caught:
        sink.write(Frame(np.zeros((32, 20000, 3), np.uint8), pts=0))
    assert "\n" not in str(caught.value)
    assert sink.abort() is None
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_changes(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "out.mp4", info=info(64, 48))
    sink.write(Frame(moving_picture(0, 64, 48), pts=0))
    with pytest.raises(FrameSizeError, match="32x48"):
        sink.write(Frame(moving_picture(1, 32, 48), pts=1))
    assert sink.abort() == tmp_path / "out.partial.mp4"


def test_an_output_larger_than_its_source(tmp_path: Path, source: Source) -> None:
    sink = open_sink(str(tmp_path / "out.mp4"), source)
    for frame in source:
        sink.write(Frame(frame.image.repeat(4, 0).repeat(4, 1), frame.pts, frame.duration))
    assert read(sink.finish()).size == (256, 192)


# --- timestamps that a container can't hold ---


def test_timestamps_that_stand_still_are_moved(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "out.mp4", info=info(64, 48))
    for index, pts in enumerate([0, 1, 1, 3]):
        sink.write(Frame(moving_picture(index, 64, 48), pts=pts, duration=1))
    assert [time * 25 for time in read(sink.finish()).times] == [0, 1, 2, 3]
    assert any("1 frames moved" in line for line in sink.warnings)


# --- the end of a run ---


def test_abort_before_the_first_frame(tmp_path: Path, source: Source) -> None:
    sink = open_sink(str(tmp_path / "out.mp4"), source)
    assert sink.abort() is None
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_index_is_in_front_for_browsers(tmp_path: Path) -> None:
    path, _ = encode(tmp_path / "out.mp4", 64, 48)
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
