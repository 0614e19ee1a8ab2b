"""Sound, subtitles, chapters, pictures and tags come along packet for packet; what can't is named in a warning."""

from __future__ import annotations

import contextlib
import re
from fractions import Fraction
from pathlib import Path

import pytest
from av.stream import Disposition

from engine.video import default_output, open_sink, open_source
from engine.video.subtitles import repack
from tests.engine.video.through import through
from tests.media import Audio, Text, Track, make_video, read

TWO_LANGUAGES = (
    Audio(language="deu", title="Deutsch", disposition=Disposition.default),
    Audio(codec="ac3", language="eng", title="Commentary", disposition=Disposition.comment),
)

CHAPTERS = [
    {"id": 1, "start": 0, "end": 150, "time_base": Fraction(1, 1000), "metadata": {"title": "Opening"}},
    {"id": 2, "start": 150, "end": 400, "time_base": Fraction(1, 1000), "metadata": {"title": "Ünd Schluss"}},
]


# Two codes of ISO 639-2 for one language; QuickTime knows the older only.
GERMAN = {"deu", "ger"}


def assert_copied(
    before: list[Track], after: list[Track], *, rounded_to: Fraction = Fraction(0), dispositions: int = -1
) -> None:
    """Same tracks: codec, payloads, exact times, language, title and (where it says something) disposition."""
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert new.codec == old.codec
        assert new.hashes == old.hashes
        for old_times, new_times in zip(old.times, new.times, strict=True):
            assert all(abs(a - b) <= rounded_to for a, b in zip(old_times, new_times, strict=True))
        # MP4 calls the first track of a kind default where none is; QuickTime knows no other disposition.
        expected = old.disposition & dispositions or new.disposition & Disposition.default
        assert new.disposition == expected
        assert new.title == old.title
        assert new.language == old.language or {new.language, old.language} == GERMAN


@pytest.mark.parametrize(("suffix", "output"), [(".mp4", ".mp4"), (".mp4", ".mov"), (".mkv", ".mkv")])
def test_several_audio_tracks(tmp_path: Path, suffix: str, output: str) -> None:
    source = make_video(tmp_path / f"in{suffix}", audio=TWO_LANGUAGES)
    result = through(source, tmp_path / f"out{output}")
    before, after = read(source), result.contents
    kept = Disposition.default if output == ".mov" else -1
    assert_copied(before.of_type("audio"), after.of_type("audio"), dispositions=kept)
    assert len(before.of_type("audio")) == 2
    assert result.warnings == []


def test_no_sound(tmp_path: Path) -> None:
    result = through(make_video(tmp_path / "in.mp4"), tmp_path / "out.mp4")
    assert [track.type for track in result.contents.tracks] == ["video"]


@pytest.mark.parametrize("seconds", [0.1, 3.0, 40.0])
def test_sound_shorter_and_much_longer_than_the_picture(tmp_path: Path, seconds: float) -> None:
    source = make_video(tmp_path / "in.mp4", audio=(Audio(seconds=seconds),))
    after = through(source, tmp_path / "out.mp4").contents
    assert_copied(read(source).of_type("audio"), after.of_type("audio"))


def test_packets_lie_in_the_order_of_time(tmp_path: Path) -> None:
    source = make_video(
        tmp_path / "in.mkv", pts=[i * 40 for i in range(100)], time_base=Fraction(1, 1000), audio=(Audio(seconds=4.0),)
    )
    result = through(source, tmp_path / "out.mkv")
    assert greatest_lead(result.path) < 0.2


def greatest_lead(path: Path) -> float:
    """How far, in seconds, any packet lies behind one that is later in time."""
    import av

    latest, lead = Fraction(0), Fraction(0)
    with av.open(str(path)) as source:
        for packet in source.demux():
            if packet.dts is not None:
                time = packet.dts * packet.time_base
                lead = max(lead, latest - time)
                latest = max(latest, time)
    return float(lead)


def test_order_of_tracks_and_tags_of_the_file(tmp_path: Path) -> None:
    tags = {"title": "Ein Film", "artist": "Somebody", "comment": "seen"}
    source = make_video(
        tmp_path / "in.mkv",
        audio=TWO_LANGUAGES,
        texts=(Text(),),
        tags=tags,
        video_tags={"title": "Main", "language": "fra"},
    )
    before, after = read(source), through(source, tmp_path / "out.mkv").contents
    assert [track.type for track in after.tracks] == [track.type for track in before.tracks]
    for key, value in tags.items():
        assert {k.lower(): v for k, v in after.tags.items()}[key] == value
    assert after.of_type("video")[0].tags["language"] == "fra"
    assert after.of_type("video")[0].tags["title"] == "Main"


