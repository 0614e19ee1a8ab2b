"""Whole videos on a GPU, with NVIDIA's decoder and without; the processor takes its place where there is no GPU."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.checkpoint import save_generator
from engine.parity import psnr_db
from engine.run import main
from engine.video import FileSource, VideoHardware
from engine.video.nvidia.trials import decoder_missing
from tests.engine.runners.test_cuda_graph import eager, random_frames, runner_for
from tests.engine.small_generators import small_generator
from tests.media import make_video
from tests.tolerances import DEVICE_FRAMES_TRANSLATED_DB, PARITY_PSNR_DB

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)]
SAMPLE = Path(__file__).parents[2] / "engine" / "samples" / "sample.mp4"
FRAMES = 30
CAPTURES = {"cpu": 5, "cuda": 50}


def skip_without_decoder(device: str) -> None:
    if device == "cuda" and (reason := decoder_missing(0)):
        pytest.skip(reason)


@pytest.mark.parametrize("device", DEVICES)
def test_both_decoders_give_the_same_pictures(device: str, tmp_path: Path) -> None:
    skip_without_decoder(device)
    weights, summary = tmp_path / "small.safetensors", tmp_path / "summary.json"
    save_generator(small_generator("resnet"), weights)
    used = []
    for hwaccel in ("none", "cuda" if device == "cuda" else "auto"):
        command = [str(SAMPLE), "-o", str(tmp_path / f"{hwaccel}_%03d.png"), "--style", str(weights)]
        command += ["--frames", str(FRAMES), "--device", device, "--precision", "fp32", "--quiet"]
        assert main([*command, "--backend", "fused", "--hwaccel", hwaccel, "--json", str(summary)]) == 0
        used += [result["video_hardware"] for result in json.loads(summary.read_text())["results"]]
    assert used == [[], ["NVDEC"] if device == "cuda" else []]
    software = pictures(tmp_path, "none_*.png")
    hardware = pictures(tmp_path, "[ac]u*_*.png")
    assert len(software) == len(hardware) == FRAMES
    found = [psnr_db(one, other) for one, other in zip(software, hardware, strict=True)]
    assert min(found) >= DEVICE_FRAMES_TRANSLATED_DB


def pictures(folder: Path, pattern: str) -> list[np.ndarray]:
    return [cv2.imread(str(file)) for file in sorted(folder.glob(pattern))]


@pytest.mark.parametrize("device", DEVICES)
def test_graphs_are_captured_while_a_video_is_decoded(device: str, tmp_path: Path) -> None:
    """What the decoder's thread does on the device must not break a capture, nor a capture the decoder."""
    skip_without_decoder(device)
    path = make_video(tmp_path / "video.mp4", pts=[512 * index for index in range(50)], size=(320, 192))
    hardware = VideoHardware(frames_device="cuda:0") if device == "cuda" else None
    enough, counts, errors = threading.Event(), [], []

    def decode() -> None:
        try:
            while not enough.is_set():
                source = FileSource(str(path), hardware=hardware)
                counts.append(sum(1 for _ in source))
                source.close()
        except Exception as error:
            errors.append(error)

    generator, frames = small_generator("resnet"), random_frames(1, 32, 48)
    expected = eager(generator, frames)
    thread = threading.Thread(target=decode)
    thread.start()
    try:
        while not counts and not errors:  # the decoder is at work
            thread.join(0.01)
        runners = (runner_for(generator, (1, 32, 48), device) for _ in range(CAPTURES[device]))
        found = [psnr_db(runner.submit(frames)(), expected) for runner in runners]
    finally:
        enough.set()
        thread.join()
    assert errors == []
    assert set(counts) == {50}
    assert min(found) >= PARITY_PSNR_DB["fp32"]
