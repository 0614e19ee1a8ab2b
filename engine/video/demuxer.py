"""The one reader of a source: packets of all its streams in file order, on one timeline."""

from __future__ import annotations

import collections
import errno
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from engine.errors import SourceError
from engine.video.cut import Cut
from engine.video.late import LateTracks
from engine.video.packet_spool import SOUND_PACKETS_KEPT, PacketSpool, keep_first, time_of
from engine.video.pyav import has_flag, import_av, is_live_protocol, is_url, lacks_parameters, open_followed, open_pipe
from engine.video.timeline import Timeline

if TYPE_CHECKING:
    from av.packet import Packet

# Reading the same damaged spot again and again must end: so many failed reads in a row are the end of the file.
MAX_FAILED_READS = 50

CONNECTION_ERRORS = (errno.EIO, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT)

# A file may end in an index, which is not read: in so many bytes, or such a share of it.
INDEX_BYTES, INDEX_SHARE = 64 << 10, 0.1

# How far into a file the first packets of its tracks are looked for, and in broadcasts, where tracks may begin late.
PACKETS_TRIED = 300
LOOK_AHEAD_BYTES = 64 << 20

# A stream that begins so much later than another may be far ahead in the file.
LATE_SECONDS = 0.5

# The other tracks lie at most this far behind the picture in a file that is well interleaved.
INTERLEAVED_SECONDS = 10


_COPY_COMMAND = "ffmpeg -probesize 9G -analyzeduration 9G -i IN -map 0 -c copy OUT.mkv"


