"""Sources and sinks: video files and URLs, webcams, images, the preview window.

`open_source` and `open_sink` choose the class from what the user wrote. Importing this package needs no PyAV; opening
a video file does.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.errors import SinkError, SourceError
from engine.parts import Parts
from engine.video.base import DEFAULT_FRAME_RATE, Frame, Sink, Source, SourceInfo, StopStream
from engine.video.containers import CONTAINERS
from engine.video.cut import TimeRange
from engine.video.file_sink import FileSink
from engine.video.file_source import FileSource
from engine.video.images import WRITTEN_SUFFIXES, ImageFolderSink, ImageSink, ImageSource
from engine.video.live_source import LiveSource, open_camera
from engine.video.locations import expand, is_camera, is_image, media_files, output_stem
from engine.video.nvidia.codecs import choose_hardware
from engine.video.nvidia.trials import VideoHardware
from engine.video.pyav import is_url
from engine.video.stream_sink import StreamSink, protocol_of
from engine.video.stream_source import live_stream
from engine.video.tracks import container_for
from engine.video.virtual_camera import VirtualCameraSink
from engine.video.window import Controls, NullSink, TeeSink, WindowSink

__all__ = [
    "SUFFIXES",
    "FileSink",
    "FileSource",
    "Frame",
    "ImageFolderSink",
    "ImageSink",
    "ImageSource",
    "LiveSource",
    "NullSink",
    "Sink",
    "Source",
    "SourceInfo",
    "StopStream",
    "StreamSink",
    "TeeSink",
    "TimeRange",
    "VideoHardware",
    "WindowSink",
    "choose_hardware",
    "default_output",
    "expand",
    "hardware_used",
    "open_sink",
    "open_source",
    "protocol_of",
]


SUFFIXES = frozenset([*CONTAINERS, *WRITTEN_SUFFIXES])
"""Of the files that can be written."""


def open_source(
    spec: str,
    *,
    live_size: tuple[int, int] | None = None,
    threads: int = 0,
    hardware: VideoHardware | None = None,
    deinterlace: bool = True,
    background: tuple[int, int, int] = (0, 0, 0),
    time_range: TimeRange | None = None,
    reconnect_seconds: float = 0.0,
) -> Source:
    """Opens whatever the user named.

    Args:
        spec: a video file; an image; a folder or glob of images (a folder of videos is several jobs, see `expand`); a
            webcam's index or device; a URL that FFmpeg opens.
        live_size: width and height to ask a webcam for.
        threads: decoder threads; 0 lets FFmpeg choose.
        hardware: to decode video files on; None is software.
        deinterlace: makes whole pictures of video frames that are interlaced.
        background: what is behind transparent pixels of a video, as bytes of blue, green and red.
        time_range: what is wanted of a video; None is all.
        reconnect_seconds: how long to try to open a webcam or live stream again that has gone away.

    Raises:
        SourceError: there is nothing, or nothing with a picture; or the range has no frames, or can't be had.
    """
    open_file = functools.partial(
        FileSource,
        threads=threads,
        hardware=hardware,
        time_range=time_range,
        deinterlace=deinterlace,
        background=background,
    )
    if time_range and (is_camera(spec) or _has_images(spec)):
        raise SourceError(f"{spec}: {time_range.option} takes a time of a video, and this is none")
    if is_camera(spec):
        return open_camera(spec, size=live_size, patience_seconds=reconnect_seconds)
    if is_url(spec):
        source = open_file(spec)
        again = functools.partial(open_file, spec)
        return live_stream(source, again, reconnect_seconds) if source.info.live else source
    files = media_files(spec)
    if files is not None:
        images = [file for file in files if is_image(file)]
        if images:
            return ImageSource(spec, images)
        if len(files) > 1:
            raise SourceError(f"{spec}: {len(files)} videos; give them one by one")
        spec = str(files[0])
    path = Path(spec)
    if is_image(path) and path.is_file():
        return ImageSource(spec, [path])
    return open_file(spec)


def _has_images(spec: str) -> bool:
    files = media_files(spec)
    if files is None:
        return not is_url(spec) and is_image(Path(spec)) and Path(spec).is_file()
    return any(map(is_image, files))


def default_output(spec: str, style: str, source: Source | None = None) -> Path:
    """The output's name where the user gives none: beside the source, `clip.mp4` becomes `clip_STYLE.mp4`.

    A video becomes MP4 if that holds all its tracks, else Matroska (.mov stays .mov if need be); an image keeps its
    format; images become a folder; webcams and URLs are named in the current folder.

    Args:
        spec: what the user named.
        style: the style's name.
        source: what `open_source` made of it; without it nothing is known of its tracks.
    """
    stem = output_stem(spec)
    name = stem.with_name(f"{stem.name}_{style}")
    if is_camera(spec):
        return name.with_name(f"{name.name}.mp4")
    files = media_files(spec)
    if files is not None and any(is_image(file) for file in files):
        return name
    if files is None and is_image(Path(spec)):
        suffix = Path(spec).suffix
        return name.with_name(name.name + (suffix if suffix.lower() in WRITTEN_SUFFIXES else ".png"))
    demuxer = source.media.demuxer if isinstance(source, FileSource) else None
    return name.with_name(name.name + container_for(demuxer, spec if files is None else str(files[0])))


def open_sink(
    spec: str | None,
    source: Source,
    *,
    crf: int | None = None,
    codec: str | None = None,
    audio: str = "convert",
    overwrite: bool = False,
    show: bool = False,
    controls: Controls | None = None,
    stays: Callable[[], bool] | None = None,
    virtual_camera: bool = False,
    threads: int = 0,
    hardware: VideoHardware | None = None,
    parts: Callable[[Path], Parts] | None = None,
    reconnect_seconds: float = 0.0,
) -> Sink:
    """Opens an output for a source's frames. The picture's size is taken from the first frame written.

    Args:
        spec: a video file, an image file, a folder (for images: names kept), a pattern such as out/%06d.png, or a live
            output (`engine.video.stream_sink.PROTOCOLS`); None keeps nothing.
        source: what the frames come from: sound, subtitles and metadata of a video file are copied from it.
        crf: quality of the video encoder, smaller is better; None takes the codec's default here (18 for H.264).
        codec: FFmpeg's name of a video encoder; None takes the container's usual one.
        audio: sound is copied where the container holds it; else "convert" encodes it again and "copy" is an error.
            "none" leaves all sound out.
        overwrite: replace files that exist.
        show: show the frames in a window as well.
        controls: what the keys of that window change.
        stays: whether that window still shows its last frame; it does until a key is pressed. None closes it at once.
        virtual_camera: send the frames to a virtual camera as well.
        threads: encoder threads; 0 lets the encoder choose.
        hardware: to encode H.264 on where no codec is named; None is software.
        parts: makes the parts of a video file that is long to make; None keeps nothing until it is complete.
        reconnect_seconds: how long to try to connect again to a live output that has gone away.

    Raises:
        SinkError: the output exists, is the input, can't be written, or names an unknown format or codec.
    """
    sink: Sink | None = None
    if spec:
        settings: dict[str, Any] = {
            "crf": crf,
            "codec": codec,
            "audio": audio,
            "threads": threads,
            "hardware": hardware,
        }
        if protocol_of(spec) is not None:
            media = source.media if isinstance(source, FileSource | LiveSource) else None
            sink = StreamSink(spec, info=source.info, media=media, patience_seconds=reconnect_seconds, **settings)
        else:
            sink = _file_sink(spec, source, overwrite=overwrite, parts=parts, settings=settings)
    if virtual_camera:
        is_paced = sink is None and not source.info.live
        camera = VirtualCameraSink(source.info.frame_rate or DEFAULT_FRAME_RATE, is_paced=is_paced)
        sink = TeeSink(sink, camera) if sink else camera
    if not show:
        return sink or NullSink()
    # If a file is written as well, the window is a preview and must not hold the file back.
    time_base = None if sink or source.info.live else source.info.time_base
    info = dataclasses.replace(source.info, frame_rate=source.info.frame_rate or DEFAULT_FRAME_RATE)
    record = functools.partial(FileSink, info=info, crf=crf)
    window = WindowSink(source.info.name, time_base=time_base, controls=controls, record=record, stays=stays)
    return TeeSink(sink, window) if sink else window


def hardware_used(source: Source, sink: Sink) -> list[str]:
    """Names of the hardware that has decoded and encoded, empty where it was software."""
    return [part.hardware for part in (source, sink) if part.hardware]


def _file_sink(
    spec: str, source: Source, *, overwrite: bool, parts: Callable[[Path], Parts] | None, settings: dict[str, Any]
) -> Sink:
    """`settings`: those of a video file, see `FileSink`."""
    path = Path(spec)
    _refuse_input(path, source)
    suffix = path.suffix.lower()
    if "%" in path.name and suffix in WRITTEN_SUFFIXES:
        return ImageFolderSink(path.parent, pattern=path.name, overwrite=overwrite)
    many_images = isinstance(source, ImageSource) and (source.info.frame_count or 0) > 1
    if path.is_dir() or spec.endswith(("/", os.sep)) or (many_images and not suffix):
        return ImageFolderSink(path, overwrite=overwrite)
    if suffix not in WRITTEN_SUFFIXES and suffix not in CONTAINERS:
        what = f"{suffix} files are not written" if suffix else "the name has no suffix to tell its format by"
        raise SinkError(
            f"{spec}: {what}; videos: {' '.join(CONTAINERS)}, images {' '.join(WRITTEN_SUFFIXES)}, a folder ends in /"
        )
    if suffix in WRITTEN_SUFFIXES:
        if source.info.frame_count != 1:
            raise SinkError(f"{spec}: one image can't hold a video; name a video file, or a pattern such as %06d.png")
        return ImageSink(path, overwrite=overwrite)
    media = source.media if isinstance(source, FileSource | LiveSource) else None
    sink = FileSink(path, info=source.info, media=media, overwrite=overwrite, **settings)
    if parts is not None and suffix != ".gif":  # whose frames are differences of the ones before
        sink.keep(parts(path))
    return sink


def _refuse_input(path: Path, source: Source) -> None:
    """Raises SinkError where the output is the input itself, by whatever name or link."""
    inputs: list[Path] = []
    if isinstance(source, FileSource) and not is_url(source.info.name):
        inputs = [Path(source.info.name)]
    elif isinstance(source, ImageSource):
        inputs = [*source.paths, *{image.parent for image in source.paths}]
    if path.exists() and any(file.exists() and path.samefile(file) for file in inputs):
        raise SinkError(f"{path}: is the input itself; name another output, the source is never overwritten")
