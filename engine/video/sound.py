"""Sound tracks that a container can't hold: decoded and encoded again, at their times."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from engine.video.containers import WITHOUT_SOUND_TIMES
from engine.video.pyav import import_av

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import Stream

# Sound that lies this far from where the samples before it end is moved there: the gap is filled with silence, the
# overlap is cut. Less is rounding: Matroska, ASF and AVI have timestamps of a millisecond or of a packet's length.
MOST_OFF_SECONDS = Fraction(1, 50)

# A longer gap stays one: it is in no film, but damaged.
MOST_SILENCE_SECONDS = 600

# Silence is made in pieces of at most this length, so that a gap of hours needs no memory.
_SILENCE_SECONDS = 1

# Container -> encoders to convert to, in the order they are tried: where the source is lossless, and where it is lossy.
_ENCODERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mp4": (("flac",), ("aac",)),
    "mov": (("pcm", "alac"), ("aac",)),
    "matroska": (("flac",), ("aac",)),
    "webm": ((), ("libopus",)),
    "avi": (("pcm",), ("libmp3lame", "ac3")),
    "flv": ((), ("aac",)),
    "mpegts": ((), ("aac",)),
    "asf": ((), ("wmav2",)),
}

# Containers whose timestamps may be negative, or that say how many samples the encoder has put in front. The other ones
# would move all tracks.
_HOLDS_PRIMING = ("mp4", "mov", "matroska", "webm")

_LOSSLESS = {
    "flac",
    "alac",
    "truehd",
    "mlp",
    "tta",
    "wavpack",
    "ape",
    "tak",
    "shorten",
    "wmalossless",
    "mp4als",
    "ralf",
}

# Encoder -> layouts that decoders of its format know. The other ones become the nearest of these.
_LAYOUTS = {
    "aac": ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1"),
    "alac": ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1(back)", "7.1(wide)"),
    "flac": ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1"),
    "libopus": ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1"),
    "ac3": ("mono", "stereo", "3.0", "quad", "5.0", "5.1"),
    "libmp3lame": ("mono", "stereo"),
    "wmav2": ("mono", "stereo"),
}

# Where a file says how many channels there are but not which: FFmpeg's usual layouts.
_USUAL_LAYOUTS = ("mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1")

# Encoder -> bits per second for one channel, for two, and for each one of more. Hardly anyone hears a difference.
_BIT_RATES = {
    "aac": (128_000, 192_000, 80_000),
    "libopus": (96_000, 160_000, 64_000),
    "libmp3lame": (128_000, 256_000, 0),
    "ac3": (128_000, 256_000, 96_000),
    "wmav2": (128_000, 192_000, 0),
}

# What an encoder's format is called in a note.
_NAMES = {"libopus": "Opus", "libmp3lame": "MP3", "wmav2": "WMA"}

# Sample format -> PCM encoder.
_PCM = {"u8": "pcm_u8", "s16": "pcm_s16le", "s32": "pcm_s24le", "flt": "pcm_f32le", "dbl": "pcm_f64le"}


def sound_codec_for(stream: Stream, container: str) -> str | None:
    """The encoder for a sound track that a container can't hold as it is; None where there is none.

    A lossless track stays lossless where the container holds such a format that players know.

    Args:
        stream: a sound track of the source, with its sample rate and format.
        container: FFmpeg's name of the output's container.
    """
    if stream.codec_context is None:  # no decoder, as for Apple's spatial sound
        return None
    lossless, lossy = _ENCODERS.get(container, ((), ()))
    names = (*lossless, *lossy) if _is_lossless(stream) else lossy
    encoders = [encoder for name in names if (encoder := _pcm_encoder(stream) if name == "pcm" else name)]
    usable = [encoder for encoder in encoders if _opens(encoder, stream)]
    return next((encoder for encoder in usable if _keeps_channels(encoder, stream)), next(iter(usable), None))


def codec_label(encoder: str) -> str:
    """What an encoder's format is called in a note: `AAC`, `Opus`."""
    return "PCM" if encoder.startswith("pcm_") else _NAMES.get(encoder, encoder.upper())


class _Form(NamedTuple):
    """What all samples on their way from decoder to encoder look like."""

    format: str  # packed: PyAV can't reach planes beyond the seventh
    layout: str
    rate: int


