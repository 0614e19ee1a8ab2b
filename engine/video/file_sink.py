"""Video files: encodes frames with exact timestamps and takes every other track along from the source's file."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from engine.errors import FrameSizeError, SinkError, SourceError
from engine.memory import host_image
from engine.video.base import Frame, SourceInfo
from engine.video.color import RANGE_FULL, Color, FromBgr
from engine.video.device_frames import (
    FromDeviceBgr,
    device_errors,
    not_shared,
    padded,
    shared_accelerator,
)
from engine.video.encoders import container_of, encoder_options, find_encoder, pixel_format_of
from engine.video.file_source import DEFAULT_FRAME_RATE, Media
from engine.video.hardware import ENCODER, SOFTWARE_ENCODER, VideoHardware, not_encoded, nvenc_options
from engine.video.libav import has_flag, import_av, one_line
from engine.video.partial_file import PartialFile
from engine.video.tracks import TrackCopier, copied_tags

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from torch import Tensor

# Writing stops while this much is free: enough to close the file (its index goes last) into one that plays.
RESERVE_BYTES = 2 << 20
INDEX_BYTES_PER_FRAME = 256

# MPEG-4 part 2 and its relatives count time in 16 bits.
_SMALL_CLOCKS = {"mpeg4": 65535, "msmpeg4": 65535, "msmpeg4v2": 65535, "mpeg1video": 65535, "mpeg2video": 65535}


class FileSink:
    """Encodes frames into a video file that appears under its name when it is complete.

    Args:
        path: where to; the suffix chooses the container.
        info: the source's description.
        media: the source's file; None for sources without one (images, webcams).
        crf: constant quality, smaller is better; None takes a default that suits the codec.
        codec: FFmpeg's name of the encoder; None takes the container's usual one.
        overwrite: replace `path` if it exists.
        threads: encoder threads; 0 lets the encoder choose.
        hardware: to encode H.264 on if no codec is named and it takes the picture's size; None is software.

    Attributes:
        hardware: the hardware encoder in use; "" where it is software.

    Raises:
        SinkError: unknown container or codec, codec that the container can't hold, or `path` can't be written.
    """

    needs_calling_thread = False

    def __init__(
        self,
        path: Path,
        *,
        info: SourceInfo,
        media: Media | None = None,
        crf: int | None = None,
        codec: str | None = None,
        overwrite: bool = False,
        threads: int = 0,
        hardware: VideoHardware | None = None,
    ) -> None:
        self.hardware = ""
        self._format, usual_codec = container_of(path.suffix)
        self._crf = crf
        self._offered = hardware if codec is None and usual_codec == SOFTWARE_ENCODER else None
        self._codec = find_encoder(codec or usual_codec)
        self._options, warning = encoder_options(self._codec.name, crf)
        self._warnings = [warning] if warning else []
        self._info = info
        no_media = Media(None, 0, Color(), None, Fraction(0), info.frame_rate or DEFAULT_FRAME_RATE)
        self._media = media or no_media
        self._threads = threads
        self._file = PartialFile(path, overwrite=overwrite)
        self._check_container_holds_codec()
        self._output: OutputContainer | None = None
        self._tracks: TrackCopier | None = None
        self._frames = 0
        self._last_pts: int | None = None
        self._end_seconds = Fraction(0)
        self._moved_timestamps = 0
        self._is_full = False
        self._from_device_bgr: FromDeviceBgr | None = None
        self._sharing: VideoHardware | None = None  # the encoder reads frames where torch has them
        self._lead: int | None = None  # how far decoding runs ahead of showing, in the encoder's unit
        self._durations: dict[int, int] = {}
        self._check_encoder_opens()
        self._check_space()

    def write(self, frame: Frame) -> None:
        """Encodes a frame and copies the other tracks up to its time.

        Raises:
            SinkError: the disk is full, or the encoder or container refuses.
            FrameSizeError: the codec can't encode frames of this size, or it changed.
        """
        if self._output is None:
            self._start(frame.image)
        if frame.image.shape[:2] != self._image_shape:
            (height, width), (first_height, first_width) = frame.image.shape[:2], self._image_shape
            raise FrameSizeError(
                f"{self._file.path}: frame {self._frames} is {width}x{height}, the ones before are "
                f"{first_width}x{first_height}; a video has one size"
            )
        self._check_space()
        picture = self._picture(frame.image)
        picture.pts = self._pts(frame)
        picture.time_base = self._time_base
        try:
            self._mux(self._stream.encode(picture))
        except (import_av().error.FFmpegError, OSError) as error:
            raise self._failure(error) from error
        self._frames += 1

    def finish(self, *, is_cut: bool = False) -> Path | None:
        """Encodes what is still inside the encoder, copies the rest of the other tracks, gives the file its name."""
        if self._output is None:
            raise SinkError(f"{self._file.path}: not written, because the source gave no frame")
        try:
            self._mux(self._stream.encode(None), is_last=True)
            assert self._tracks is not None
            self._tracks.advance(self._end_seconds if is_cut else None)
            self._close()
        except (import_av().error.FFmpegError, OSError) as error:
            failure = self._failure(error)
            self._discard()
            raise failure from error
        return self._file.complete()

    def abort(self) -> Path | None:
        """Closes what is done into `NAME.partial.SUFFIX`, the sound cut where the picture ends."""
        if self._output is None or not self._frames:
            self._discard()
            return None
        try:
            if not self._is_full:
                self._mux(self._stream.encode(None), is_last=True)
                assert self._tracks is not None
                self._tracks.advance(self._end_seconds)
            self._close()
            return self._file.keep_partial()
        except (import_av().error.FFmpegError, OSError, SinkError):
            self._discard()
            return None

    @property
    def warnings(self) -> list[str]:
        """One line for everything of the source that the output could not keep or had to change."""
        lines = list(self._warnings)
        if self._tracks is not None:
            lines += [f"{self._file.path}: {line}" for line in self._tracks.warnings]
        if self._moved_timestamps:
            lines.append(f"{self._file.path}: {self._moved_timestamps} frames moved, their timestamps did not increase")
        return lines

    # --- opening ---

    def _check_container_holds_codec(self) -> None:
        av = import_av()
        trial = av.open(io.BytesIO(), "w", format=self._format)
        try:
            trial.add_stream(self._codec.name, rate=25, width=64, height=64)
        except ValueError:
            raise SinkError(
                f"{self._file.path}: {self._format} can't hold {self._codec.name} video; "
                f"leave --codec out, or name the output .mkv"
            ) from None

    def _start(self, image: np.ndarray | Tensor) -> None:
        av = import_av()
        height, width = self._image_shape = image.shape[0], image.shape[1]
        pixel_format = pixel_format_of(self._codec)
        color = self._media.color
        if pixel_format.startswith("yuvj"):
            color = Color(color.matrix, RANGE_FULL, color.primaries, color.transfer)
        layout = av.VideoFormat(pixel_format, 16, 16)
        self._padding = (height % (16 // layout.chroma_height(16)), width % (16 // layout.chroma_width(16)))
        if any(self._padding):
            padded = f"{width + self._padding[1]}x{height + self._padding[0]}"
            self._warnings.append(
                f"{self._file.path}: {width}x{height} is padded to {padded}, the codec needs even sides"
            )
        self._output = av.open(
            os.path.abspath(self._file.part),
            "w",
            format=self._format,
            container_options=self._container_options(),
            metadata_errors="surrogateescape",
        )
        self._time_base = self._encoder_time_base()
        if self._offered is not None:
            self._take_hardware(self._offered, width + self._padding[1], height + self._padding[0])
        if self.hardware and self._offered is not None and not isinstance(image, np.ndarray):
            pixel_format = "nv12"
            if image.is_cuda and self._can_share(self._offered, width + self._padding[1], height + self._padding[0]):
                self._sharing = self._offered
            self._from_device_bgr = FromDeviceBgr(color, self._sharing)
        self._from_bgr = FromBgr(color, pixel_format)
        self._tracks = TrackCopier(self._media, self._output, self._format)
        self._stream = self._tracks.add_streams(lambda template: self._add_video(template, color, pixel_format))
        self._open_encoder(width + self._padding[1], height + self._padding[0])
        try:
            self._output.start_encoding()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._failure(error) from error

    def _take_hardware(self, hardware: VideoHardware, width: int, height: int) -> None:
        """Replaces libx264 by the hardware encoder, if that takes pictures of this size."""
        rate = self._encoder_rate()
        reason = not_encoded(hardware, self._crf, width=width, height=height, rate=rate, time_base=self._time_base)
        if reason is None:
            self._codec = find_encoder(ENCODER)
            self._options = nvenc_options(hardware, self._crf)
            self.hardware = ENCODER
        elif hardware.is_wanted:
            self._warnings.append(f"{self._file.path}: encoded by {SOFTWARE_ENCODER}, not {ENCODER}: {reason}")

    def _can_share(self, hardware: VideoHardware, width: int, height: int) -> bool:
        rate = self._encoder_rate()
        sides = {"width": width, "height": height}
        return not_shared(hardware, self._crf, **sides, rate=rate, time_base=self._time_base) is None

    def _add_video(self, template: Any, color: Color, pixel_format: str) -> Any:
        assert self._output is not None
        height, width = self._image_shape
        options = dict(self._options)
        without_b_frames = self._format in ("asf", "avi")  # no place for their delay: they would shift the picture
        if without_b_frames:
            options.pop("bf", None)
        with shared_accelerator(self._sharing) if self._sharing else contextlib.nullcontext() as shared:
            stream = self._output.add_stream(
                self._codec.name,
                rate=self._encoder_rate(),
                options=options,
                **({"hwaccel": shared} if shared is not None else {}),
                width=width + self._padding[1],
                height=height + self._padding[0],
                time_base=self._time_base,
                pix_fmt=pixel_format,
            )
        context = stream.codec_context
        context.thread_count = self._threads
        if without_b_frames:
            context.max_b_frames = 0
        if self._media.sample_aspect_ratio is not None:
            context.sample_aspect_ratio = self._media.sample_aspect_ratio
        if not _is_rgb(pixel_format):
            context.colorspace, context.color_range = color.matrix, color.range
            context.color_primaries, context.color_trc = color.primaries, color.transfer
        if template is not None:
            stream.metadata.update(copied_tags(template.metadata, self._format))
            stream.disposition = template.disposition
        return stream

    def _open_encoder(self, width: int, height: int) -> None:
        av = import_av()
        try:
            self._stream.codec_context.open()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise FrameSizeError(
                f"{self._file.path}: {self._codec.name} can't encode {width}x{height} ({one_line(error)}); "
                "scale the source, or try another --codec"
            ) from error

    def _check_encoder_opens(self) -> None:
        """Opens the encoder for a usual size, before any frame is translated: listed hardware is often not there.

        Raises:
            SinkError: it does not open.
        """
        av = import_av()
        context = av.CodecContext.create(self._codec.name, "w")
        context.width, context.height, context.pix_fmt = 640, 360, pixel_format_of(self._codec)
        context.time_base, context.framerate = 1 / self._media.frame_rate, self._media.frame_rate
        context.options = dict(self._options)
        try:
            context.open()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SinkError(
                f"--codec {self._codec.name}: the encoder can't be opened ({one_line(error)}); "
                "its hardware or driver may be missing, or --crf be out of its range; libx264 works everywhere"
            ) from error

    def _encoder_rate(self) -> Fraction:
        return self._media.frame_rate.limit_denominator(1 << 30)

    def _encoder_time_base(self) -> Fraction:
        """The source's clock, so that timestamps stay exact; the frame rate's where the format knows nothing finer."""
        assert self._output is not None
        rate = self._media.frame_rate
        self._constant_rate = not has_flag(self._output, "variable_fps")
        if self._info.time_base is None or self._constant_rate:
            return 1 / rate
        limit = _SMALL_CLOCKS.get(self._codec.name)
        if limit is not None and self._info.time_base.denominator > limit:
            return 1 / rate
        return self._info.time_base

    def _container_options(self) -> dict[str, str]:
        if self._format not in ("mp4", "mov"):
            return {}
        # The start of a track is kept in the movie's own unit: 1/1000 s unless a start needs a finer one.
        unit = self._media.start_unit if self._media.start_unit < 1 << 31 else 1000
        return {"movflags": "+faststart", "movie_timescale": str(unit)}

    # --- writing ---

    def _picture(self, image: np.ndarray | Tensor) -> VideoFrame:
        """A frame of the encoder's pixel format, converted where the image is if the encoder is there too."""
        if self._from_device_bgr is not None and not isinstance(image, np.ndarray):
            try:
                return self._from_device_bgr(padded(image, *self._padding) if any(self._padding) else image)
            except device_errors() as error:
                self._from_device_bgr = None
                self._warnings.append(
                    f"{self._file.path}: not converted on the device from frame {self._frames} on: {one_line(error)}"
                )
        try:
            image = host_image(image)
        except device_errors() as error:
            raise self._failure(error) from error
        return self._from_bgr(self._padded(image))

    def _padded(self, image: np.ndarray) -> np.ndarray:
        bottom, right = self._padding
        return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE) if bottom or right else image

    def _pts(self, frame: Frame) -> int:
        """The frame's timestamp in the encoder's unit, pushed forward where it doesn't increase."""
        if frame.pts is None or self._info.time_base is None:
            pts, duration = self._frames, 1
        else:
            ratio = self._info.time_base / self._time_base
            pts, duration = round(frame.pts * ratio), round(frame.duration * ratio)
        if self._last_pts is not None and pts <= self._last_pts:
            pts = self._last_pts + 1
            self._moved_timestamps += 1
        self._last_pts = pts
        self._durations[pts] = duration
        self._end_seconds = (pts + duration) * self._time_base
        return pts

    def _mux(self, packets: list[Packet], *, is_last: bool = False) -> None:
        assert self._output is not None
        assert self._tracks is not None
        for packet in packets:
            # Encoders drop durations or guess them from the rate; the last one of a file can't be had from timestamps.
            packet.duration = self._durations.pop(packet.pts, 0) if packet.pts is not None else 0
            if self._lead is None:
                self._lead = (packet.pts or 0) - (packet.dts or 0)
            if is_last and packet is packets[-1] and self._format in ("mp4", "mov"):
                # These sum up durations in decoding order: the last to be decoded carries what is missing to the end.
                end = round(self._end_seconds / self._time_base)
                packet.duration = max(1, end - self._lead - (packet.dts or 0))
            self._tracks.advance((packet.dts or 0) * self._time_base)
            packet.stream = self._stream
            self._output.mux_one(packet)

    def _check_space(self) -> None:
        if free_bytes(self._file.part.parent) < RESERVE_BYTES + INDEX_BYTES_PER_FRAME * self._frames:
            raise self._failure(OSError(errno.ENOSPC, "No space left on device"))

    def _failure(self, error: Exception) -> SinkError:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            self._is_full = True
            return SinkError(
                f"{self._file.path}: the disk is full after {self._frames} frames; free some space or use another disk"
            )
        if isinstance(error, SourceError):
            return SinkError(str(error))
        return SinkError(f"{self._file.path}: can't be written after {self._frames} frames ({one_line(error)})")

    def _close(self) -> None:
        assert self._output is not None
        assert self._tracks is not None
        self._tracks.close()
        self._output.close()

    def _discard(self) -> None:
        if self._output is not None:
            with contextlib.suppress(Exception):
                self._output.close()
        if self._tracks is not None:
            self._tracks.close()
        self._file.remove()


def _is_rgb(pixel_format: str) -> bool:
    return bool(import_av().VideoFormat(pixel_format).is_rgb)


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free
