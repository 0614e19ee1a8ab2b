"""Text subtitles between the two shapes that containers want: SubRip (Matroska) and mov_text (MP4, QuickTime)."""

from __future__ import annotations

import html
import re
import struct

# FFmpeg's mov_text encoder describes the track by this header: one plain style.
ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+
PlayResX: 384
PlayResY: 288

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""

_SUBRIP_CODECS = ("subrip", "text")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|\{\\[^{}]*\}")


def repacked_codec(codec: str, container: str) -> str | None:
    """The codec that a subtitle track can be repacked to for a container, None if there is none."""
    if codec in _SUBRIP_CODECS and container in ("mp4", "mov"):
        return "mov_text"
    if codec == "mov_text" and container == "matroska":
        return "subrip"
    return None


def repack(payload: bytes, codec: str) -> bytes | None:
    """The text of a packet as `codec` ("mov_text" or "subrip") wants it; None where there is no text."""
    if codec == "mov_text":
        text = _TAG.sub("", payload.decode("utf-8", "replace")).replace("\r\n", "\n").rstrip("\n\0")
        encoded = html.unescape(text).encode("utf-8")[:0xFFFF]
        return struct.pack(">H", len(encoded)) + encoded
    if len(payload) < 2:
        return None
    (length,) = struct.unpack_from(">H", payload)
    return payload[2 : 2 + length] or None
