"""What is measured in a film: when it flashes and beeps, how combed a picture is, how like another one it is."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SYNC_SECONDS = 0.04  # one frame: the most that a beep may be off its flash

# A flash fills the picture with white; the moving pattern is around 110 of 255. A beep is a sine, its codec spreads it.
FLASH_LUMA = 200
BEEP_SHARE = 0.25
SILENCE_SECONDS = 0.3


@dataclasses.dataclass(frozen=True)
class Film:
    """A film as a player shows it. Times are seconds.

    Attributes:
        times: of the pictures.
        flashes, beeps: when these begin.
        sound: codec of the first sound track; "" without one.
        sound_packets: their number in it.
    """

    size: tuple[int, int]
    times: list[Fraction]
    flashes: list[float]
    beeps: list[float]
    sound: str
    sound_packets: int

    @property
    def steps(self) -> set[Fraction]:
        """The distances of pictures that follow each other."""
        return {later - earlier for earlier, later in itertools.pairwise(self.times)}

    @property
    def sync_seconds(self) -> list[float]:
        """For each flash while there are beeps: how much later the nearest beep begins."""
        first, last = self.beeps[0] - 0.5, self.beeps[-1] + 0.5
        flashes = [flash for flash in self.flashes if first < flash < last]
        return [min((beep - flash for beep in self.beeps), key=abs) for flash in flashes]

    def assert_in_sync(self, *, flashes: int, beeps: int | None = None) -> None:
        """Every flash and every beep is there, and those of a second begin together."""
        assert len(self.flashes) == flashes, self.flashes
        assert len(self.beeps) >= (flashes if beeps is None else beeps), self.beeps
        late = self.sync_seconds
        assert len(late) >= (flashes if beeps is None else beeps), (self.flashes, self.beeps)
        assert max(map(abs, late)) <= SYNC_SECONDS + 1e-3, [f"{1e3 * seconds:.0f} ms" for seconds in late]


def measure(path: Path) -> Film:
    """Decodes picture and sound of a film once each."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times, lights = [], []
        for frame in container.decode(stream):
            # Some containers have decoding times only. FFmpeg's guess from them may be a frame late.
            is_guessed = container.format.name in ("avi", "asf") and frame.dts is not None
            times.append((frame.dts if is_guessed else frame.pts) * stream.time_base)
            lights.append(float(frame.to_ndarray(format="gray").mean()) > FLASH_LUMA)
        size = (stream.width, stream.height)
    flashes = [float(time) for time, on, before in zip(times, lights, [False, *lights], strict=False) if on > before]
    with av.open(str(path)) as container:
        sounds = container.streams.audio
        if not sounds:
            return Film(size, times, flashes, [], "", 0)
        packets = sum(bool(packet.size) for packet in container.demux(sounds[0]))
        codec = sounds[0].codec_context.name if sounds[0].codec_context is not None else "unknown"
    return Film(size, times, flashes, beep_starts(path), codec, packets)


def beep_starts(path: Path) -> list[float]:
    """When the sound becomes loud after it was quiet, to a millisecond, by the timestamps of the decoded samples."""
    levels: list[tuple[float, float]] = []
    for time, rate, samples in decoded_sound(path):
        count = max(1, rate // 1000)
        loud = np.abs(samples).max(axis=0)
        peaks = np.maximum.reduceat(loud, np.arange(0, len(loud), count))
        levels += [(time + index * count / rate, float(peak)) for index, peak in enumerate(peaks)]
    levels.sort()
    threshold = BEEP_SHARE * max(level for _, level in levels)
    starts, last = [], -1.0
    for time, level in levels:
        if level > threshold:
            if time - last > SILENCE_SECONDS:
                starts.append(time)
            last = time
    return starts


def decoded_sound(path: Path) -> list[tuple[float, int, np.ndarray]]:
    """Time in seconds, rate, and samples (float [channels, samples]) of each decoded frame of the first sound track."""
    pieces = []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            array = frame.to_ndarray()
            channels = frame.layout.nb_channels
            if not frame.format.is_planar:
                array = array.reshape(-1, channels).T
            scale = float(np.iinfo(array.dtype).max) + 1 if array.dtype.kind == "i" else 1.0
            pieces.append((float(frame.time or 0), frame.sample_rate, array.astype(np.float64) / scale))
    return pieces


def samples_of(path: Path) -> np.ndarray:
    """All samples of the first sound track, float [channels, samples]."""
    return np.concatenate([samples for _, _, samples in decoded_sound(path)], axis=1)


def images(path: Path) -> list[np.ndarray]:
    """All pictures as BGR."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def lumas(path: Path) -> list[np.ndarray]:
    """Luma of all pictures, in limited range: chroma depends on the way in which it is enlarged."""
    with av.open(str(path)) as container:
        return [luma_of(frame) for frame in container.decode(video=0)]


def luma_of(frame: av.VideoFrame) -> np.ndarray:
    is_full = frame.color_range == 2 or frame.format.name.startswith("yuvj")
    frame = frame.reformat(format="yuv444p", src_color_range=2 if is_full else 1, dst_color_range=1)
    return np.asarray(frame.to_ndarray()[0])


def combing(image: np.ndarray) -> float:
    """How much more neighbouring rows differ than every second row: near 1 in a whole picture, more in two fields."""
    rows = image.astype(np.float64)
    return float(np.abs(rows[1:-1] - rows[2:]).mean() / np.abs(rows[:-2] - rows[2:]).mean())


def psnr(image: np.ndarray, other: np.ndarray) -> float:
    """PSNR of two uint8 pictures in dB, at most 100."""
    error = float(((image.astype(np.float64) - other) ** 2).mean())
    return 100.0 if error < 1e-5 else 10 * float(np.log10(255**2 / error))
