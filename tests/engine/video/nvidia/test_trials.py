"""Trials of the video hardware: what they try, and how they fail."""

from __future__ import annotations

import errno
from fractions import Fraction
from types import SimpleNamespace

import av
import pytest

from engine.video import VideoHardware
from engine.video.nvidia import trials
from engine.video.nvidia.trials import decoder_missing, encoder_missing, has_right_timestamps, nvenc_options
from tests.engine.video.nvidia.test_codecs import no_gpu


@no_gpu
def test_trials_fail_with_a_reason_and_no_trace(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without looking for the driver's libraries first: FFmpeg itself is asked for a device that is not there."""
    monkeypatch.setattr(trials, "_missing_library", lambda name: None)
    assert "trial of the decoder failed" in str(decoder_missing.__wrapped__(0))
    assert "trial of the encoder failed" in str(encoder_missing.__wrapped__(0))
    assert capfd.readouterr().err == ""


def test_quality_is_that_of_libx264(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nvenc_options(VideoHardware(2), None) == nvenc_options(VideoHardware(2), 18)
    assert nvenc_options(VideoHardware(2), None)["gpu"] == "2"
    assert nvenc_options(VideoHardware(), 30)["cq"] == "31"


def test_options_of_the_hardware_encoder_are_known_to_ffmpeg() -> None:
    """It refuses a wrong value of an option before it looks for the hardware."""
    for changed, is_known in (
        ({}, True),
        ({"preset": "p99"}, False),
        ({"profile": "x"}, False),
    ):
        context = av.CodecContext.create(trials.ENCODER, "w")
        context.width, context.height, context.pix_fmt, context.time_base = 256, 256, "yuv420p", Fraction(1, 25)
        context.options = {**nvenc_options(VideoHardware(), None), **changed}
        refusal = None
        try:
            context.open()
        except av.error.FFmpegError as error:
            refusal = error.errno
        assert (refusal != errno.EINVAL) == is_known, changed


def test_timestamps_of_the_trial() -> None:
    packets = trials.trial_packets("libx264", {})
    assert has_right_timestamps(packets)
    assert not has_right_timestamps(packets[:-1])
    assert not has_right_timestamps(packets[::-1])
    stamps = [SimpleNamespace(pts=packet.pts, dts=packet.pts) for packet in packets]  # B-frames, but no reordering
    assert not has_right_timestamps(stamps)
    assert not has_right_timestamps([*packets[:-1], SimpleNamespace(pts=None, dts=0)])
