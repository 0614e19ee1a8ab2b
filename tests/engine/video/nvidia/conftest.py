"""The hardware decoder and encoder, in software."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import av
import pytest

from engine.video import VideoHardware, video_decoder, video_encoder
from engine.video.nvidia import codecs
from engine.video.video_encoder import VideoEncoder
from tests.engine.video.nvidia.stand_ins import StandInContainer


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hardware decoder that works until frame `fail_at`, and counts how often it was opened."""
    state = SimpleNamespace(opened=0, fail_at=None, error=None)

    def open_on_hardware(spec: str, hardware: VideoHardware) -> StandInContainer:
        state.opened += 1
        return StandInContainer(spec, state.fail_at, state.error)

    monkeypatch.setattr(codecs, "open_on_hardware", open_on_hardware)
    monkeypatch.setattr(video_decoder, "decoder_missing", lambda index: None)
    return state


@pytest.fixture
def encoder_on_cpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Libx264 in the hardware encoder's place; the list has the layouts of the frames that it was given."""
    monkeypatch.setattr(video_encoder, "ENCODER", "libx264")
    monkeypatch.setattr(video_encoder, "why_not_encoded", lambda *_: None)
    monkeypatch.setattr(video_encoder, "nvenc_options", lambda hardware, crf: {"crf": "10"})
    layouts: list[str] = []
    picture = VideoEncoder.picture

    def noting(self: VideoEncoder, image: Any) -> av.VideoFrame:
        frame = picture(self, image)
        layouts.append(f"{frame.format.name} of {type(image).__name__}")
        return frame

    monkeypatch.setattr(VideoEncoder, "picture", noting)
    return layouts
