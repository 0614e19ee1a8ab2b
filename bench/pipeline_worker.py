"""The loops that people write around a generator, each a process of its own: read, infer, write, one after the other.

`python -m bench.pipeline_worker opencv|ffmpeg CLIP OUTPUT` translates a clip and prints its figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from engine.checkpoint import load_generator
from engine.errors import EngineError, SinkError, SourceError


class EagerGenerator:
    """A generator as it is loaded, in NCHW: no padding, no fused operators."""

    def __init__(self, style: str, *, device: str, dtype: torch.dtype) -> None:
        self._generator = load_generator(style).to(device=device, dtype=dtype)
        self._device, self._dtype = device, dtype

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] BGR to the same."""
        low, high = self._generator.input_range
        out_low, out_high = self._generator.output_range
        with torch.no_grad():
            rgb = torch.from_numpy(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)).to(self._device)
            image = (rgb.permute(2, 0, 1)[None].float() / 255 * (high - low) + low).to(self._dtype)
            translated = (self._generator(image)[0].float() - out_low) / (out_high - out_low) * 255
            pixels = translated.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
        return cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)


class Meter:
    """Counts frames, and their rate from the first one on."""

    def __init__(self) -> None:
        self.frames = 0
        self._first = self._last = 0.0

    def tick(self) -> None:
        """One frame is written."""
        self._last = time.perf_counter()
        self._first = self._first or self._last
        self.frames += 1

    @property
    def steady_fps(self) -> float | None:
        """Frames per second after the first frame; None where there are fewer than two."""
        return (self.frames - 1) / (self._last - self._first) if self.frames > 1 else None


def opencv_loop(generator: EagerGenerator, clip: Path, output: Path) -> Meter:
    """cv2.VideoCapture, generator, cv2.VideoWriter, as tutorials have it: MPEG-4 part 2, no sound."""
    meter = Meter()
    capture = cv2.VideoCapture(str(clip))
    writer = None
    while True:
        read, frame = capture.read()
        if not read:
            break
        translated = generator(frame)
        if writer is None:
            size = (translated.shape[1], translated.shape[0])
            rate = capture.get(cv2.CAP_PROP_FPS)
            writer = cv2.VideoWriter(str(output), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
        writer.write(translated)
        meter.tick()
    capture.release()
    if writer is None:
        raise SourceError(f"{clip.name}: OpenCV reads not one frame of it")
    writer.release()
    return meter


def ffmpeg_pipes(generator: EagerGenerator, clip: Path, output: Path, *, ffmpeg: str) -> Meter:
    """An ffmpeg process that decodes to a pipe, generator, one that encodes from a pipe and copies the sound.

    This is how the inference script of Real-ESRGAN (inference_realesrgan_video.py) works, with its settings.
    """
    meter = Meter()
    capture = cv2.VideoCapture(str(clip))
    width, height = (int(capture.get(name)) for name in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    rate = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    raw = ["-f", "rawvideo", "-pix_fmt", "bgr24"]
    quiet = [ffmpeg, "-nostdin", "-loglevel", "error"]
    decoder = subprocess.Popen([*quiet, "-i", str(clip), *raw, "pipe:"], stdout=subprocess.PIPE)
    encoder = None
    for frame in _frames(decoder, width, height):
        translated = generator(frame)
        if encoder is None:
            size = f"{translated.shape[1]}x{translated.shape[0]}"
            picture = [*raw, "-s", size, "-framerate", str(rate), "-i", "pipe:"]
            sound = ["-i", str(clip), "-map", "0:v", "-map", "1:a?", "-c:a", "copy"]
            encoding = ["-pix_fmt", "yuv420p", "-c:v", "libx264", str(output)]
            encoder = subprocess.Popen([*quiet, "-y", *picture, *sound, *encoding], stdin=subprocess.PIPE)
        assert encoder.stdin is not None
        encoder.stdin.write(translated.tobytes())
        meter.tick()
    if encoder is None or decoder.wait():
        raise SourceError(f"{clip.name}: ffmpeg can't decode it")
    encoder.communicate()  # closes the pipe and waits
    if encoder.returncode:
        raise SinkError(f"ffmpeg could not encode {output.name}: exit status {encoder.returncode}")
    return meter


def _frames(decoder: subprocess.Popen[bytes], width: int, height: int) -> Iterator[np.ndarray]:
    assert decoder.stdout is not None
    size = width * height * 3
    while len(data := decoder.stdout.read(size)) == size:
        yield np.frombuffer(data, np.uint8).reshape(height, width, 3)


def main(argv: list[str] | None = None) -> int:
    """Runs one loop on one clip; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.pipeline_worker", description=__doc__)
    parser.add_argument("loop", choices=("opencv", "ffmpeg"))
    parser.add_argument("clip", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--style", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--ffmpeg", default="ffmpeg", help="the executable")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        dtype = getattr(torch, arguments.dtype)
        generator = EagerGenerator(arguments.style, device=arguments.device, dtype=dtype)
        if arguments.loop == "opencv":
            meter = opencv_loop(generator, arguments.clip, arguments.output)
        else:
            meter = ffmpeg_pipes(generator, arguments.clip, arguments.output, ffmpeg=arguments.ffmpeg)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        print("error: the ffmpeg that encodes ended before the last frame", file=sys.stderr)
        return 1
    print(json.dumps({"frames": meter.frames, "steady_fps": meter.steady_fps}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
