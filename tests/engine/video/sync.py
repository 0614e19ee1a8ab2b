"""Clips in which a white flash and a beep begin at every full second, and how far apart they are in a file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

# Flash and beep last this long, in seconds.
LENGTH = 0.04


def beeps(seconds: float, rate: int, start: float = 0.0) -> np.ndarray:
    """Samples in -1..1 of a tone that sounds at the beginning of every second."""
    time = start + np.arange(round(seconds * rate)) / rate
    return np.where(time % 1 < LENGTH, np.sin(2 * np.pi * 1000 * time), 0).astype(np.float32)


def make_clip(
    path: Path,
    *,
    sound: str = "aac",
    video: str = "libx264",
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    seconds: int = 4,
    rate: int = 48000,
    layout: str = "stereo",
    runs: tuple[tuple[float, float], ...] | None = None,
    sample_format: str | None = None,
) -> Path:
    """Writes a clip of 25 frames a second with flashes and beeps.

    Args:
        runs: from when to when there is sound; None is everywhere.
        sample_format: of the sound's encoder; None is its first.
    """
    with av.open(str(path), "w", format=container, container_options=container_options or {}) as output:
        picture: Any = output.add_stream(video, rate=25, width=64, height=48, time_base=Fraction(1, 25))
        picture.codec_context.max_b_frames = 0
        track: Any = output.add_stream(sound, rate=rate, layout=layout, bit_rate=128_000)
        if sample_format is not None:
            track.format = sample_format
        packets = []
        for index in range(25 * seconds):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 255 if index % 25 == 0 else 40, np.uint8), "bgr24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            packets += picture.encode(frame)
        packets += picture.encode(None)
        for start, end in runs or ((0, seconds),):
            packets += _sound_packets(track, start, end, rate, layout)
        packets += track.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            output.mux(packet)
    return path


def _sound_packets(track: Any, start: float, end: float, rate: int, layout: str) -> list[av.Packet]:
    wave = beeps(end - start, rate, start)
    channels = av.AudioLayout(layout).nb_channels
    size = track.codec_context.frame_size or 1024
    packets = []
    for first in range(0, len(wave), size):
        piece = np.repeat(wave[first : first + size], channels)[None]
        frame = av.AudioFrame.from_ndarray(piece, "flt", layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(start * rate) + first
        packets += track.encode(frame)
    return packets


def samples_of(path: Path, track: int = 0) -> tuple[np.ndarray, np.ndarray, int]:
    """Time and loudness (0..1, the loudest channel's) of every sample of a sound track, and its channels."""
    times, levels, channels = [], [], 0
    with av.open(str(path)) as source:
        packed = None
        for frame in source.decode(source.streams.audio[track]):
            channels = frame.layout.nb_channels
            if frame.pts is None:  # what WMA has inside at the end
                continue
            packed = packed or av.AudioResampler(frame.format.packed)
            (samples,) = (piece.to_ndarray().astype(np.float64) for piece in packed.resample(frame))
            peak = {"u8": 128, "s16": 1 << 15, "s32": 1 << 31}.get(frame.format.packed.name, 1)
            levels.append(np.abs(samples.reshape(-1, channels) - (128 if peak == 128 else 0)).max(1) / peak)
            times.append(float(frame.pts * frame.time_base) + np.arange(frame.samples) / frame.sample_rate)
    return np.concatenate(times), np.concatenate(levels), channels


def beep_times(path: Path, track: int = 0) -> list[float]:
    """When the beeps of a file begin, in seconds."""
    times, levels, _ = samples_of(path, track)
    loud = times[levels > 0.3]
    return loud[np.diff(loud, prepend=-1) > 0.2].tolist() if loud.size else []


def flash_times(path: Path) -> list[float]:
    """When the flashes of a file are shown, in seconds."""
    times, was_white = [], False
    with av.open(str(path)) as source:
        for frame in source.decode(video=0):
            white = frame.to_ndarray(format="gray").mean() > 180
            if white and not was_white:
                times.append(float(frame.pts * frame.time_base))
            was_white = white
    return times


def apart_ms(path: Path) -> list[float]:
    """For each beep, how much later than the nearest flash it begins, in milliseconds."""
    flashes = flash_times(path)
    return [1000 * min((beep - flash for flash in flashes), key=abs) for beep in beep_times(path)]
