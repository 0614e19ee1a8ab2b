"""Makes media files with PyAV for tests, and reads files back exactly: timestamps, packets, metadata."""

from __future__ import annotations

import dataclasses
import hashlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.stream import Disposition

# Kr and Kb of the matrices of ITU-T H.273, by their number there.
LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}

BARS_BGR = np.array(
    [
        *([0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]),
        *([0, 255, 255], [255, 0, 255], [128, 128, 128], [200, 100, 50], [30, 60, 220], [64, 190, 128]),
    ],
    np.uint8,
)


@dataclasses.dataclass(frozen=True)
class Audio:
    """A sine of some seconds as an audio track."""

    codec: str = "aac"
    seconds: float = 1.0
    rate: int = 48000
    layout: str = "stereo"
    language: str = ""
    title: str = ""
    disposition: int = 0
    start_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Text:
    """A subtitle track: (start, end, text) in milliseconds; ASS or SubRip in Matroska."""

    lines: tuple[tuple[int, int, str], ...] = ((100, 400, "Hello"), (500, 900, "<i>World</i> & all"))
    codec: str = "subrip"
    language: str = "eng"
    disposition: int = 0


def bars(width: int = 384, height: int = 64) -> np.ndarray:
    """Colour bars as BGR, each bar width/12 pixels wide."""
    return np.ascontiguousarray(np.repeat(np.repeat(BARS_BGR[None], height, 0), width // 12, 1))


def moving_picture(index: int, width: int, height: int) -> np.ndarray:
    """A BGR picture that tells its index by the place of a bright square, and which way is up by its gradients."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 160 // max(1, width), y * 160 // max(1, height), np.full_like(x, 60)], -1).astype(np.uint8)
    left = (index * 7) % max(1, width - 8)
    image[height // 4 : height // 4 + 8, left : left + 8] = 255
    return image


def yuv_of(bgr: np.ndarray, matrix: int, *, full: bool, bits: int = 8) -> np.ndarray:
    """Y, Cb, Cr (float, rounded) of BGR by the definition of the matrix: independent of the code under test."""
    kr, kb = LUMA_WEIGHTS[matrix]
    b, g, r = np.moveaxis(bgr.astype(np.float64) / 255, -1, 0)
    y = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - y) / (2 * (1 - kb)), (r - y) / (2 * (1 - kr))
    scale, peak = 1 << (bits - 8), (1 << bits) - 1
    if full:
        planes = [y * peak, cb * peak + 128 * scale, cr * peak + 128 * scale]
    else:
        planes = [(y * 219 + 16) * scale, (cb * 224 + 128) * scale, (cr * 224 + 128) * scale]
    return np.clip(np.round(np.stack(planes, -1)), 0, peak)


def bgr_of(yuv: np.ndarray, matrix: int, *, full: bool) -> np.ndarray:
    """BGR (float, 0..255) of 8-bit Y, Cb, Cr by the definition of the matrix."""
    kr, kb = LUMA_WEIGHTS[matrix]
    y, cb, cr = np.moveaxis(yuv.astype(np.float64), -1, 0)
    y, cb, cr = (
        (y / 255, (cb - 128) / 255, (cr - 128) / 255) if full else ((y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224)
    )
    r, b = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    g = (y - kr * r - kb * b) / (1 - kr - kb)
    return np.clip(np.stack([b, g, r], -1), 0, 1) * 255


def frame_of_yuv(yuv: np.ndarray, pixel_format: str = "yuv420p") -> av.VideoFrame:
    """A frame whose 4:2:0 planes are the given samples (chroma taken at even places)."""
    height, width = yuv.shape[:2]
    frame = av.VideoFrame(width, height, pixel_format)
    sample = np.dtype("<u2") if "10" in pixel_format else np.dtype("u1")
    for index, plane in enumerate(frame.planes):
        samples = yuv[..., index] if index == 0 else yuv[::2, ::2, index]
        padded = np.zeros((plane.height, plane.line_size // sample.itemsize), sample)
        padded[:, : plane.width] = samples
        plane.update(padded)
    return frame


def planes_of(frame: av.VideoFrame) -> list[np.ndarray]:
    """The 8-bit planes of a decoded frame."""
    return [np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width] for p in frame.planes]


def make_video(
    path: Path,
    *,
    pts: list[int] | None = None,
    time_base: Fraction = Fraction(1, 12800),
    last_duration: int = 0,
    size: tuple[int, int] = (64, 48),
    frames: list[av.VideoFrame] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    color: tuple[int, int, int, int] | None = None,
    aspect: Fraction | None = None,
    rotation: tuple[float, bool, bool] | None = None,
    audio: tuple[Audio, ...] = (),
    texts: tuple[Text, ...] = (),
    cover: bool = False,
    attachment: bytes | None = None,
    chapters: list[dict[str, Any]] | None = None,
    tags: dict[str, str] | None = None,
    video_tags: dict[str, str] | None = None,
    video_disposition: int = Disposition.default,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Writes a video file; by default ten 64x48 frames of 40 ms.

    Args:
        pts: timestamps in `time_base`.
        color: matrix, range, primaries, transfer (H.273 and AVColorRange numbers).
        rotation: degrees counter-clockwise, horizontal flip, vertical flip.
    """
    pts = [index * 512 for index in range(10)] if pts is None else pts
    with av.open(str(path), "w", container_options=container_options or {}) as output:
        output.metadata.update(tags or {})
        video = output.add_stream(
            codec,
            rate=25,
            width=size[0],
            height=size[1],
            pix_fmt=pixel_format,
            time_base=time_base,
            options=options or {},
        )
        video.disposition = video_disposition
        video.metadata.update(video_tags or {})
        context = video.codec_context
        if color is not None:
            context.colorspace, context.color_range, context.color_primaries, context.color_trc = color
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if rotation is not None:
            video.set_display_rotation(rotation[0], hflip=rotation[1], vflip=rotation[2])
        sounds = [(_add_audio(output, track), track) for track in audio]
        subtitles = [(_add_text(output, track), track) for track in texts]
        if attachment is not None:
            output.add_attachment("font.ttf", "application/x-truetype-font", attachment)
        picture = _add_cover(output, path) if cover else None
        if chapters:
            output.set_chapters(chapters)
        if picture is not None:
            output.mux(picture)
        for stream, track in subtitles:
            output.mux(_text_packets(stream, track))
        for stream, track in sounds:
            for packet in _audio_packets(stream, track):
                output.mux(packet)
        last = len(pts) - 1
        for index, stamp in enumerate(pts):
            frame = frames[index % len(frames)] if frames else None
            if frame is None:
                frame = av.VideoFrame.from_ndarray(moving_picture(index, *size), "bgr24").reformat(format=pixel_format)
            frame.pts, frame.time_base = stamp, time_base
            if color is not None:
                frame.colorspace, frame.color_range = color[0], color[1]
            for packet in video.encode(frame):
                _set_duration(packet, pts, last, last_duration)
                output.mux(packet)
        for packet in video.encode(None):
            _set_duration(packet, pts, last, last_duration)
            output.mux(packet)
    return path


def make_sound(path: Path, track: Audio) -> Path:
    """Writes a file with nothing but sound."""
    with av.open(str(path), "w") as output:
        output.mux(_audio_packets(_add_audio(output, track), track))
    return path


def _set_duration(packet: av.Packet, pts: list[int], last: int, last_duration: int) -> None:
    if last_duration and packet.pts is not None and packet.pts in pts:
        index = pts.index(packet.pts)
        packet.duration = last_duration if index == last else pts[index + 1] - pts[index]


def _add_audio(output: Any, track: Audio) -> Any:
    stream = output.add_stream(track.codec, rate=track.rate, layout=track.layout)
    stream.disposition = track.disposition
    for key, value in (("language", track.language), ("title", track.title)):
        if value:
            stream.metadata[key] = value
    return stream


def _audio_packets(stream: Any, track: Audio) -> list[av.Packet]:
    count = int(track.seconds * track.rate)
    wave = (np.sin(np.arange(count) * 2 * np.pi * 440 / track.rate) * 8000).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(np.repeat(wave[None], 2, 0).T.reshape(1, -1), "s16", track.layout)
    frame.sample_rate, frame.pts = track.rate, round(track.start_seconds * track.rate)
    frame.time_base = Fraction(1, track.rate)
    context = stream.codec_context
    resampler = AudioResampler(context.format, track.layout, track.rate, context.frame_size or 1024)
    packets = []
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        packets += stream.encode(piece)
    return packets + stream.encode(None)


def _add_text(output: Any, track: Text) -> Any:
    stream = output.add_stream(track.codec)
    stream.codec_context.subtitle_header = (
        b"[Script Info]\nScriptType: v4.00+\n\n"
        b"[V4+ Styles]\nFormat: Name, Fontname, Fontsize\nStyle: Default,Arial,16\n\n"
        b"[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
    )
    stream.metadata["language"] = track.language
    stream.disposition = track.disposition
    stream.time_base = Fraction(1, 1000)
    return stream


def _text_packets(stream: Any, track: Text) -> list[av.Packet]:
    packets = []
    for number, (start, end, text) in enumerate(track.lines):
        payload = f"{number},0,Default,,0,0,0,,{text}" if track.codec == "ass" else text
        packet = av.Packet(payload.encode())
        packet.pts = packet.dts = start
        packet.duration = end - start
        packet.time_base = Fraction(1, 1000)
        packet.stream = stream
        packet.is_keyframe = True
        packets.append(packet)
    return packets


def _add_cover(output: Any, path: Path) -> av.Packet:
    """Adds a small JPEG as cover image; returns its packet (None where the container keeps it as an attachment)."""
    context = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 32, 32, "yuvj420p", Fraction(1, 25)
    picture = av.VideoFrame.from_ndarray(moving_picture(0, 32, 32), "bgr24").reformat(format="yuvj420p")
    (packet,) = [*context.encode(picture), *context.encode(None)]
    if path.suffix == ".mkv":
        output.add_attachment("cover.jpg", "image/jpeg", bytes(packet))
        return []
    stream = output.add_mux_stream("mjpeg", width=32, height=32)
    stream.disposition = Disposition.attached_pic
    packet.stream = stream
    packet.pts = packet.dts = 0
    return packet


# --- reading back ---


@dataclasses.dataclass(frozen=True)
class Track:
    """A track as it lies in the file. Times are exact seconds."""

    type: str
    codec: str
    tags: dict[str, str]
    disposition: int
    packets: list[tuple[Fraction | None, Fraction | None, str]]  # pts, dts, hash of the payload
    payloads: list[bytes]

    @property
    def title(self) -> str | None:
        return self.tags.get("title") or self.tags.get("name")  # MP4 says "name"

    @property
    def language(self) -> str | None:
        language = self.tags.get("language")
        return None if language == "und" else language

    @property
    def hashes(self) -> list[str]:
        return [packet[2] for packet in self.packets]

    @property
    def times(self) -> list[tuple[Fraction | None, Fraction | None]]:
        return [packet[:2] for packet in self.packets]


@dataclasses.dataclass(frozen=True)
class Contents:
    """Everything of a file that the video contract speaks of."""

    tags: dict[str, str]
    chapters: list[tuple[Fraction, Fraction, str]]
    tracks: list[Track]
    attachments: list[tuple[str, bytes]]
    times: list[Fraction]
    durations: list[Fraction]
    end: Fraction | None  # of the video track, as the container states it
    frames: list[av.VideoFrame]
    aspect: Fraction | None
    color: tuple[int, int, int, int]
    codec: str

    def of_type(self, kind: str) -> list[Track]:
        return [track for track in self.tracks if track.type == kind]

    @property
    def size(self) -> tuple[int, int]:
        return self.frames[0].width, self.frames[0].height

    def image(self, index: int = 0) -> np.ndarray:
        """A frame as BGR, by the first frame's tags."""
        return self.frames[index].to_ndarray(format="bgr24")


def read(path: Path) -> Contents:
    """Reads a whole file, decoding its first real video stream."""
    with av.open(str(path)) as source:
        pictures = [s for s in source.streams.video if not s.disposition & Disposition.attached_pic]
        video = pictures[0] if pictures else None
        packets: dict[int, list[Any]] = {stream.index: [] for stream in source.streams}
        payloads: dict[int, list[bytes]] = {stream.index: [] for stream in source.streams}
        times, durations, frames = [], [], []
        for packet in source.demux():
            stream = packet.stream
            if stream is video:
                for frame in packet.decode():
                    times.append(frame.pts * video.time_base)
                    durations.append(frame.duration * video.time_base)
                    frames.append(frame)
            if packet.size:
                stamps = [None if t is None else t * stream.time_base for t in (packet.pts, packet.dts)]
                packets[stream.index].append((*stamps, hashlib.sha256(bytes(packet)).hexdigest()))
                payloads[stream.index].append(bytes(packet))
        tracks = [
            Track(
                stream.type,
                stream.codec_context.name if stream.codec_context is not None else "",
                dict(stream.metadata),
                int(stream.disposition),
                packets[stream.index],
                payloads[stream.index],
            )
            for stream in source.streams
            if stream.type != "attachment"
        ]
        first = frames[0] if frames else None
        return Contents(
            tags=dict(source.metadata),
            chapters=[
                (c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"].get("title", ""))
                for c in source.chapters()
            ],
            tracks=tracks,
            attachments=[(s.name, s.data) for s in source.streams if s.type == "attachment"],
            times=times,
            durations=durations,
            end=((video.start_time or 0) + video.duration) * video.time_base if video and video.duration else None,
            frames=frames,
            aspect=video.sample_aspect_ratio if video else None,
            color=(first.colorspace, first.color_range, first.color_primaries, first.color_trc)
            if first
            else (2, 0, 2, 2),
            codec=video.codec_context.name if video else "",
        )


def damage(path: Path, start: float, length: float, *, seed: int = 0) -> Path:
    """Overwrites part of a file with noise: `start` and `length` as shares of its size."""
    data = bytearray(path.read_bytes())
    first, count = int(len(data) * start), max(1, int(len(data) * length))
    data[first : first + count] = np.random.default_rng(seed).bytes(count)
    path.write_bytes(data)
    return path


def truncate(path: Path, share: float) -> Path:
    """Cuts a file off after a share of its size."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
