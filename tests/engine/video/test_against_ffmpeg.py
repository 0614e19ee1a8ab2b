"""Timestamps and packet counts of our outputs against what the ffmpeg program reads in the inputs.

A family of small clips, each with 20 pictures of 64x48 and sound. The reference is `ffprobe`; that of joined clips is
each part's, the second one moved to the first one's end, pictures and sound alike.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.engine.video.cases.media import ffmpeg
from tests.engine.video.through import through

FFPROBE = shutil.which("ffprobe")
FRAMES = 20
SAMPLE = 25  # of all, in `make test`; `make test-all` runs the rest

pytestmark = pytest.mark.skipif(FFPROBE is None, reason="the ffprobe program is not there: apt-get install ffmpeg")

CONTAINERS = {  # suffix: pictures, sound
    "mp4": (("libx264", "mpeg4"), "aac"),
    "mov": (("libx264", "mjpeg"), "aac"),
    "mkv": (("libx264", "mpeg4", "libvpx"), "aac"),
    "webm": (("libvpx",), "libopus"),
    "ts": (("libx264", "mpeg2video"), "aac"),
    "mpg": (("mpeg2video",), "mp2"),
    "avi": (("libx264", "mpeg4"), "libmp3lame"),
    "flv": (("libx264", "flv"), "aac"),
}
WITH_B_FRAMES = {"libx264", "mpeg4", "mpeg2video"}
RATES = ("25", "30000/1001", "50")
BROADCAST = {"ts", "mpg"}
"""Their clocks start anywhere: we move them to zero. All others keep their start."""

MILLISECONDS = {"mkv", "webm", "flv"}
"""Their clocks tick in milliseconds, which the reference's and the output's rounding may see differently."""

# The 33-bit clock of transport streams starts anew after 26.5 hours; the muxer adds 1.4 s to the start.
WRAP_SECONDS = 2**33 / 90000 - 1.4 - 0.3

STARTS: dict[str, tuple[float, ...]] = {
    "mp4": (0, 5.2),
    "mov": (0, 5.2),
    "mkv": (0, 5.2, 36000),
    "webm": (0, 5.2),
    "ts": (0, 5.2, 36000, WRAP_SECONDS),
    "mpg": (0, 5.2),
    "avi": (0,),
    "flv": (0, 5.2),
}
GAPS = (0.0, 2.5)
JOINS = ("", "again", "earlier")  # the same clip again; one whose clock starts 3 s before the first one's


@dataclasses.dataclass(frozen=True)
class Case:
    """One clip of the family."""

    container: str
    codec: str
    b_frames: int
    rate: str
    start: float
    gap: float
    join: str

    def __str__(self) -> str:
        parts = [self.container, self.codec, f"b{self.b_frames}", self.rate.replace("/", "_"), f"at{self.start:.0f}"]
        return "-".join([*parts, *(["gap"] if self.gap else []), *([self.join] if self.join else [])])


def family() -> Iterator[Case]:
    """All combinations that exist."""
    for container, (codecs, _) in CONTAINERS.items():
        joins = JOINS if container in BROADCAST else ("",)
        for codec, rate, gap, join in itertools.product(codecs, RATES, GAPS, joins):
            for b_frames in (0, 2) if codec in WITH_B_FRAMES else (0,):
                for start in STARTS[container]:
                    if not (join and start == WRAP_SECONDS):
                        yield Case(container, codec, b_frames, rate, start, gap, join)


CASES = sorted(family(), key=str)
QUICK = set(CASES[:: len(CASES) // SAMPLE])


@dataclasses.dataclass(frozen=True)
class Times:
    """When pictures are shown and sound packets begin, in seconds, in order of time."""

    pictures: list[Fraction]
    sound: list[Fraction]


# --- where we differ on purpose ---


def compare_steps(ours: Times, theirs: Times, tick: Fraction) -> None:
    """The pictures' distances alone, wherever they are."""
    assert len(ours.pictures) == len(theirs.pictures)
    steps, expected = (
        sorted(later - earlier for earlier, later in itertools.pairwise(times.pictures)) for times in (ours, theirs)
    )
    assert all(abs(one - other) <= tick for one, other in zip(steps, expected, strict=True))
    assert abs(ours.pictures[0] - ours.sound[0]) <= Fraction(1, 25)


