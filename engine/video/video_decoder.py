"""Decoding the picture of a file: on NVIDIA's hardware as far as that goes, else in software."""

from __future__ import annotations

import contextlib
import heapq
import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.errors import SourceError, first_line
from engine.video.demuxer import Demuxer
from engine.video.nvidia.codecs import HardwareDecoderError, decode_on_hardware, why_not_decoded
from engine.video.nvidia.frames import ToDeviceBgr, in_memory
from engine.video.nvidia.trials import VideoHardware, decoder_missing, device_errors
from engine.video.pyav import import_av

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from torch import Tensor

Decoded: TypeAlias = "tuple[VideoFrame, Tensor | None]"
"""A decoded frame, and its picture where that was converted on a device. Then the frame may have no picture."""


_TRANSPARENT = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


class VideoDecoder:
    """Decodes one stream.

    Args:
        spec: path or URL of the file.
        demuxer, stream: the open source, and which of its streams to decode.
        hardware: to decode on if it takes the stream, and where its frames stay if they can; None is software.
        closed: ends the decoding when it is set.

    Attributes:
        hardware: the hardware that has decoded frames; "" where software did.
        notes: one line for each thing that the hardware did not do.
        damaged_packets: packets that failed or arrived damaged so far.
    """

    def __init__(
        self,
        spec: str,
        demuxer: Demuxer,
        stream: Any,
        *,
        hardware: VideoHardware | None,
        closed: threading.Event,
    ) -> None:
        self.hardware = ""
        self.notes: list[str] = []
        self._spec = spec
        self._stream = stream
        self._demuxer = demuxer
        self._failed_packets = 0
        self._offered = hardware
        self._closed = closed
        if self._context() is not stream.codec_context:
            self._offered = None
        elif hardware is not None:
            reason = why_not_decoded(stream) if demuxer.can_be_opened_twice else "a stream can't be opened twice"
            reason = reason or decoder_missing(hardware.device_index)
            if reason is not None:
                self._offered = None
                self._note_if_wanted(hardware, f"decoded in software: {reason}")

    @property
    def is_software(self) -> bool:
        """Whether all is decoded in software, from the next packet that is read on."""
        return self._offered is None

    @property
    def damaged_packets(self) -> int:
        return self._failed_packets + self._demuxer.damaged

    def decode(self) -> Generator[Decoded, None, None]:
        """Decodes to the end of the file, in software from where the hardware meets anything unusual."""
        done = 0
        if self._offered is not None:
            try:
                with contextlib.closing(self._decode_on_hardware(self._offered)) as decoded:
                    for frame, image in decoded:
                        done += 1
                        self.hardware = "NVDEC"
                        yield frame, image
                return
            except HardwareDecoderError as error:
                self.hardware = f"NVDEC for {done} frames" if done else ""
                self._note_if_wanted(self._offered, f"decoded in software from frame {done} on: {error}")
            self._start_again()
        # One decoder counts, repairs and leaves out what is damaged, so software starts at the first frame again.
        for number, frame in enumerate(self._decode_in_software()):
            if number >= done:
                yield frame, None

    def _start_again(self) -> None:
        """Opens the source a second time for the picture; the first reader goes on for the other tracks."""
        self._demuxer.leave_pictures()
        index = self._stream.index
        self._demuxer = Demuxer(self._spec)
        self._demuxer.choose(self._demuxer.container.streams[index])
        self._demuxer.drop_others()

    def _decode_on_hardware(self, hardware: VideoHardware) -> Generator[Decoded, None, None]:
        """Decodes to the end of the file; pictures are converted on the device that they are to stay on, if any."""
        to_device = ToDeviceBgr(hardware.frames_device) if hardware.frames_device else None
        with contextlib.closing(decode_on_hardware(self._spec, self._demuxer, self._stream, hardware)) as frames:
            for number, frame in enumerate(frames):
                image = None
                if to_device is not None:
                    image = to_device(frame)
                    if to_device.failure is not None:
                        self.notes.append(
                            f"{self._spec}: not converted on the device from frame {number} on: {to_device.failure}"
                        )
                        to_device = None
                if image is None or number == 0:  # the first frame describes the file
                    try:
                        frame = in_memory(frame)
                    except device_errors() as error:
                        raise HardwareDecoderError(first_line(error)) from error
                yield frame, image

    def _decode_in_software(self) -> Generator[VideoFrame, None, None]:
        """Decodes to the end of the file; a packet that fails is counted and left out."""
        av = import_av()
        # Frames come in the order of presentation. Without its times, each takes the earliest decoding time left.
        times: list[int] = []
        lacks_times, is_first = self._demuxer.lacks_presentation_times, True
        context = self._context()
        for packet in self._demuxer.pictures():
            if self._closed.is_set():
                return
            if lacks_times:
                packet.pts = None
            if packet.pts is None and packet.dts is not None and packet.size:
                heapq.heappush(times, packet.dts)
            try:
                frames = context.decode(packet)
            except av.error.EOFError:
                continue
            except (av.error.FFmpegError, ValueError) as error:
                if isinstance(error, av.error.NotImplementedError | av.error.DecoderNotFoundError):
                    raise SourceError(f"{self._spec}: can't be decoded ({first_line(error)})") from error
                self._failed_packets += 1
                if packet.pts is None and packet.dts in times:
                    times.remove(packet.dts)
                    heapq.heapify(times)
                continue
            for frame in frames:
                if frame.pts is None and times:
                    if is_first and context.has_b_frames and len(times) > 1 and packet.duration:
                        # With B-frames, AVI's first frame is followed by an empty place for the encoder's delay.
                        times[0] = max(times[0], min(times[1:3]) - packet.duration)
                    frame.pts = heapq.heappop(times)
                is_first = False
                yield frame

    def _context(self) -> Any:
        """The stream's decoder; for transparent WebM one that knows transparency, which FFmpeg's own don't."""
        context = self._stream.codec_context
        name = _TRANSPARENT.get(context.name)
        if name is None or self._stream.metadata.get("alpha_mode") != "1":
            return context
        transparent = import_av().CodecContext.create(name, "r")
        transparent.thread_count = context.thread_count
        return transparent

    def _note_if_wanted(self, hardware: VideoHardware, line: str) -> None:
        if hardware.is_wanted:
            self.notes.append(f"{self._spec}: {line}")
