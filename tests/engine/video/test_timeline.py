"""Joined recordings get one clock: made-up sequences of packets, no files."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction
from types import SimpleNamespace

from engine.video.timeline import Timeline

UNIT = Fraction(1, 90000)
PICTURE, SOUND = 0, 1
STEPS = {PICTURE: 3600, SOUND: 1920}


@dataclasses.dataclass
class Packet:
    """What a timeline needs of a packet."""

    stream_index: int
    dts: int | None
    pts: int | None = None
    duration: int = 0
    is_keyframe: bool = False
    size: int = 100
    pos: int | None = None
    time_base: Fraction = UNIT

    @property
    def stream(self) -> SimpleNamespace:
        return SimpleNamespace(type={SOUND: "audio"}.get(self.stream_index, "video"))


def part(seconds: float, *, start: float = 0.0, sound: float | None = None) -> list[Packet]:
    """A recording of picture and sound in the order of time."""
    packets = []
    for index, length in ((PICTURE, seconds), (SOUND, seconds if sound is None else sound)):
        step = STEPS[index]
        for number in range(round(length * 90000 / step)):
            stamp = round(start * 90000) + number * step
            packets.append(Packet(index, stamp, stamp, step, is_keyframe=number % 25 == 0))
    return sorted(packets, key=lambda packet: packet.dts or 0)


def delayed(packets: list[Packet]) -> list[Packet]:
    """As MPEG-TS gives them: each packet comes when the next one of its stream begins."""
    waiting: dict[int, Packet] = {}
    out = []
    for packet in packets:
        if packet.stream_index in waiting:
            out.append(waiting[packet.stream_index])
        waiting[packet.stream_index] = packet
    return out + list(waiting.values())


def mapped(packets: list[Packet], *, can_leap: bool = True) -> tuple[dict[int, list[int]], Timeline]:
    """Each track's decoding times on the timeline."""
    timeline = Timeline(Fraction(0), picture=PICTURE, can_leap=can_leap)
    copies = [dataclasses.replace(packet) for packet in packets]
    ready = [out for packet in copies for out in timeline.push(packet)] + timeline.flush()
    assert sorted(map(id, ready)) == sorted(map(id, copies))
    tracks: dict[int, list[int]] = {}
    for packet in ready:
        tracks.setdefault(packet.stream_index, []).append(packet.dts)
    return tracks, timeline


def steps(stamps: list[int]) -> set[int]:
    return {later - earlier for earlier, later in itertools.pairwise(stamps)}


def assert_runs_on(packets: list[Packet], joins: int, *, can_leap: bool = True) -> None:
    tracks, timeline = mapped(packets, can_leap=can_leap)
    assert timeline.joins == joins
    assert steps(tracks[PICTURE]) == {3600}
    if SOUND in tracks:
        assert max(abs(step - 1920) for step in steps(tracks[SOUND])) < 1920


def test_one_recording_is_untouched() -> None:
    packets = part(5)
    tracks, timeline = mapped(packets)
    assert timeline.joins == 0
    assert tracks[PICTURE] == [packet.dts for packet in packets if packet.stream_index == PICTURE]


def test_restarts_of_any_length() -> None:
    for seconds, count in ((1.0, 60), (5.0, 4), (15.0, 3)):
        assert_runs_on(part(seconds) * count, count - 1)
        assert_runs_on(delayed(part(seconds) * count), count - 1)
        assert_runs_on(part(seconds) * count, count - 1, can_leap=False)


def test_a_restart_ahead_is_a_join_in_broadcasts_only() -> None:
    packets = part(5) + part(5, start=1000)
    assert_runs_on(packets, 1)
    tracks, timeline = mapped(packets, can_leap=False)
    assert timeline.joins == 0
    assert tracks[PICTURE][-1] > 1000 * 90000


def test_back_and_ahead() -> None:
    assert_runs_on(delayed(part(5, start=500) + part(5) + part(5, start=2000) + part(5, start=2)), 3)


def test_all_tracks_share_one_shift() -> None:
    tracks, _ = mapped(delayed(part(5) + part(5)))
    picture, sound = tracks[PICTURE], tracks[SOUND]
    second = [stamp for stamp in sound if stamp >= picture[125]]
    assert picture[125] == 125 * 3600
    assert second[0] == picture[125]


def test_sound_that_reaches_beyond_its_picture_does_not_delay_the_next() -> None:
    tracks, timeline = mapped(part(5, sound=5.4) + part(5, sound=5.4))
    assert steps(tracks[PICTURE]) == {3600}
    assert len(timeline.crossed) == 2


def test_long_sound_is_not_lost_under_the_next_part() -> None:
    tracks, _ = mapped(part(5, sound=9) + part(5, sound=9))
    assert tracks[PICTURE][125] >= 9 * 90000 - 1920
    assert min(steps(tracks[SOUND])) > 0


def test_a_picture_that_stays_is_no_join() -> None:
    sound = [packet for packet in part(60) if packet.stream_index == SOUND]
    stills = [Packet(PICTURE, 90000 * 12 * number, 90000 * 12 * number, 3600) for number in range(5)]
    packets = sorted(sound + stills, key=lambda packet: packet.dts or 0)
    tracks, timeline = mapped(packets)
    assert timeline.joins == 0
    assert tracks[PICTURE] == [packet.dts for packet in stills]
    assert mapped(stills)[1].joins == 0


def test_presentation_times_tell_nothing() -> None:
    """Of B-frames around a picture that stays."""
    packets = [Packet(PICTURE, 3600 * n, 3600 * n + (90000 * 12 if n % 3 else 0), 90000 * 12) for n in range(50)]
    assert mapped(packets)[1].joins == 0


def test_one_wrong_time_is_no_join() -> None:
    for wrong in (-400_000, 9_000_000):
        packets = part(10)
        packets[200].dts = packets[200].pts = (packets[200].dts or 0) + wrong
        tracks, timeline = mapped(packets)
        assert timeline.joins == 0
        assert max(steps(tracks[PICTURE])) <= 7200
        assert max(steps(tracks[SOUND])) <= 3840


def test_sound_alone_that_falls_back_moves_nothing_else() -> None:
    packets = part(10)
    for packet in packets[len(packets) // 2 :]:
        if packet.stream_index == SOUND:
            packet.dts = packet.pts = (packet.dts or 0) - 90000
    tracks, timeline = mapped(packets)
    assert timeline.joins == 0
    assert steps(tracks[PICTURE]) == {3600}


def test_a_splice_that_overlaps_by_two_frames() -> None:
    tracks, timeline = mapped(part(5) + part(5, start=4.92))
    assert timeline.joins == 1
    assert steps(tracks[PICTURE]) == {3600}


def test_packets_without_times_pass() -> None:
    timeline = Timeline(Fraction(0), picture=PICTURE, can_leap=True)
    packet = Packet(PICTURE, None)
    assert timeline.push(packet) == [packet]
    assert packet.dts is None


def test_the_offset_is_subtracted_from_all() -> None:
    timeline = Timeline(Fraction(10), picture=PICTURE, can_leap=True)
    (packet,) = timeline.push(Packet(PICTURE, 900_000, 903_600))
    assert (packet.dts, packet.pts) == (0, 3600)
