"""Text subtitles in the shapes that containers want: mov_text (MP4, QuickTime), SubRip (Matroska), WebVTT (WebM)."""

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

_TEXT_CODECS = ("subrip", "text", "webvtt", "ass", "ssa", "mov_text")
_TARGETS = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|\{\\[^{}]*\}")

# Fields of an ASS event before its text, as Matroska has them.
_ASS_FIELDS = 8


def repacked_codec(codec: str, container: str) -> str | None:
    """The codec that a subtitle track can be repacked to for a container, None if there is none."""
    return _TARGETS.get(container) if codec in _TEXT_CODECS else None


def repack(payload: bytes, source: str, codec: str) -> bytes | None:
    """The text of a packet, without colours and positions; None where there is none.

    Args:
        source: what it is in.
        codec: what it is to be in: "mov_text", "subrip" or "webvtt".
    """
    if source == "mov_text":
        length = int.from_bytes(payload[:2], "big")
        text = payload[2 : 2 + length].decode("utf-8", "replace")
    else:
        text = payload.decode("utf-8", "replace")
        if source in ("ass", "ssa"):
            text = text.split(",", _ASS_FIELDS)[-1].replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ")
        text = html.unescape(_TAG.sub("", text).replace("\r\n", "\n"))
    text = text.rstrip("\n\0")
    if codec == "mov_text":
        encoded = text.encode("utf-8")[:0xFFFF]
        return struct.pack(">H", len(encoded)) + encoded
    return (html.escape(text, quote=False) if codec == "webvtt" else text).encode("utf-8") or None