def compare_pictures(ours: Times, theirs: Times, tick: Fraction) -> None:
    """All pictures, and sound as long as theirs."""
    assert len(ours.pictures) == len(theirs.pictures)
    for one, other in zip(ours.pictures, theirs.pictures, strict=True):
        assert abs((one - ours.pictures[0]) - (other - theirs.pictures[0])) <= tick
    lasting, expected = (times.sound[-1] - times.sound[0] for times in (ours, theirs))
    assert abs(lasting - expected) <= Fraction(1, 10)


EXPLAINED: list[tuple[str, Callable[[Case], bool], Callable[[Times, Times, Fraction], None]]] = [
    (
        "AVI has no presentation times. FFmpeg shows the first picture late by the decoder's delay when there are "
        "B-frames; we show it when the sound begins.",
        lambda case: case.container == "avi" and case.b_frames > 0,
        compare_steps,
    ),
    (
        "MPEG audio layer 2 in MP4 is read as MP3 by FFmpeg and by nobody else; we make AAC of it.",
        lambda case: case.container == "mpg",
        compare_pictures,
    ),
]
"""Each class of differences: its reason, what belongs to it, and what must hold for it still."""


# --- making and reading ---


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case, float], tuple[Path, Times]]:
    """Gives a clip without joins and what ffprobe reads in it; each is made once."""
    folder = tmp_path_factory.mktemp("family")
    made: dict[tuple[Case, float], tuple[Path, Times]] = {}

    def part(case: Case, start: float) -> tuple[Path, Times]:
        key = dataclasses.replace(case, join="", start=0), start
        if key not in made:
            path = folder / f"{len(made)}.{case.container}"
            make(case, start, path)
            made[key] = path, probe(path, 1 / Fraction(case.rate))
        return made[key]

    return part


def make(case: Case, start: float, path: Path) -> None:
    """Encodes a clip."""
    seconds = float(FRAMES / Fraction(case.rate)) + case.gap
    gap = f",setpts='PTS+gte(N,{FRAMES // 2})*{case.gap}/TB'" if case.gap else ""
    picture = f"testsrc2=s=64x48:r={case.rate}:d={float(FRAMES / Fraction(case.rate))}{gap}"
    sound = f"sine=frequency=440:sample_rate=48000:d={seconds}"
    b_frames = ("-bf", str(case.b_frames)) if case.codec in WITH_B_FRAMES else ()
    options = ("-g", "8", *b_frames, "-threads", "1", "-fps_mode", "vfr", "-pix_fmt", pixel_format(case.codec))
    # Without reordering to non-negative times of the muxer, a start of 0 would begin before 0.
    offset = ("-output_ts_offset", f"{start}") if start else ()
    inputs = ("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound)
    codecs = ("-c:v", case.codec, *options, "-c:a", CONTAINERS[case.container][1], "-ar", "48000")
    ffmpeg(*inputs, *codecs, *offset, *(("-f", "vob") if case.container == "mpg" else ()), path)


def pixel_format(codec: str) -> str:
    return "yuvj420p" if codec == "mjpeg" else "yuv420p"


def probe(path: Path, frame_seconds: Fraction) -> Times:
    """What ffprobe says: frames' best timestamps, sound packets' own. A frame without one follows the one before."""
    entries = "stream=index,codec_type,time_base:frame=stream_index,best_effort_timestamp:packet=stream_index,pts,size"
    command = [str(FFPROBE), "-v", "error", "-show_frames", "-show_packets", "-show_entries", entries, "-of", "json"]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, timeout=60)
    said = json.loads(done.stdout)
    units = {stream["index"]: Fraction(stream["time_base"]) for stream in said["streams"]}
    kinds = {stream["index"]: stream["codec_type"] for stream in said["streams"]}
    pictures: list[Fraction] = []
    sound: list[Fraction] = []
    for entry in said["packets_and_frames"]:
        index = entry["stream_index"]
        if entry["type"] == "frame" and kinds[index] == "video":
            stamp = entry.get("best_effort_timestamp")
            pictures.append(pictures[-1] + frame_seconds if stamp is None else stamp * units[index])
        if entry["type"] == "packet" and kinds[index] == "audio":
            sound.append(entry["pts"] * units[index])
    return Times(sorted(pictures), sorted(sound))