def test_tags_of_mp4(tmp_path: Path) -> None:
    tags = {"title": "Ein Film", "artist": "Somebody", "creation_time": "2020-01-02T03:04:05.000000Z"}
    source = make_video(tmp_path / "in.mp4", tags=tags, video_tags={"language": "fra"})
    after = through(source, tmp_path / "out.mp4").contents
    assert {key: after.tags.get(key) for key in tags} == tags
    assert after.of_type("video")[0].tags["language"] == "fra"


@pytest.mark.parametrize(("suffix", "output"), [(".mp4", ".mp4"), (".mkv", ".mkv"), (".mkv", ".mp4")])
def test_chapters(tmp_path: Path, suffix: str, output: str) -> None:
    source = make_video(tmp_path / f"in{suffix}", chapters=CHAPTERS)
    result = through(source, tmp_path / f"out{output}")
    assert len(read(source).chapters) == 2
    assert result.contents.chapters == read(source).chapters
    assert result.warnings == []


@pytest.mark.parametrize(("suffix", "output"), [(".mp4", ".mp4"), (".mkv", ".mkv"), (".mkv", ".mp4"), (".mp4", ".mkv")])
def test_cover_image(tmp_path: Path, suffix: str, output: str) -> None:
    source = make_video(tmp_path / f"in{suffix}", cover=True)
    before, after = read(source), through(source, tmp_path / f"out{output}").contents
    assert [t.hashes for t in after.tracks if t.disposition & Disposition.attached_pic] == [
        t.hashes for t in before.tracks if t.disposition & Disposition.attached_pic
    ]
    assert len([t for t in after.tracks if t.disposition & Disposition.attached_pic]) == 1
    assert after.times == before.times


