"""Encoding the picture of an output: padding, colours, and the encoder in software or on NVIDIA's hardware."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from engine.device import host_image
from engine.errors import FrameSizeError, SinkError, first_line
from engine.video.base import Media
from engine.video.color import MATRIX_BT470BG, RANGE_FULL, Color, FromBgr
from engine.video.containers import WITHOUT_B_FRAMES, can_hold, container_of, encoder_time_base
from engine.video.encoders import VideoParameters, encoder_options, find_encoder, pixel_format_of
from engine.video.nvidia.codecs import why_not_encoded, why_not_shared
from engine.video.nvidia.frames import FromDeviceBgr, padded
from engine.video.nvidia.trials import (
    ENCODER,
    SHARED_FORMAT,
    SOFTWARE_ENCODER,
    VideoHardware,
    device_errors,
    nvenc_options,
)
from engine.video.palette import PaletteFromBgr
from engine.video.pyav import import_av
from engine.video.readback import accepted_sizes, check_encoder
from engine.video.tracks import copied_tags

if TYPE_CHECKING:
    from fractions import Fraction

    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from torch import Tensor


# Decoders of these take chroma at the left of each pair of pixels, unless the video says otherwise. The other ones take
# it in the middle.
_LEFT_SITED = ("h264", "hevc", "mpeg4", "mpeg2video")


# So that no frame waits inside the encoder.
LIVE_OPTIONS = {
    "libx264": {"preset": "veryfast", "tune": "zerolatency"},
    "libx265": {"preset": "ultrafast", "tune": "zerolatency"},
}
KEY_FRAME_SECONDS = 2

# x265 measures from the third frame how far decoding runs ahead. Without it, decoding times are what was in the memory.
X265_LEAST_FRAMES = 3


class VideoEncoder:
    """Encodes the frames of one output.

    Args:
        path: the output, whose suffix chooses the container; a URL, if there is a `suffix`.
        media: the file that the frames come from.
        crf: constant quality, smaller is better; None takes a default that suits the codec.
        codec: FFmpeg's name of the encoder; None takes the container's usual one.
        threads: encoder threads; 0 lets the encoder choose.
        hardware: to encode H.264 on if no codec is named and it takes the picture's size; None is software.
        suffix: chooses the container in the place of that of `path`.
        is_live: frames are sent at once, and viewers may come at any time.

    Attributes:
        hardware: the hardware encoder in use; "" where it is software.
        warnings: one line for each thing that is not as it was asked for, or not as in the source.

    Raises:
        SinkError: there is no such codec, the container can't hold it, or it can't be opened.
    """

    def __init__(
        self,
        path: Path | str,
        media: Media,
        *,
        crf: int | None = None,
        codec: str | None = None,
        threads: int = 0,
        hardware: VideoHardware | None = None,
        suffix: str = "",
        is_live: bool = False,
    ) -> None:
        self._frames = self._flushed_frames = 0
        self._context: Any = None  # what frames are in, not yet packets
        self.hardware = ""
        self._path = path
        self._media = media
        self._crf = crf
        self._threads = threads
        self._container, usual_codec = container_of(suffix or Path(path).suffix)
        usual_codec = SOFTWARE_ENCODER if is_live else usual_codec
        self._has_no_b_frames = is_live or self._container in WITHOUT_B_FRAMES
        self._offered = hardware if codec is None and usual_codec == SOFTWARE_ENCODER else None
        encoder = find_encoder(codec or usual_codec)
        self._name, self._pixel_format = encoder.name, pixel_format_of(encoder)
        self._options, warning = encoder_options(self._name, crf)
        self.warnings = [warning] if warning else []
        self._rate = media.frame_rate.limit_denominator(1 << 30)
        if is_live:
            self._options |= LIVE_OPTIONS.get(self._name, {})
            self._options["g"] = str(max(1, round(KEY_FRAME_SECONDS * self._rate)))
        self._from_device_bgr: FromDeviceBgr | None = None
        if not can_hold(self._container, self._name) and not is_live:
            raise SinkError(
                f"{path}: {self._container} can't hold {self._name} video; leave --codec out, or name the output .mkv"
            )
        check_encoder(self._name, "matroska" if is_live else self._container, self._options)

    # --- opening, at the first frame ---

    def prepare(self, image: np.ndarray | Tensor, output: OutputContainer, time_base: Fraction | None) -> Fraction:
        """Chooses the encoder, its frames' size and their conversion.

        Args:
            image: the first frame.
            output: where its packets will go.
            time_base: seconds per unit of the source's timestamps, None if it has none.

        Returns:
            Seconds per unit of the encoder's timestamps.
        """
        height, width = self._image_shape = image.shape[0], image.shape[1]
        layout = import_av().VideoFormat(self._pixel_format, 16, 16)
        self._padding = (height % (16 // layout.chroma_height(16)), width % (16 // layout.chroma_width(16)))
        self._video = VideoParameters(
            width + self._padding[1],
            height + self._padding[0],
            self._rate,
            encoder_time_base(output, self._name, time_base, self._media.tick_rate or self._media.frame_rate),
        )
        if any(self._padding):
            self._warn(
                f"{width}x{height} is padded to {self._video.width}x{self._video.height}, the codec needs even sides"
            )
        color = self._media.color
        if self._pixel_format.startswith("yuvj") or self._name == "libvpx":
            # JPEG and VP8 have one matrix, and decoders ask for no other.
            full = RANGE_FULL if self._pixel_format.startswith("yuvj") else color.range
            color = Color(MATRIX_BT470BG, full, color.primaries, color.transfer)
        if self._offered is not None:
            self._choose_hardware(self._offered, image, color)
        self._color = color
        is_centred = find_encoder(self._name).canonical_name not in _LEFT_SITED
        places = ("bottom", "bottomleft") if self._media.has_low_chroma else ("center", "left")
        self._from_bgr: FromBgr | PaletteFromBgr = PaletteFromBgr()
        if self._pixel_format != "pal8":
            self._from_bgr = FromBgr(color, self._pixel_format, chroma=places[0 if is_centred else 1])
        return self._video.time_base

    def _choose_hardware(self, hardware: VideoHardware, image: np.ndarray | Tensor, color: Color) -> None:
        """Replaces libx264 by the hardware encoder, if that takes pictures of this size."""
        reason = why_not_encoded(hardware, self._crf, self._video)
        if reason is not None:
            if hardware.is_wanted:
                self._warn(f"encoded by {SOFTWARE_ENCODER}, not {ENCODER}: {reason}")
            return
        self._name = self.hardware = ENCODER
        self._options = nvenc_options(hardware, self._crf)
        if not isinstance(image, np.ndarray):
            self._pixel_format = "nv12"
            is_shared = image.is_cuda and why_not_shared(hardware, self._crf, self._video) is None
            self._from_device_bgr = FromDeviceBgr(color, hardware if is_shared else None)

    def add_stream(self, output: OutputContainer, template: Any) -> Any:
        """Adds the encoder's stream to the output and opens the encoder.

        Args:
            output: the output.
            template: the source's stream, whose tags are copied; None if there is none.

        Raises:
            FrameSizeError: the encoder can't encode frames of this size.
        """
        self._stream: Any = output.add_stream(
            self._name,
            rate=self._rate,
            options=self._options_here(),
            width=self._video.width,
            height=self._video.height,
            time_base=self._video.time_base,
            pix_fmt=self._pixel_format,
        )
        if template is not None:
            self._stream.metadata.update(copied_tags(template.metadata, self._container))
            self._stream.disposition = template.disposition
        self._unused = self._stream.codec_context
        self._set(self._unused)
        self._open(self._unused)
        return self._stream

    def _options_here(self) -> dict[str, str]:
        options = dict(self._options)
        if self._has_no_b_frames:
            options.pop("bf", None)
        return options

    def _set(self, context: Any) -> None:
        context.thread_count = self._threads
        if self._has_no_b_frames:
            context.max_b_frames = 0
        if self._media.sample_aspect_ratio is not None:
            context.sample_aspect_ratio = self._media.sample_aspect_ratio
        if not import_av().VideoFormat(self._pixel_format).is_rgb:
            context.colorspace, context.color_range = self._color.matrix, self._color.range
            context.color_primaries, context.color_trc = self._color.primaries, self._color.transfer
        if self._container in ("mp4", "mov") and context.codec.canonical_name == "hevc":
            context.codec_tag = "hvc1"  # Apple's players show nothing of hev1

    def _open(self, context: Any) -> None:
        try:
            context.open()
        except (import_av().error.FFmpegError, OSError, ValueError) as error:
            raise FrameSizeError(
                f"{self._path}: {self._name} can't encode {self._video.width}x{self._video.height} "
                f"({first_line(error)}); {accepted_sizes(self._name) or 'take another size'}; or try another --codec"
            ) from error

    def _opened_again(self) -> Any:
        """Another encoder like the stream's, which begins with a key frame."""
        context = self._another(self._pixel_format)
        self._open(context)
        self._require_header(context)
        return context

    def _another(self, pixel_format: str) -> Any:
        """Another encoder like the stream's, which opens at its first frame."""
        context: Any = import_av().CodecContext.create(self._name, "w")
        context.options = self._options_here()
        context.framerate, context.time_base = self._rate, self._video.time_base
        context.width, context.height, context.pix_fmt = self._video.width, self._video.height, pixel_format
        context.flags = self._stream.codec_context.flags
        context.codec_tag = self._stream.codec_context.codec_tag
        self._set(context)
        return context

    def _require_header(self, context: Any) -> None:
        if context.extradata != self._stream.codec_context.extradata:
            raise SinkError(f"{self._path}: {self._name} can't encode in parts; --part-seconds 0 makes one piece")

    # --- encoding ---

    def picture(self, image: np.ndarray | Tensor) -> VideoFrame:
        """A frame of the encoder's pixel format, converted where the image is if the encoder is there too.

        Raises:
            FrameSizeError: the image's size differs from the first one's.
        """
        if image.shape[:2] != self._image_shape:
            (height, width), (first_height, first_width) = image.shape[:2], self._image_shape
            raise FrameSizeError(
                f"{self._path}: frame {self._frames} is {width}x{height}, the ones before are "
                f"{first_width}x{first_height}; a video has one size"
            )
        bottom, right = self._padding
        if self._from_device_bgr is not None and not isinstance(image, np.ndarray):
            try:
                return self._from_device_bgr(padded(image, bottom, right) if bottom or right else image)
            except device_errors() as error:
                self._from_device_bgr = None
                self._warn(f"not converted on the device from frame {self._frames} on: {first_line(error)}")
        image = host_image(image)
        if bottom or right:
            image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        return self._from_bgr(image)

    def encode(self, picture: VideoFrame, pts: int) -> list[Packet]:
        """Encodes a frame; returns the packets that are ready. The first one after `flush` is a key frame."""
        picture.pts, picture.time_base = pts, self._video.time_base
        self._frames += 1
        if self._context is None and picture.format.name == SHARED_FORMAT:
            self._context, self._unused = self._another(SHARED_FORMAT), None
            packets = self._context.encode(picture)
            self._require_header(self._context)
            return packets
        if self._context is None:
            self._context, self._unused = self._unused or self._opened_again(), None
        return self._context.encode(picture)

    def flush(self) -> list[Packet]:
        """The packets that are still inside the encoder."""
        context, self._context = self._context, None
        packets: list[Packet] = context.encode(None) if context is not None else []
        if self._name == "libx265" and self._frames - self._flushed_frames < X265_LEAST_FRAMES:
            for packet in packets:
                packet.dts = packet.pts
        self._flushed_frames = self._frames
        return packets

    def _warn(self, line: str) -> None:
        self.warnings.append(f"{self._path}: {line}")