def written(path: Path) -> Times:
    """What is in our output, which is read without decoding."""
    times: dict[str, list[Fraction]] = {"video": [], "audio": []}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.size:
                times[packet.stream.type].append(packet.pts * packet.time_base)
    return Times(sorted(times["video"]), sorted(times["audio"]))


# --- comparing ---


def tick_of(case: Case) -> Fraction:
    return Fraction(1, 1000) if case.container in MILLISECONDS else Fraction(1, 45000)


def compare(case: Case, ours: Times, theirs: Times) -> None:
    """The same pictures and packets at the same times, but for the shift of a broadcast."""
    tick = tick_of(case)
    for _, belongs, still in EXPLAINED:
        if belongs(case):
            return still(ours, theirs, tick)
    assert len(ours.pictures) == len(theirs.pictures)
    assert len(ours.sound) == len(theirs.sound)
    shift = Fraction(0)
    if case.container in BROADCAST:
        shift = min(theirs.pictures[0], theirs.sound[0])
    for name in ("pictures", "sound"):
        for index, (one, other) in enumerate(zip(getattr(ours, name), getattr(theirs, name), strict=True)):
            late = one - (other - shift)
            assert abs(late) <= tick, f"{name} {index}: {float(1e3 * late):.2f} ms"
    return None


def compare_joined(case: Case, ours: Times, first: Times, second: Times) -> None:
    """The second part begins where the first one's pictures end; its sound is moved by the same time."""
    frame = 1 / Fraction(case.rate)
    count = len(first.pictures)
    assert len(ours.pictures) == count + len(second.pictures)
    is_copied = case.container != "mpg"  # see EXPLAINED
    assert not is_copied or len(ours.sound) == len(first.sound) + len(second.sound)
    for part, times in ((ours.pictures[:count], first.pictures), (ours.pictures[count:], second.pictures)):
        for one, other in zip(part, times, strict=True):
            assert abs((one - part[0]) - (other - times[0])) <= tick_of(case)
    assert abs(ours.pictures[count] - ours.pictures[count - 1] - frame) <= max(frame, Fraction(1, 25))
    moved_pictures = ours.pictures[-1] - second.pictures[-1]
    moved_sound = ours.sound[-1] - second.sound[-1]
    assert abs(moved_pictures - moved_sound) <= Fraction(1, 25 if is_copied else 10), (
        "pictures and sound were moved differently"
    )


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=str(case), marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
)
def test_times_and_counts(case: Case, parts: Callable[[Case, float], tuple[Path, Times]], tmp_path: Path) -> None:
    path, theirs = parts(case, case.start)
    source = tmp_path / path.name
    if not case.join:
        shutil.copy(path, source)
        return compare(case, written(through(source, tmp_path / "out.mp4").path), theirs)
    start = case.start if case.join == "again" else max(0.0, case.start - 3)
    second, their_second = parts(case, start)
    source.write_bytes(path.read_bytes() + second.read_bytes())
    compare_joined(case, written(through(source, tmp_path / "out.mp4").path), theirs, their_second)
    return None


def test_the_family_is_large() -> None:
    assert len(CASES) >= 300
    assert len(QUICK) >= SAMPLE
    assert {case.container for case in QUICK} == set(CONTAINERS)