def test_a_cover_before_the_picture_is_not_taken_for_it(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", cover=True, size=(64, 48))
    assert (open_source(str(source)).info.width, open_source(str(source)).info.height) == (64, 48)


def test_subtitles_and_attachments_of_matroska(tmp_path: Path) -> None:
    texts = (Text(disposition=Disposition.default | Disposition.forced), Text(codec="ass", language="jpn"))
    source = make_video(tmp_path / "in.mkv", texts=texts, attachment=b"no real font")
    result = through(source, tmp_path / "out.mkv")
    before, after = read(source), result.contents
    assert_copied(before.of_type("subtitle"), after.of_type("subtitle"))
    assert after.attachments == before.attachments == [("font.ttf", b"no real font")]
    assert result.warnings == []


def test_what_mp4_cannot_hold_is_named(tmp_path: Path) -> None:
    source = make_video(
        tmp_path / "in.mkv", audio=(Audio(), Audio(codec="pcm_s24le")), texts=(Text(codec="ass"),), attachment=b"font"
    )
    result = through(source, tmp_path / "out.mp4")
    (line,) = [line for line in result.warnings if "left out" in line]
    assert "-o out.mkv keeps it" in line
    assert "attachment" in line
    assert "\n" not in line
    assert [track.codec for track in result.contents.of_type("subtitle")] == ["mov_text"]
    assert_copied(read(source).of_type("audio")[:1], result.contents.of_type("audio")[:1])


def test_webm_copies_opus_and_converts_aac(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", audio=(Audio(), Audio(codec="libopus")), size=(64, 64))
    result = through(source, tmp_path / "out.webm")
    assert [track.codec for track in result.contents.of_type("audio")] == ["opus", "opus"]
    assert any("aac" in line and "converted to Opus" in line for line in result.warnings)


def test_subrip_becomes_mp4_text_and_back(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", texts=(Text(),))
    middle = through(source, tmp_path / "middle.mp4")
    (track,) = middle.contents.of_type("subtitle")
    shown = [
        (packet[0], payload[2:])
        for packet, payload in zip(track.packets, track.payloads, strict=True)
        if len(payload) > 2
    ]
    assert track.codec == "mov_text"
    assert track.tags["language"] == "eng"
    assert shown == [(Fraction(1, 10), b"Hello"), (Fraction(1, 2), b"World & all")]
    assert any("subtitle" in line for line in middle.warnings)
    (back,) = through(middle.path, tmp_path / "back.mkv").contents.of_type("subtitle")
    assert back.codec in ("subrip", "srt")
    assert back.payloads == [b"Hello", b"World & all"]


ASS_EVENT = rb"3,0,Default,,0,0,0,,{\i1}Hello,{\i0}\NWorld & all"


@pytest.mark.parametrize(
    ("payload", "source", "codec", "text"),
    [
        (ASS_EVENT, "ass", "mov_text", b"\0\x12Hello,\nWorld & all"),
        (ASS_EVENT, "ass", "webvtt", b"Hello,\nWorld &amp; all"),
        (b"<i>Hello</i> &amp; all\r\n", "subrip", "webvtt", b"Hello &amp; all"),
        (b"<v Ann>Hello</v>", "webvtt", "mov_text", b"\0\x05Hello"),
        (b"\0\x05Hello\0\0\0\x0cstyl", "mov_text", "subrip", b"Hello"),
        (b"\0", "mov_text", "subrip", None),
        (b"", "mov_text", "webvtt", None),
        (b"1,2", "ass", "subrip", b"2"),  # too few fields
    ],
)
def test_the_text_of_subtitles_is_kept(payload: bytes, source: str, codec: str, text: bytes | None) -> None:
    assert repack(payload, source, codec) == text


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".webm"])
@pytest.mark.parametrize("codec", ["ass", "subrip", "webvtt"])
def test_subtitles_of_matroska_are_kept_in_every_container(codec: str, suffix: str, tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", texts=(Text(codec=codec),), size=(64, 64))
    result = through(source, tmp_path / f"out{suffix}")
    (track,) = result.contents.of_type("subtitle")
    text = b"".join(track.payloads).replace(b"&amp;", b"&")
    assert b"Hello" in text
    assert re.search(rb"World(</i>)? & all", text)
    assert not [line for line in result.warnings if "left out" in line]


@pytest.mark.parametrize(
    ("suffix", "options", "expected"),
    [
        (".mp4", {"audio": (Audio(),)}, "in_mosaic.mp4"),
        (".mkv", {"audio": (Audio(), Audio(codec="ac3"))}, "in_mosaic.mp4"),
        (".mkv", {"audio": (Audio(codec="libopus"),)}, "in_mosaic.mp4"),
        (".mkv", {"texts": (Text(),)}, "in_mosaic.mkv"),
        (".mkv", {"texts": (Text(codec="ass"),)}, "in_mosaic.mkv"),
        (".mkv", {"attachment": b"font"}, "in_mosaic.mkv"),
        (".mkv", {"cover": True}, "in_mosaic.mp4"),
        (".mov", {"audio": (Audio(codec="pcm_s16le"),)}, "in_mosaic.mov"),
        (".mp4", {"chapters": CHAPTERS}, "in_mosaic.mp4"),
    ],
)
def test_default_output_keeps_every_track(tmp_path: Path, suffix: str, options: dict, expected: str) -> None:
    source = make_video(tmp_path / f"in{suffix}", **options)
    with contextlib.closing(open_source(str(source))) as opened:
        output = default_output(str(source), "mosaic", opened)
    assert output == tmp_path / expected
    result = through(source, output)
    assert not [line for line in result.warnings if "left out" in line]
    milliseconds = Fraction(1, 1000) if output.suffix == ".mkv" else Fraction(0)
    assert_copied(read(source).of_type("audio"), result.contents.of_type("audio"), rounded_to=milliseconds)


def test_default_output_of_an_avi_is_one_that_plays_everywhere(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.avi", audio=(Audio(codec="pcm_s16le"),), options={"bf": "0"})
    output = default_output(str(source), "mosaic")
    assert output == tmp_path / "in_mosaic.mp4"
    assert [track.codec for track in through(source, output).contents.of_type("audio")] == ["flac"]


@pytest.mark.parametrize("suffix", [".mov", ".mp4"])
def test_what_phones_write(tmp_path: Path, suffix: str) -> None:
    """Beside the main sound: spatial sound that has no decoder, and tracks of measurements (mebx)."""
    plain = make_video(
        tmp_path / f"plain{suffix}", audio=(Audio(), Audio(codec="ac3")), texts=(Text(codec="mov_text"),)
    )
    data = plain.read_bytes()
    changes = {b"ac-3": b"apac", b"sbtl": b"meta", b"mhlrtext": b"mhlrmeta", b"@text": b"@mebx", b"tx3g": b"mebx"}
    assert sum(before in data for before in changes) == 3
    for before, after in changes.items():
        data = data.replace(before, after)
    source = tmp_path / f"in{suffix}"
    source.write_bytes(data)
    output = default_output(str(source), "mosaic")
    assert output.suffix == suffix
    result = through(source, output)
    assert [track.type for track in result.contents.tracks] == ["video", "audio"]
    assert_copied(read(source).of_type("audio")[:1], result.contents.of_type("audio"))
    (line,) = [line for line in result.warnings if "left out" in line]
    assert "data track" in line
    assert "sound track 2" in line


def test_partial_output_ends_its_sound_with_the_picture(tmp_path: Path) -> None:
    pts = [index * 512 for index in range(50)]
    path = make_video(tmp_path / "in.mp4", pts=pts, audio=(Audio(seconds=2.0),))
    source = open_source(str(path))
    sink = open_sink(str(tmp_path / "out.mp4"), source)
    for _, frame in zip(range(25), source, strict=False):
        sink.write(frame)
    source.close()
    partial = sink.abort()
    assert partial == tmp_path / "out.partial.mp4"
    contents = read(partial)
    assert contents.times == [stamp * Fraction(1, 12800) for stamp in pts[:25]]
    (sound,) = contents.of_type("audio")
    assert sound.packets == read(path).of_type("audio")[0].packets[: len(sound.packets)]
    assert abs(sound.packets[-1][0] - 1) < 0.05
    assert not (tmp_path / "out.mp4").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.partial.mp4"]