class SoundConverter:
    """Encodes one sound track of the source into a new track of the output, at the same times.

    The first sample keeps its time. The samples that follow are one unbroken run: a gap in the source is filled with
    silence, if it is shorter than ten minutes, and an overlap is cut, so that sound never is further than
    `MOST_OFF_SECONDS` from its place. Where the container keeps no times, the run begins at zero.

    Args:
        stream: the source's track, whose decoder is used.
        output: where the new track is added.
        codec: name of the encoder, as `sound_codec_for` gives it.

    Attributes:
        stream: the new track.
        damaged_packets: packets that could not be decoded and became silence.
    """

    def __init__(self, stream: Stream, output: OutputContainer, codec: str) -> None:
        self.damaged_packets = 0
        settings = _settings(codec, stream)
        self.stream: Any = output.add_stream(codec, **settings)
        self._begins_at_zero = output.format.name in WITHOUT_SOUND_TIMES
        self._drops_priming = output.format.name not in _HOLDS_PRIMING
        self._decoder: Any = stream.codec_context
        self._time_base = stream.time_base or Fraction(1, 90000)
        self._form: _Form | None = None
        self._incoming: tuple[str, str, int] | None = None  # the form that the resampler was made for
        self._resampler: Any = None
        self._end_seconds: Fraction | None = None  # where the next sample of the output is shown
        self._position = 0  # the same in samples of the source

    def convert(self, packet: Packet) -> Iterator[Packet]:
        """Yields the packets to mux that are ready. The packet's timestamps are those of the output's timeline."""
        av = import_av()
        try:
            frames = self._decoder.decode(packet)
        except (av.error.FFmpegError, ValueError):
            self.damaged_packets += 1
            return
        for frame in frames:
            yield from self._encode(frame)

    def flush(self) -> Iterator[Packet]:
        """Yields what is still inside the decoder and the encoder. Nothing can be converted afterwards."""
        av = import_av()
        try:
            frames = self._decoder.decode(None)
        except (av.error.FFmpegError, ValueError):
            frames = []
        for frame in frames:
            yield from self._encode(frame)
        if self._form is not None:
            yield from self._mux(self.stream.encode(None))

    def _encode(self, frame: AudioFrame) -> Iterator[Packet]:
        for uniform in self._uniform(frame):
            for piece in self._in_place(uniform):
                yield from self._mux(self.stream.encode(piece))

    def _mux(self, packets: list[Packet]) -> Iterator[Packet]:
        for packet in packets:
            if self._drops_priming and packet.pts is not None and packet.pts < 0:
                continue
            packet.stream = self.stream
            yield packet

    def _uniform(self, frame: AudioFrame) -> list[AudioFrame]:
        """The frame with packed samples in the form of the first one: broadcasts change between stereo and 5.1."""
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._form is None:
            self._form = _Form(frame.format.packed.name, _layout_of(frame.layout), frame.sample_rate)
        if form != self._incoming:
            self._incoming = form
            self._resampler = import_av().AudioResampler(*self._form)
        return self._resampler.resample(frame)

    def _in_place(self, frame: AudioFrame) -> Iterator[AudioFrame]:
        """The frame with the silence before it, or without what overlaps, as one run of samples."""
        assert self._form is not None
        rate, channels = self._form.rate, frame.layout.nb_channels
        start = frame.pts * (frame.time_base or self._time_base) if frame.pts is not None else None
        if self._end_seconds is None:
            self._end_seconds = Fraction(0) if self._begins_at_zero else start or Fraction(0)
            self._position = round(self._end_seconds * rate)
        off = start - self._end_seconds if start is not None else Fraction(0)
        samples = frame.to_ndarray()
        if off > MOST_SILENCE_SECONDS:
            self._end_seconds += off
            self._position = round(self._end_seconds * rate)
        elif off > MOST_OFF_SECONDS:
            missing = round(off * rate)
            while missing:
                count = min(missing, _SILENCE_SECONDS * rate)
                silence = 128 if samples.dtype == np.uint8 else 0
                yield self._next(np.full((1, count * channels), silence, samples.dtype))
                missing -= count
        elif off < -MOST_OFF_SECONDS:
            samples = samples[:, round(-off * rate) * channels :]
        if samples.shape[1]:
            yield self._next(samples)

    def _next(self, samples: np.ndarray) -> AudioFrame:
        """Samples as a frame that follows the one before."""
        assert self._form is not None
        assert self._end_seconds is not None
        frame = import_av().AudioFrame.from_ndarray(np.ascontiguousarray(samples), self._form.format, self._form.layout)
        frame.sample_rate, frame.pts, frame.time_base = self._form.rate, self._position, Fraction(1, self._form.rate)
        self._position += frame.samples
        self._end_seconds += Fraction(frame.samples, self._form.rate)
        return frame


