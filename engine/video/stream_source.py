"""Live network streams: one connection after the other, on one timeline and in one picture size."""

from __future__ import annotations

import collections
import dataclasses
import io
import time
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

from engine.device import host_image
from engine.errors import SourceError
from engine.video.base import Frame
from engine.video.file_source import FileSource
from engine.video.live_source import Connection, LiveSource, fitted
from engine.video.packet_spool import move, time_of
from engine.video.pyav import import_av

if TYPE_CHECKING:
    from engine.video.demuxer import Demuxer


def live_stream(source: FileSource, open_again: Callable[[], FileSource], patience_seconds: float) -> LiveSource:
    """A live stream, of which the pictures that the pipeline has no time for are dropped. Its sound is kept.

    Args:
        source: it, opened.
        open_again: opens it once more, when it has gone away.
        patience_seconds: how long to try that; 0: its end is the end.
    """
    stream = _Stream(source, open_again)
    live = LiveSource(
        source.info,
        stream.connection(source),
        reopen=stream.connect,
        patience_seconds=patience_seconds,
        media=dataclasses.replace(source.media, demuxer=cast("Demuxer", stream.tracks)),
        is_endless=False,
    )
    stream.notes = live.notes
    return live


class _Stream:
    """Opens connections and puts their frames on the timeline of the first one.

    The time that the stream was away is kept: a frame is as much later as it came later.
    """

    def __init__(self, source: FileSource, open_again: Callable[[], FileSource]) -> None:
        assert source.media.demuxer is not None
        self.tracks = Tracks(source.media.demuxer)
        self.notes: list[str] = []
        self._info = source.info
        self._unit = source.info.time_base or Fraction(1, 90000)
        self._open_again = open_again
        self._source: FileSource | None = None  # of the connection that there is
        self._end = Fraction(0)  # of the last frame, in seconds
        self._arrived = time.monotonic()

    def connect(self) -> Connection:
        """The next connection. Raises SourceError where there is none."""
        if self._source is not None:
            self._source.close()
            self._source = None
            self.tracks.let_go()
        source = self._open_again()
        demuxer = source.media.demuxer
        if not source.info.live or demuxer is None:
            source.close()
            raise SourceError("it is not live any more")
        if self.tracks.is_kept:
            demuxer.keep_others()
        return self.connection(source, is_first=False)

    def connection(self, source: FileSource, *, is_first: bool = True) -> Connection:
        """A connection that is open."""
        self._source = source
        frames = iter(source)
        unit = source.info.time_base or self._unit
        shift = Fraction(0) if is_first else None

        def read() -> Frame | None:
            nonlocal shift
            frame = next(frames, None)
            if frame is None:
                return None
            now, pts = time.monotonic(), (frame.pts or 0) * unit
            if shift is None:
                shift = self._end + Fraction(now - self._arrived).limit_denominator(1000) - pts
                self.notes += self.tracks.go_on(cast("Demuxer", source.media.demuxer), shift)
            begin, duration = pts + shift, frame.duration * unit
            self._end, self._arrived = begin + duration, now
            return dataclasses.replace(
                frame,
                image=fitted(host_image(frame.image), self._info.width, self._info.height),
                pts=round(begin / self._unit),
                duration=round(duration / self._unit),
            )

        def release() -> None:
            source.close()
            if self._source is not source and source.media.demuxer is not None:  # else the output still reads its sound
                source.media.demuxer.close()

        return Connection(read, release)


class Tracks:
    """Takes the place of a `Demuxer` for those who want its other tracks: they go on in the connections that follow.

    Tracks of a later connection take the place of those of the first one that are of the same kind.
    """

    def __init__(self, first: Demuxer) -> None:
        self.is_kept = False
        self._first = first
        self._kinds = [(_kind(stream), stream.index) for stream in first.streams]
        self._names = _numbered_streams(len(first.streams))
        self._waiting: collections.deque[Any] = collections.deque()  # packets of connections that are gone
        self._demuxer: Demuxer | None = first  # of the connection that there is
        self._shift = Fraction(0)  # what its times are moved by
        self._places = {stream.index: stream.index for stream in first.streams}  # its streams -> those of the first one

    def __getattr__(self, name: str) -> Any:
        return getattr(self._first, name)

    def let_go(self) -> None:
        """Closes the connection that there is; its packets are kept."""
        if self._demuxer is not None:
            self._waiting.extend(self._moved(self._demuxer.others(None)))
            self._demuxer.close()
            self._demuxer = None

    def go_on(self, demuxer: Demuxer, shift: Fraction) -> list[str]:
        """Goes on with another connection, whose times are moved; returns a note if its sound is of another kind."""
        left = list(self._kinds)
        self._places = {}
        for stream in demuxer.streams:
            place = next((index for kind, index in left if kind == _kind(stream)), None)
            if place is not None:
                left.remove((_kind(stream), place))
                self._places[stream.index] = place
        self._demuxer, self._shift = demuxer, shift
        is_missing = any(kind[0] == "audio" for kind, _ in left)
        return ["its sound changed when it came back, and is left out from there"] if is_missing else []

    def others(self, until_seconds: Fraction | None, *, is_last: bool = False) -> Iterator[Any]:
        """As `Demuxer.others`."""
        while self._waiting and (until_seconds is None or time_of(self._waiting[0]) <= until_seconds):
            yield self._waiting.popleft()
        if self._demuxer is not None and not self._waiting:
            until = None if until_seconds is None else until_seconds - self._shift
            yield from self._moved(self._demuxer.others(until, is_last=is_last))

    def keep_others(self) -> None:
        """As `Demuxer.keep_others`, for connections to come as well."""
        self.is_kept = True
        self._first.keep_others()

    def close(self) -> None:
        """Closes the connection that there is."""
        self._waiting.clear()
        if self._demuxer is not None:
            self._demuxer.close()

    def _moved(self, packets: Iterable[Any]) -> Iterator[Any]:
        for packet in packets:
            place = self._places.get(packet.stream_index)
            if place is None:
                continue
            unit = packet.time_base
            packet.stream = self._names[place]
            packet.time_base = unit
            move(packet, self._shift)
            yield packet


def _numbered_streams(count: int) -> list[Any]:
    """Streams with the numbers from 0 on, which packets can be said to be of: those of a source go away with it."""
    container = import_av().open(io.BytesIO(), "w", format="matroska")
    return [container.add_stream("rawvideo", rate=25) for _ in range(count)]


def _kind(stream: Any) -> Any:
    context = stream.codec_context
    if context is None or context.codec is None:
        return stream.type, None
    sound = (context.sample_rate, context.layout.name) if stream.type == "audio" else ()
    return stream.type, context.codec.canonical_name, *sound
