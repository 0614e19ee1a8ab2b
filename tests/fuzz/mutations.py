"""Damages bytes and packets, by a seed: the same seed does the same damage."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Callable
from pathlib import Path

import av
from av.stream import Disposition

BOXES = (
    b"moov",
    b"trak",
    b"mdia",
    b"stbl",
    b"stts",
    b"ctts",
    b"stsc",
    b"stsz",
    b"stco",
    b"elst",
    b"mdat",
    b"avcC",
    b"esds",
)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four kinds of damage, one after the other."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if damaged:
            rng.choice(MUTATIONS)(damaged, rng)
    return bytes(damaged)


def mutate_packets(path: Path, output: Path, rng: random.Random) -> None:
    """Copies a file whose packets are whole in the container but damaged themselves: payloads, times, order."""
    share = rng.choice((0.02, 0.1, 0.5))
    refusal = contextlib.suppress(av.error.FFmpegError)  # by the muxer, at its end
    with av.open(str(path)) as source, refusal, av.open(str(output), "w") as target:
        copies = {
            stream.index: target.add_stream_from_template(stream, opaque=True)
            for stream in source.streams
            if stream.type in ("video", "audio") and not stream.disposition & Disposition.attached_pic
        }
        packets = [packet for packet in source.demux() if packet.size and packet.stream.index in copies]
        if rng.random() < 0.2:
            first, second = rng.randrange(len(packets)), rng.randrange(len(packets))
            packets[first], packets[second] = packets[second], packets[first]
        for packet in packets:
            copy = packet
            if rng.random() < share:
                payload = mutate(bytes(packet), rng) if rng.random() < 0.7 else bytes(packet)
                copy = av.Packet(payload)
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.duration, copy.is_keyframe = packet.duration, packet.is_keyframe
                if rng.random() < 0.3 and packet.pts is not None:
                    copy.pts = packet.pts + rng.choice((-1, 1)) * rng.choice((1, 1000, 1 << 20, 1 << 32))
            copy.stream = copies[packet.stream.index]
            try:
                target.mux_one(copy)
            except (av.error.FFmpegError, OverflowError):  # this muxer refuses it: one packet less
                continue


def _flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 4, 32))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random) -> None:
    start, count = _block(data, rng)
    fill = rng.choice((b"\0", b"\xff", None))
    data[start : start + count] = fill * count if fill else rng.randbytes(count)


def _flip_head(data: bytearray, rng: random.Random) -> None:
    """The beginning holds what says how to read the rest."""
    for _ in range(rng.choice((1, 2, 8))):
        data[rng.randrange(min(len(data), 600))] = rng.randrange(256)


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _remove(data: bytearray, rng: random.Random) -> None:
    start, count = _block(data, rng)
    del data[start : start + count]


def _repeat(data: bytearray, rng: random.Random) -> None:
    start, count = _block(data, rng)
    data[start:start] = data[start : start + count]


def _swap(data: bytearray, rng: random.Random) -> None:
    count = max(1, min(_block(data, rng)[1], len(data) // 2))
    first, second = rng.randrange(len(data) - count + 1), rng.randrange(len(data) - count + 1)
    one, other = data[first : first + count], data[second : second + count]
    data[first : first + count], data[second : second + count] = other, one


def _edit_number(data: bytearray, rng: random.Random) -> None:
    """A number of four bytes becomes one that lies at a limit."""
    if len(data) >= 4:
        order, value = rng.choice("<>"), rng.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, rng.getrandbits(32)))
        struct.pack_into(f"{order}I", data, rng.randrange(len(data) - 3), value)


def _edit_box(data: bytearray, rng: random.Random) -> None:
    """The size in front of a box of MP4, or one of the numbers behind its name."""
    found = [place for place in (data.find(box) for box in BOXES) if place >= 4]
    if not found:
        return _edit_number(data, rng)
    place = rng.choice(found)
    at = min(place + rng.choice((-4, -4, 8, 12, 16, 20)), len(data) - 4)
    value = rng.choice((0, 1, 8, 0xFFFFFFFF, int.from_bytes(data[at : at + 4], "big") + rng.choice((-1, 1, 8, 1000))))
    struct.pack_into(">I", data, at, value % (1 << 32))
    return None


def _block(data: bytearray, rng: random.Random) -> tuple[int, int]:
    """A place, and a length that is short more often than long."""
    start = rng.randrange(len(data))
    return start, min(len(data) - start, int(2 ** rng.uniform(0, 13)))


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip_bits, _overwrite, _flip_head, _truncate, _remove, _repeat, _swap, _edit_number, _edit_box),
)
