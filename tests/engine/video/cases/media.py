"""Makes small inputs with the ffmpeg program: a white flash and a beep begin together at every full second."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

FFMPEG = shutil.which("ffmpeg")
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="the ffmpeg program is not there: apt-get install ffmpeg")

FLASH = "drawbox=c=white:t=fill:enable='lt(mod(t,1),0.04)'"
BEEP = "sin(6283*t)*lt(mod(t,1),0.04)"
H264 = ("-c:v", "libx264", "-preset", "veryfast", "-g", "25", "-bf", "2")
AAC = ("-c:a", "aac")


def ffmpeg(*arguments: str | Path) -> None:
    """Runs the ffmpeg program."""
    assert FFMPEG is not None
    command = [FFMPEG, "-nostdin", "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"


def picture(seconds: float, *, size: str = "160x90", rate: int = 25, after: str = "") -> list[str]:
    """Arguments for a moving picture that flashes; `after` are filters behind the flash."""
    return ["-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}:d={seconds},{FLASH}{after}"]


def sound(seconds: float) -> list[str]:
    """Arguments for the beeps."""
    return ["-f", "lavfi", "-i", f"aevalsrc='{BEEP}':s=48000:d={seconds}"]


def clip(path: Path, seconds: float, *options: str, sound_seconds: float | None = None) -> Path:
    """A film with flashes and beeps."""
    tracks = [*picture(seconds), *sound(seconds if sound_seconds is None else sound_seconds)]
    ffmpeg(*tracks, "-pix_fmt", "yuv420p", *options, path)
    return path


def silent(path: Path, seconds: float, *options: str, size: str = "160x90") -> Path:
    """A film without sound."""
    ffmpeg(*picture(seconds, size=size), "-pix_fmt", "yuv420p", *options, path)
    return path


def join(path: Path, parts: list[Path]) -> Path:
    """The parts one after the other, as `cat` does; they are removed."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in set(parts):
        part.unlink()
    return path


def beside(path: Path, name: str) -> Path:
    """A name for a part of `path`."""
    return path.with_name(f"{path.stem}-{name}{path.suffix}")


# --- clocks ---


def stills(path: Path) -> Path:
    """Pictures that stay for 12 seconds, with B-frames."""
    stay = ",setpts='PTS+floor(N/50)*12/TB'"
    options = ["-fps_mode", "vfr", "-c:v", "libx264", "-bf", "3", "-pix_fmt", "yuv420p", *AAC]
    ffmpeg(*picture(10, after=stay), *sound(60), *options, path)
    return path


def joined(path: Path, *, parts: int, seconds: float, more_sound_seconds: float = 0.0) -> Path:
    """Every part's clock begins anew; its sound may be longer than its picture."""
    part = clip(beside(path, "part"), seconds, *H264, *AAC, sound_seconds=seconds + more_sound_seconds)
    return join(path, [part] * parts)


def starting_at(seconds: float) -> tuple[str, str]:
    """Options for the part of a film that begins then: none begins at 0, where the muxer would move it."""
    return "-output_ts_offset", str(1 + seconds)


def pids_change(path: Path) -> Path:
    """The second half is in other streams."""
    first = clip(beside(path, "a"), 5, *H264, *AAC, *starting_at(0), "-mpegts_start_pid", "0x100")
    second = clip(beside(path, "b"), 5, *H264, *AAC, *starting_at(5), "-mpegts_start_pid", "0x200")
    return join(path, [first, second])


def late_sound(path: Path, *, seconds: int) -> Path:
    """The sound begins in the middle of the stream, and lasts for four seconds."""
    first = silent(beside(path, "a"), seconds, *H264, *starting_at(0))
    return join(path, [first, clip(beside(path, "b"), 4, *H264, *AAC, *starting_at(seconds))])


def live_recording(path: Path) -> Path:
    """WebM as browsers record it, with neither duration nor index."""
    options = ["-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus", "-f", "webm", "-live", "1"]
    return clip(path, 5, *options)


# --- pictures ---


def sdr_or_hdr(path: Path, *, hdr: bool, start: float = 0) -> Path:
    """A second of H.265 in BT.709, or in BT.2020 with PQ."""
    primaries, transfer, matrix = ("bt2020", "smpte2084", "bt2020nc") if hdr else ("bt709", "bt709", "bt709")
    x265 = f"log-level=none:keyint=25:colorprim={primaries}:transfer={transfer}:colormatrix={matrix}"
    source = ["-f", "lavfi", "-i", "testsrc2=s=160x90:r=25:d=1", "-pix_fmt", "yuv420p10le" if hdr else "yuv420p"]
    ffmpeg(*source, "-c:v", "libx265", "-x265-params", x265, *starting_at(start), path)
    return path