def _layout_of(layout: Any) -> str:
    """A layout by its name; the usual one where the file only counts the channels."""
    count = layout.nb_channels
    unnamed = layout.name.endswith(" channels")
    return _USUAL_LAYOUTS[count - 1] if unnamed and 0 < count <= len(_USUAL_LAYOUTS) else layout.name


def _packed_format(stream: Any) -> str:
    """The decoder's sample format without its order of channels: s16, s32, flt."""
    sample_format = stream.codec_context.format
    return sample_format.packed.name if sample_format is not None else "flt"


def _is_lossless(stream: Any) -> bool:
    codec = stream.codec_context.codec.canonical_name
    is_pcm = codec.startswith("pcm_") and codec not in ("pcm_alaw", "pcm_mulaw")
    # What only DTS-HD Master Audio has of DTS.
    is_master = codec == "dts" and "MA" in (stream.codec_context.profile or "")
    return is_pcm or is_master or codec in _LOSSLESS


def _pcm_encoder(stream: Any) -> str | None:
    codec = stream.codec_context.codec.canonical_name
    return "pcm_s32le" if codec.startswith("pcm_s32") else _PCM.get(_packed_format(stream))


def _settings(encoder: str, stream: Any) -> dict[str, Any]:
    """Arguments of `add_stream` for a track that sounds like the source's."""
    codec = import_av().Codec(encoder, "w")
    rate = stream.codec_context.sample_rate
    rates = sorted(codec.audio_rates or [])
    if rates and rate not in rates:
        rate = next((higher for higher in rates if higher > rate), rates[-1])
    layout = _nearest_layout(encoder, stream.codec_context.layout)
    count = import_av().AudioLayout(layout).nb_channels
    settings: dict[str, Any] = {"rate": rate, "layout": layout}
    if encoder in _BIT_RATES:
        mono, stereo, each = _BIT_RATES[encoder]
        settings["bit_rate"] = {1: mono, 2: stereo}.get(count, each * count)
    formats = [sample_format.name for sample_format in codec.audio_formats or []]
    is_short = _packed_format(stream) in ("u8", "s16")
    wanted = ("s16", "s16p") if is_short else ("fltp", "flt", "s32", "s32p")
    settings["format"] = next((name for name in wanted if name in formats), formats[0])
    return settings


def _nearest_layout(encoder: str, layout: Any) -> str:
    """The source's layout if the encoder's format has it, else one of as many channels, else of the next fewer."""
    name, accepted = _layout_of(layout), _LAYOUTS.get(encoder)
    if accepted is None or name in accepted:
        return name
    counts = {import_av().AudioLayout(candidate).nb_channels: candidate for candidate in accepted}
    return counts[max(count for count in counts if count <= layout.nb_channels)]


def _keeps_channels(encoder: str, stream: Any) -> bool:
    layout = stream.codec_context.layout
    return import_av().AudioLayout(_nearest_layout(encoder, layout)).nb_channels == layout.nb_channels


def _opens(encoder: str, stream: Any) -> bool:
    """Whether the encoder takes the track in the form that it would get."""
    av = import_av()
    if not stream.codec_context.sample_rate or not stream.codec_context.layout.nb_channels:
        return False
    settings = _settings(encoder, stream)
    trial = av.CodecContext.create(encoder, "w")
    trial.sample_rate, trial.layout, trial.format = settings["rate"], settings["layout"], settings["format"]
    if "bit_rate" in settings:
        trial.bit_rate = settings["bit_rate"]
    try:
        trial.open()
    except (av.error.FFmpegError, ValueError):
        return False
    return True
