"""Video hardware: when it is used, and which streams it gets."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine import ops
from engine.errors import BackendError
from engine.video import FileSource, VideoHardware, choose_hardware
from engine.video.nvidia import codecs
from engine.video.nvidia.codecs import describe_hardware, why_not_decoded
from engine.video.nvidia.trials import decoder_missing
from tests.engine.video.nvidia.stand_ins import no_gpu, stream_of
from tests.media import make_video

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


# --- choosing ---


def test_none_and_the_processor_are_software() -> None:
    assert choose_hardware("none", CPU) is None
    assert choose_hardware("none", CUDA) is None
    assert choose_hardware("auto", CPU) is None


def test_auto_on_a_gpu_offers_its_own_hardware_and_tells_nothing() -> None:
    for device, index in ((CUDA, 0), (torch.device("cuda:1"), 1)):
        frames_device = f"cuda:{index}" if torch.cuda.is_available() else ""
        assert choose_hardware("auto", device) == VideoHardware(index, frames_device=frames_device)


@pytest.mark.parametrize("reason", [None, "the CUDA operators aren't built"])
def test_frames_stay_where_they_are_translated(monkeypatch: pytest.MonkeyPatch, reason: str | None) -> None:
    """If the operators are there."""
    monkeypatch.setattr(ops, "cuda_unavailable", lambda: reason)
    monkeypatch.setattr(codecs, "decoder_missing", lambda index: None)
    for hwaccel in ("auto", "cuda"):
        chosen = choose_hardware(hwaccel, torch.device("cuda:1"))
        assert chosen is not None
        assert chosen.frames_device == ("cuda:1" if reason is None else "")
    chosen = choose_hardware("cuda", CPU)
    assert chosen is not None
    assert chosen.frames_device == ""


@no_gpu
def test_asked_for_by_name_and_not_there() -> None:
    with pytest.raises(BackendError, match="no video hardware can be used here") as caught:
        choose_hardware("cuda", CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("decoder", "encoder"), [(None, "no encoder"), ("no decoder", None), (None, None)])
def test_asked_for_by_name_and_half_there(
    monkeypatch: pytest.MonkeyPatch, decoder: str | None, encoder: str | None
) -> None:
    monkeypatch.setattr(codecs, "decoder_missing", lambda index: decoder)
    monkeypatch.setattr(codecs, "encoder_missing", lambda index: encoder)
    assert choose_hardware("cuda", CPU) == VideoHardware(0, is_wanted=True)


@no_gpu
def test_a_missing_driver_is_named() -> None:
    assert "libcuda" in str(decoder_missing(0))
    assert describe_hardware().startswith("not available: no NVIDIA driver")


def test_half_of_the_hardware_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "decoder_missing", lambda index: None)
    monkeypatch.setattr(codecs, "encoder_missing", lambda index: "it has none")
    assert describe_hardware() == "NVDEC works, NVENC (h264_nvenc) not available: it has none"


# --- which streams ---


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix", "options", "is_decoded"),
    [
        ("libx264", "yuv420p", ".mp4", {}, True),
        ("libx264", "yuvj420p", ".mp4", {}, True),
        ("libx264", "yuv420p", ".mp4", {"profile": "baseline"}, True),
        ("libx264", "yuv420p10le", ".mp4", {}, False),
        ("libx264", "yuv422p", ".mp4", {}, False),
        ("libx264", "yuv444p", ".mp4", {}, False),
        ("libx265", "yuv420p", ".mp4", {"x265-params": "log-level=none"}, True),
        ("libx265", "yuv420p10le", ".mp4", {"x265-params": "log-level=none"}, True),
        ("libx265", "yuv420p12le", ".mkv", {"x265-params": "log-level=none"}, False),
        ("libx265", "yuv444p", ".mp4", {"x265-params": "log-level=none"}, False),
        ("libvpx-vp9", "yuv420p", ".webm", {"cpu-used": "8"}, True),
        ("libvpx-vp9", "yuv444p", ".webm", {"cpu-used": "8"}, False),
        ("libvpx", "yuv420p", ".webm", {"cpu-used": "8"}, False),
        ("mpeg2video", "yuv420p", ".ts", {}, True),
        ("mpeg4", "yuv420p", ".mp4", {}, False),
        ("mjpeg", "yuvj420p", ".avi", {}, False),
        ("prores_ks", "yuv422p10le", ".mov", {}, False),
        ("ffv1", "yuv420p", ".mkv", {}, False),
    ],
)
def test_which_streams_go_to_the_hardware(
    tmp_path: Path,
    stand_in: SimpleNamespace,
    codec: str,
    pixel_format: str,
    suffix: str,
    options: dict[str, str],
    is_decoded: bool,
) -> None:
    path = make_video(
        tmp_path / f"in{suffix}",
        codec=codec,
        pixel_format=pixel_format,
        size=(160, 128),
        options=options,
        pts=list(range(10)),
        time_base=Fraction(1, 25),
    )
    container, stream = stream_of(path)
    assert (why_not_decoded(stream) is None) == is_decoded
    container.close()
    source = FileSource(str(path), hardware=VideoHardware(is_wanted=True))
    assert len(list(source)) == 10
    assert source.hardware == ("NVDEC" if is_decoded else "")
    assert stand_in.opened == is_decoded
    assert any("decoded in software" in line for line in source.warnings) == (not is_decoded)


def test_av1_has_no_hardware_in_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVT_LOG", "1")
    path = make_video(tmp_path / "in.mp4", codec="libsvtav1", size=(160, 128), options={"preset": "12"})
    container, stream = stream_of(path)
    assert "libdav1d" in str(why_not_decoded(stream))
    container.close()


@no_gpu
def test_without_hardware_auto_says_nothing_and_by_name_says_why(tmp_path: Path) -> None:
    path = make_video(tmp_path / "in.mp4")
    assert FileSource(str(path), hardware=VideoHardware()).warnings == []
    (line,) = FileSource(str(path), hardware=VideoHardware(is_wanted=True)).warnings
    assert "no NVIDIA driver" in line