def box(path: Path, *options: str) -> Path:
    """A blue box in the middle; around it red that is transparent."""
    inside = "between(X,40,119)*between(Y,30,89)"
    red_and_blue = f"geq=r='255-255*{inside}':g=0:b='255*{inside}':a='255*{inside}'"
    ffmpeg("-f", "lavfi", "-i", f"color=c=red:s=160x120:r=25:d=0.4,format=rgba,{red_and_blue}", *options, path)
    return path


def interlaced(path: Path) -> Path:
    """Fields of 50 a second in frames of 25, marked as such."""
    fields = "testsrc2=s=160x128:r=50:d=1,tinterlace=mode=interleave_top,setfield=tff"
    ffmpeg("-f", "lavfi", "-i", fields, "-c:v", "mpeg2video", "-q:v", "2", "-flags", "+ilme+ildct", path)
    return path


def phone(path: Path, *, data_format: bytes = b"mebx") -> Path:
    """A phone's film: besides picture and sound a second sound, metadata and a timecode that nothing else reads."""
    words = path.with_suffix(".srt")
    words.write_text("1\n00:00:00,000 --> 00:00:01,000\nwords\n")
    tracks = ["-map", "0", "-map", "1", "-map", "1", "-map", "2", *H264, *AAC, "-c:a:1", "ac3", "-c:s", "mov_text"]
    ffmpeg(*picture(2), *sound(2), "-i", words, "-pix_fmt", "yuv420p", *tracks, "-timecode", "10:00:00:00", path)
    words.unlink()
    data = bytearray(path.read_bytes())
    entries = [match.start() + 16 for match in re.finditer(b"stsd", data)]  # where each track says its format
    formats = [bytes(data[place : place + 4]) for place in entries]
    sounds = [place for place, name in zip(entries, formats, strict=True) if name == b"ac-3"]
    words_at = next(place for place, name in zip(entries, formats, strict=True) if name in (b"tx3g", b"text"))
    handler = data.rindex(b"hdlr", 0, data.rindex(b"minf", 0, words_at)) + 12
    for place, name in ((sounds[0], b"apac"), (words_at, data_format), (handler, b"meta")):
        data[place : place + 4] = name
    path.write_bytes(data)
    return path


MAKERS: dict[str, Callable[[Path], Path]] = {
    "stills.mp4": stills,
    "joined.ts": lambda path: joined(path, parts=4, seconds=5, more_sound_seconds=0.4),
    "joined_long.ts": lambda path: joined(path, parts=2, seconds=15),
    "joined_often.ts": lambda path: joined(path, parts=60, seconds=1),
    "pids_change.ts": pids_change,
    "late_sound.ts": lambda path: late_sound(path, seconds=4),
    "very_late_sound.ts": lambda path: late_sound(path, seconds=25),
    "no_duration.webm": live_recording,
    "for_pipe.ts": lambda path: clip(path, 5, *H264, *AAC),
    "for_pipe.mkv": lambda path: clip(path, 5, *H264, *AAC),
    "bframes.avi": lambda path: clip(path, 6, "-c:v", "libx264", "-g", "25", "-bf", "3", "-c:a", "libmp3lame"),
    "pcm.m2ts": lambda path: clip(
        path, 3, *H264, "-ac", "2", "-c:a", "pcm_bluray", "-mpegts_m2ts_mode", "1", "-f", "mpegts"
    ),
    "pcm.vob": lambda path: clip(path, 3, "-c:v", "mpeg2video", "-ac", "2", "-c:a", "pcm_dvd", "-f", "vob"),
    "latm.ts": lambda path: clip(path, 3, *H264, *AAC, "-mpegts_flags", "+latm"),
    "adpcm.avi": lambda path: clip(path, 3, "-c:v", "mpeg4", "-q:v", "3", "-c:a", "adpcm_ms"),
    "wma.wmv": lambda path: clip(path, 3, "-c:v", "wmv2", "-b:v", "800k", "-c:a", "wmav2"),
    "clip.mp4": lambda path: clip(path, 3, *H264, *AAC),
    "surround.mp4": lambda path: clip(path, 3, *H264, *AAC, "-ac", "6"),
    "interlaced.ts": interlaced,
    "sdr.ts": lambda path: sdr_or_hdr(path, hdr=False),
    "hdr.ts": lambda path: sdr_or_hdr(path, hdr=True, start=1),
    "landscape.ts": lambda path: silent(path, 1, *H264, *starting_at(0)),
    "portrait.ts": lambda path: silent(path, 1, *H264, *starting_at(1), size="90x160"),
    "alpha.webm": lambda path: box(path, "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p"),
    "alpha.mov": lambda path: box(path, "-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le"),
    "alpha.gif": lambda path: box(path, "-vf", "split[a][b];[a]palettegen=reserve_transparent=1[p];[b][p]paletteuse"),
    "phone.mp4": phone,
    "phone.mov": phone,
    "action_camera.mp4": lambda path: phone(path, data_format=b"gpmd"),
}
