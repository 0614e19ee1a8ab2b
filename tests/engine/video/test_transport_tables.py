"""Tables of transport streams: what is read of them, and what damaged ones do."""

from __future__ import annotations

import io
import random

import pytest

from engine.video.transport import NULL_PID, PACKET_BYTES, Transport

PMT_PID, PICTURE, SOUND = 0x1000, 0x100, 0x101
H264, AAC = 0x1B, 0x0F


def crc(data: bytes) -> bytes:
    """CRC-32/MPEG-2, bit by bit (ISO/IEC 13818-1, annex A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 1 << 31 else 0)) & 0xFFFFFFFF
    return value.to_bytes(4, "big")


def packet(pid: int, payload: bytes, *, begins: bool = True) -> bytes:
    header = bytes([0x47, (0x40 if begins else 0) | pid >> 8, pid & 0xFF, 0x10])
    return (header + payload).ljust(PACKET_BYTES, b"\xff")


def int16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def table(pid: int, kind: int, number: int, body: bytes) -> bytes:
    section = (
        bytes([kind]) + (0xB000 | 9 + len(body)).to_bytes(2, "big") + number.to_bytes(2, "big") + b"\xc1\0\0" + body
    )
    return packet(pid, b"\0" + section + crc(section))


def stream(kind: int, pid: int, descriptors: bytes = b"") -> bytes:
    return (
        bytes([kind]) + (0xE000 | pid).to_bytes(2, "big") + (0xF000 | len(descriptors)).to_bytes(2, "big") + descriptors
    )


def pmt(*streams: bytes) -> bytes:
    return table(PMT_PID, 2, 1, b"\xe1\x00\xf0\x00" + b"".join(streams))


PAT = table(0, 0, 1, b"\0\x01" + int16(0xE000 | PMT_PID))
FIRST = pmt(stream(H264, PICTURE), stream(AAC, SOUND, b"\x0a\x04deu\0"))
PAYLOAD = packet(PICTURE, b"\0\0\1\xe0") + packet(SOUND, b"\0\0\1\xc0")


def pids(data: bytes) -> list[int]:
    return [int.from_bytes(data[i + 1 : i + 3], "big") & NULL_PID for i in range(0, len(data), PACKET_BYTES)]


def sent_through(then: bytes) -> tuple[Transport, bytes]:
    """What PyAV sees of packets behind the beginning."""
    beginning = (PAT + FIRST + PAYLOAD) * 2
    transport = Transport(io.BytesIO(beginning + then), (0, PACKET_BYTES))
    assert transport.read(len(beginning)) == beginning
    transport.follow({PICTURE, SOUND})
    seen = b""
    while data := transport.read(1 << 16):
        seen += data
    return transport, seen


def test_a_stream_of_the_same_kind_follows_under_its_first_identifier() -> None:
    renamed = pmt(stream(H264, 0x200), stream(AAC, SOUND, b"\x0a\x04deu\0"))
    _, seen = sent_through(PAT + renamed + packet(0x200, b"\0\0\1\xe0") + packet(SOUND, b"\0\0\1\xc0"))
    assert pids(seen)[-2:] == [PICTURE, SOUND]


def test_another_stream_is_kept_apart() -> None:
    more = pmt(stream(H264, PICTURE), stream(AAC, SOUND, b"\x0a\x04deu\0"), stream(AAC, 0x300, b"\x0a\x04eng\0"))
    transport, seen = sent_through(PAT + more + packet(0x300, b"\0\0\1\xc1") + PAYLOAD)
    assert 0x300 not in pids(seen)
    assert transport.late is not None


@pytest.mark.parametrize("what", ["CRC", "length", "end"])
def test_a_damaged_table_changes_nothing(what: str) -> None:
    renamed = bytearray(pmt(stream(H264, 0x200), stream(AAC, 0x201)))
    if what == "CRC":
        renamed[20] ^= 1
    elif what == "length":
        renamed[6:8] = b"\xbf\xff"
    _, seen = sent_through(bytes(renamed[: 100 if what == "end" else None]) + PAYLOAD)
    assert pids(seen[-2 * PACKET_BYTES :]) == [PICTURE, SOUND]


def test_tables_that_lie_about_their_lengths() -> None:
    """Their CRC is right, whatever else they say."""
    chance = random.Random(1)
    for _ in range(2000):
        body = bytearray(b"\xe1\x00\xf0\x00" + stream(H264, PICTURE) + stream(AAC, 0x300, b"\x0a\x04deu\0") * 3)
        for _ in range(chance.randrange(1, 6)):
            body[chance.randrange(len(body))] = chance.choice([0, 1, 0x0F, 0x7F, 0xF0, 0xFF])
        lying = table(PMT_PID, 2, 1, bytes(body[: chance.randrange(len(body) + 1)]))
        _, seen = sent_through(PAT + lying + PAYLOAD + FIRST + PAYLOAD)
        assert len(seen) % PACKET_BYTES == 0
        assert pids(seen)[-1] in (SOUND, NULL_PID)
