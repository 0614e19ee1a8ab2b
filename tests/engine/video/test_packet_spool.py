"""Packets wait in order, in memory or on the disk, and come back as they were."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from engine.video.packet_spool import PacketSpool
from engine.video.pyav import open_input
from tests.media import Audio, make_video


@pytest.mark.parametrize("memory_bytes", [64 << 20, 5000, 0])
def test_order_and_contents(tmp_path: Path, memory_bytes: int) -> None:
    path = make_video(tmp_path / "in.mp4", audio=(Audio(seconds=3.0),))
    spool = PacketSpool(memory_bytes)
    expected = []
    with open_input(str(path)) as source:
        for packet in source.demux():
            if packet.size:
                expected.append((packet.stream_index, packet.pts, packet.dts, packet.duration, bytes(packet)))
                spool.put(packet)
        taken = []
        while (packet := spool.take(None)) is not None:
            taken.append((packet.stream_index, packet.pts, packet.dts, packet.duration, bytes(packet)))
        assert taken == expected
        assert packet is None
    spool.close()


def test_side_data_comes_back_from_the_disk(tmp_path: Path) -> None:
    path = make_video(tmp_path / "in.mkv", audio=(Audio(codec="libopus", seconds=1.01),))
    spool = PacketSpool(0)
    with open_input(str(path)) as source:
        packets = [packet for packet in source.demux(audio=0) if packet.size]
        before = [[bytes(data) for data in packet.iter_sidedata()] for packet in packets]
        assert any(before)
        for packet in packets:
            spool.put(packet)
        after = []
        while (packet := spool.take(None)) is not None:
            after.append([bytes(data) for data in packet.iter_sidedata()])
    assert after == before


def test_take_stops_at_a_time(tmp_path: Path) -> None:
    path = make_video(tmp_path / "in.mp4", audio=(Audio(seconds=2.0),))
    spool = PacketSpool()
    with open_input(str(path)) as source:
        for packet in source.demux(audio=0):
            if packet.size:
                spool.put(packet)
        taken = []
        while (packet := spool.take(Fraction(1))) is not None:
            taken.append(packet.dts * packet.time_base)
        assert 0.9 < max(taken) <= 1
        assert spool.take(None) is not None


def test_room_is_made_for_the_next_recording(tmp_path: Path) -> None:
    path = make_video(tmp_path / "in.mp4", audio=(Audio(seconds=1.0),))
    spool = PacketSpool()
    with open_input(str(path)) as source:
        for packet in source.demux(audio=0):
            if packet.size:
                spool.put(packet)
        spool.make_room(1, 24_000)
        stamps = []
        while (packet := spool.take(None)) is not None:
            stamps.append(packet.dts)
    assert stamps == sorted(set(stamps))
    assert stamps[-1] < 24_000