class Demuxer:
    """Opens a source once and reads it once.

    The thread that decodes iterates over `pictures`. Packets of other tracks that it meets wait for the thread that
    writes, which takes them with `others`.

    Args:
        spec: path or URL; `-` is the standard input.
        hwaccel: PyAV's description of a hardware decoder for the streams.

    Attributes:
        container: the open source.
        cut: the range that is wanted of it, set before anything is read; None is all.
        streams: what is known of it; `late_tracks` has what appears later.
        offset_seconds: subtracted from every timestamp, all tracks alike.
        is_live: it arrives in real time and has no end of its own.
        damaged, damaged_others: reads that failed and picture packets that are incomplete; packets of other tracks.
        has_unknown: streams have appeared that PyAV hides, because it had not seen them at the opening.
        lacks_presentation_times: packets have decoding times only, as in AVI.
        first_packets: the first packets of each stream so far, by the stream's index: up to 16 of sound, else one.

    Raises:
        SourceError: it can't be opened.
    """

    def __init__(self, spec: str, *, hwaccel: Any = None) -> None:
        self.damaged = self.damaged_others = 0
        self.cut: Cut | None = None
        self.first_packets: dict[int, list[Packet]] = {}
        self._spec = spec
        self._position = 0  # the furthest place read in the source
        self._picture: Any = None
        self._timeline: Timeline | None = None
        self._pipe = open_pipe(spec)
        self.container: Any
        self.container, self._transport = open_followed(spec, pipe=self._pipe, hwaccel=hwaccel)
        self.is_live = is_live_protocol(self.container, spec)
        self._is_broadcast = has_flag(self.container, "ts_discont")
        self.streams: list[Any] = list(self.container.streams)
        if self._transport is not None:
            self.streams = [stream for stream in self.streams if not lacks_parameters(stream)]
            self._transport.follow({stream.id for stream in self.streams})
        self.lacks_presentation_times = self.container.format.name == "avi"
        if self.lacks_presentation_times:  # and those that FFmpeg makes up for B-frames are wrong
            self.container.flags &= ~int(import_av().container.Flags.gen_pts.value)
        self._ahead: collections.deque[Any] = collections.deque()
        self.has_unknown = self.is_of_unknown_length = False
        self._is_interrupted = threading.Event()
        self._read_packets = self._read()
        if not self.is_live:
            self._look_ahead()
        self.offset_seconds = self._offset()
        self._mapped: Iterator[Any] = iter(())
        self._spool: PacketSpool | None = PacketSpool()
        self._is_kept = self._reads_others_only = False
        self._corrupt: collections.deque[bool] = collections.deque(maxlen=2)  # of the latest picture packets
        self._last_seen: dict[int, Fraction] = {}
        self._reading = threading.Lock()

    @property
    def joins(self) -> int:
        """How often the source's clock has restarted so far."""
        return self._timeline.joins if self._timeline is not None else 0

    @property
    def can_be_opened_twice(self) -> bool:
        return self._pipe is None and not self.is_live

    @property
    def can_seek(self) -> bool:
        """Whether `seek` leads to a key frame for sure: the container lists them, and has one clock."""
        return self.can_be_opened_twice and self.container.format.name.startswith(("mov", "matroska"))

    @property
    def has_track_places(self) -> bool:
        """Whether `seek` leads each track to its own place; otherwise they begin behind the key frame in the file."""
        return bool(self.container.format.name.startswith("mov"))

    def starts(self) -> list[Fraction]:
        """Where each track starts, in seconds of the source's clock."""
        return [
            Fraction(stream.start_time) * stream.time_base
            for stream in self.streams
            if stream.start_time is not None and stream.time_base is not None
        ]

    def choose(self, picture: Any) -> None:
        """Says which stream is the picture, before anything is read."""
        self._picture = picture
        self._timeline = Timeline(self.offset_seconds, picture=picture.index, can_leap=self._is_broadcast)
        self._mapped = self._map()

    def seek(self, seconds: Fraction) -> bool:
        """Goes to a key frame of the picture that is decoded at a time or before it; False: that can't be done."""
        av = import_av()
        place = round((seconds + self.offset_seconds) / self._picture.time_base)
        try:
            self.container.seek(place, stream=self._picture)
        except (av.error.FFmpegError, OSError):
            return False
        self._ahead.clear()
        self._last_seen.clear()
        self._read_packets = self._read()
        if self._spool is not None:
            self._spool.close()
            self._spool = PacketSpool()
        self.choose(self._picture)
        return True

    def keep_others(self) -> None:
        """Says that somebody will take the other tracks' packets and close the source."""
        self._is_kept = True

    def leave_pictures(self) -> None:
        """Says that the picture is read elsewhere: `others` then reads the source itself."""
        self._reads_others_only = True

    def pictures(self) -> Iterator[Packet]:
        """The picture's packets to the end of the source, then an empty one, which flushes its decoder."""
        while (packet := self._next()) is not None:
            if packet.stream_index == self._picture.index:
                yield packet
        flush = import_av().Packet()
        flush.stream, flush.time_base = self._picture, self._picture.time_base
        yield flush
        self._check_lost()

    def _check_lost(self) -> None:
        """Raises SourceError where something of the source is in no output."""
        if self._transport is not None and self._picture.id in self._transport.lost:
            raise SourceError(
                f"{self._spec}: the film goes on in a picture of another kind, which is left out; cut it there, and "
                "translate the parts one by one"
            )
        unknown = [stream for stream in self.streams if stream.type == "audio" and lacks_parameters(stream)]
        is_lost = self._is_kept and any(self.first_packets.get(stream.index) for stream in unknown)
        is_lost |= self.has_unknown and self._is_broadcast
        if is_lost and not self.is_live:
            raise SourceError(
                f"{self._spec}: streams begin in the middle of the file and are left out; copy it first: "
                f"{_COPY_COMMAND}"
            )

    def others(self, until_seconds: Fraction | None, *, is_last: bool = False) -> Iterator[Packet]:
        """Packets of the other tracks up to a time, all if it is None, as far as the source has been read.

        The times are those of the output.

        Args:
            is_last: no more pictures are wanted, so the source is read on until the time is reached everywhere.
        """
        until = until_seconds if self.cut is None else self.cut.in_source(until_seconds)
        while (packet := self._take(until, is_last or self._reads_others_only)) is not None:
            if self.cut is None or self.cut.place(packet):
                yield packet

    def late_tracks(self) -> LateTracks | None:
        """Tracks that have appeared in a transport stream since it was opened, once it has been read."""
        if self._transport is None or self._transport.late is None or self._timeline is None:
            return None
        return LateTracks(self._transport, self._timeline.shifts, self.cut)

    def drop_others(self) -> None:
        """Drops the other tracks' packets from here on, if nobody wants them."""
        if not self._is_kept and self._spool is not None:
            self._spool.close()
            self._spool = None

    def interrupt(self) -> None:
        """Ends a read that waits for a pipe, or goes on waiting for a network; from any thread."""
        self._is_interrupted.set()
        if self._pipe is not None:
            self._pipe.close()

    def release(self) -> None:
        """Closes the source unless somebody still takes its other tracks."""
        if not self._is_kept:
            self.close()

    def close(self) -> None:
        """Closes the source, unless a read that hangs holds it."""
        self.interrupt()
        if self._reading.acquire(timeout=1.0):
            try:
                self._mapped = self._read_packets = iter(())
                self._ahead.clear()
                self.container.close()
                if self._spool is not None:
                    self._spool.close()
            finally:
                self._reading.release()

    # --- reading ---

    def _next(self, timeout: float = -1) -> Any:
        """Reads the next packet, which also goes to those who wait for it; None at the end.

        Args:
            timeout: seconds to wait for another thread that reads; -1 is without end.
        """
        if not self._reading.acquire(timeout=timeout):
            return None
        try:
            packet = next(self._mapped, None)
            if packet is None:
                return None
            assert self._timeline is not None
            index = packet.stream_index
            is_behind_join = id(packet) in self._timeline.crossed
            self._timeline.crossed.discard(id(packet))
            if packet.dts is not None:
                self._last_seen[index] = time_of(packet)
            if index == self._picture.index:
                # FFmpeg takes the seam for damage, as the packets' counters don't go on there.
                self.damaged -= is_behind_join and any(self._corrupt)
                self._corrupt.append(packet.is_corrupt)
            elif self._spool is not None and (self.cut is None or self.cut.may_take(packet)):
                if is_behind_join and packet.dts is not None:
                    self._spool.make_room(index, packet.dts)
                self._spool.put(packet)
            return packet
        finally:
            self._reading.release()

    def _take(self, until_seconds: Fraction | None, may_read: bool) -> Any:
        if self._spool is None:
            return None
        while (packet := self._spool.take(until_seconds)) is None:
            if not may_read or self.is_live or self._is_behind(until_seconds) or self._next(timeout=1.0) is None:
                return None
        return packet

    def _is_behind(self, until_seconds: Fraction | None) -> bool:
        """Whether the tracks have been read to behind a time."""
        if until_seconds is None or not self._last_seen:
            return False
        latest = max(self._last_seen.values())
        active = [time for time in self._last_seen.values() if latest - time < INTERLEAVED_SECONDS]
        return min(active) > until_seconds

    def _map(self) -> Iterator[Any]:
        """All packets, on the timeline."""
        assert self._timeline is not None
        while (packet := self._ahead.popleft() if self._ahead else next(self._read_packets, None)) is not None:
            yield from self._timeline.push(packet)
        yield from self._timeline.flush()

    def _read(self) -> Iterator[Any]:
        """Reads packets to the end of the source, past damaged places, which it counts."""
        av = import_av()
        failed_in_a_row = 0
        while True:
            try:
                for packet in self.container.demux():
                    if packet.size == 0 and packet.dts is None and packet.pts is None:
                        continue  # one of those that flush decoders, at the end
                    failed_in_a_row = 0
                    self._note(packet)
                    yield packet
                if self._is_broadcast:  # which end anywhere, so FFmpeg takes a lost connection for the end
                    self._check_connection()
                return
            except (av.error.FFmpegError, OSError) as error:  # reading goes on behind the damage
                if self._is_interrupted.is_set():
                    return
                if is_url(self._spec) and getattr(error, "errno", None) in CONNECTION_ERRORS:
                    self._check_connection()
                    return
                self.damaged += 1
                failed_in_a_row += 1
                if failed_in_a_row >= MAX_FAILED_READS:
                    return
            except IndexError:  # PyAV at the end of a file in which streams have appeared
                self.has_unknown = self._transport is None or self._transport.late is None
                return

    def _check_connection(self) -> None:
        """A server that ends the connection early. Without a length it tells nobody where its file ends.

        Raises:
            SourceError: less has come than it has announced.
        """
        size = self.container.size if is_url(self._spec) and not self.is_live else 0
        unread = max(0 if self._is_broadcast else INDEX_BYTES, INDEX_SHARE * size)
        if 0 < self._position < size - unread:
            megabytes = f"{self._position / 1e6:.1f} of {size / 1e6:.1f} MB"
            raise SourceError(f"{self._spec}: the connection was lost after {megabytes}; what came before is kept")
        self.is_of_unknown_length = size <= 0 and is_url(self._spec) and not self.is_live

    def _note(self, packet: Any) -> None:
        self._position = max(self._position, (packet.pos or 0) + packet.size)
        if packet.is_corrupt:
            is_other = self._picture is not None and packet.stream_index != self._picture.index
            self.damaged_others += is_other
            self.damaged += not is_other
        keep_first(self.first_packets, packet)

    # --- opening ---

    def _offset(self) -> Fraction:
        """Broadcast formats (MPEG-TS, MPEG-PS) start their clock anywhere, hours in: they are moved to zero."""
        return min(self.starts(), default=Fraction(0)) if self._is_broadcast else Fraction(0)

    def _look_ahead(self) -> None:
        """Reads until every stream has begun and sound is known; where streams begin late, as far as memory allows."""
        wanted = {s.index for s in self.streams if s.type != "attachment"}
        has_late = self._is_broadcast and max(self.starts(), default=0) - min(self.starts(), default=0) > LATE_SECONDS
        size = 0
        while size < LOOK_AHEAD_BYTES and (has_late or len(self._ahead) < PACKETS_TRIED):
            if self.first_packets.keys() >= wanted and self._knows_sound():
                break
            packet = next(self._read_packets, None)
            if packet is None:
                break
            self._ahead.append(packet)
            size += packet.size

    def _knows_sound(self) -> bool:
        sounds = [stream.index for stream in self.streams if stream.type == "audio"]
        return all(len(self.first_packets.get(index, [])) >= SOUND_PACKETS_KEPT for index in sounds)
