"""Uploaded videos: what is accepted, translated, handed out and removed."""

from __future__ import annotations

import asyncio
import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from engine.serve.probe import Limits, probe
from engine.serve.uploads import download_name
from tests.engine.serve.conftest import Serve, Served, run
from tests.media import Audio, make_video, read


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("clip") / "in.mp4", audio=(Audio(seconds=0.4),))


async def sent(served: Served, data: Any, **query: str) -> tuple[int, dict[str, Any]]:
    async with served.client.post("/uploads", data=data, params=query) as response:
        return response.status, await response.json()


async def ended(served: Served, upload: str) -> dict[str, Any]:
    while True:
        async with served.client.get(f"/uploads/{upload}") as response:
            job: dict[str, Any] = await response.json()
        if job["state"] in ("done", "failed"):
            return job
        await asyncio.sleep(0.1)


def test_a_video_is_translated_with_its_sound(serve: Serve, clip: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with serve() as served:
            status, told = await sent(served, clip.read_bytes(), name="../../my film.mp4", style="0")
            assert status == 201
            upload = told["upload"]
            async with served.client.get(f"/uploads/{upload}/result") as response:
                assert response.status == 400  # not yet
            job = await ended(served, upload)
            assert job == {"state": "done", "done": 10, "total": 10, "error": ""}
            async with served.client.get(f"/uploads/{upload}/result") as response:
                assert response.headers["Content-Disposition"] == 'attachment; filename="my_film_same.mp4"'
                (tmp_path / "out.mp4").write_bytes(await response.read())
            contents, before = read(tmp_path / "out.mp4"), read(clip)
            assert contents.times == before.times
            assert len(contents.of_type("audio")) == 1
            folder = served.uploads._folder
            assert [path.name for path in folder.rglob("*") if path.is_file()] == ["result.mp4"]
            async with served.client.delete(f"/uploads/{upload}") as response:
                assert response.status == 200
            assert list(folder.iterdir()) == []
            async with served.client.get(f"/uploads/{upload}") as response:
                assert response.status == 400
        assert not folder.exists()

    run(test())


def gif_of(width: int, height: int) -> bytes:
    """A small file of huge frames."""
    file = io.BytesIO()
    with av.open(file, "w", format="gif") as output:
        stream = output.add_stream("gif", rate=10, width=width, height=height, pix_fmt="gray")
        frame = av.VideoFrame(width, height, "gray")
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"nothing that plays", "no video"),
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "no video"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "no video"),
        (gif_of(6000, 4000), "6000x4000 are larger"),
    ],
)
def test_what_is_no_video_or_a_trap_fails_with_a_line(data: bytes, told: str, serve: Serve) -> None:
    async def test() -> None:
        async with serve() as served:
            status, answer = await sent(served, data, name="x.mp4")
            assert status == 201
            job = await ended(served, answer["upload"])
            assert job["state"] == "failed"
            assert told in job["error"]
            assert "/" not in job["error"].replace("x4000", "")  # no path of the server

    run(test())


def test_a_playlist_is_not_read(tmp_path: Path) -> None:
    """Not even one that names a video which is there."""
    ticks = {"pts": [index * 3600 for index in range(10)], "time_base": Fraction(1, 90000)}
    make_video(tmp_path / "part.ts", **ticks)
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.4,\npart.ts\n#EXT-X-ENDLIST\n")
    with av.open(str(playlist)) as container:
        assert container.format.name == "hls"
    assert "no video" in probe(str(playlist), Limits())["error"]


def test_limits(serve: Serve, clip: Path) -> None:
    async def test() -> None:
        async with serve(limits=Limits(bytes=1 << 20)) as served:
            status, answer = await sent(served, bytes((1 << 20) + 1))
            assert (status, answer["error"]) == (400, "the file is larger than 1 MiB")
            status, answer = await sent(served, b"")
            assert (status, answer["error"]) == (400, "the file is empty")
            status, answer = await sent(served, b"x", style="7")
            assert status == 400
            assert list(served.uploads._folder.iterdir()) == []
            for _ in range(2):
                assert (await sent(served, clip.read_bytes()))[0] == 201
            status, answer = await sent(served, clip.read_bytes())
            assert status == 400
            assert "2 uploads are kept already" in answer["error"]

    run(test())


def test_a_long_video_is_refused(clip: Path) -> None:
    assert "lasts" in probe(str(clip), Limits(seconds=0.1))["error"]
    assert probe(str(clip), Limits()) == {"frames": 10}


def test_a_client_that_goes_away_leaves_nothing(serve: Serve) -> None:
    async def test() -> None:
        async with serve() as served:

            async def broken() -> Any:
                yield b"x" * 1000
                raise ConnectionResetError

            with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the client makes of it
                await sent(served, broken())
            for _ in range(50):
                await asyncio.sleep(0.1)
                if not list(served.uploads._folder.iterdir()):
                    break
            assert list(served.uploads._folder.iterdir()) == []

    run(test())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clip.mp4", "clip_style.mp4"),
        ('a"b\r\nSet-Cookie: x.mp4', "a_b_Set-Cookie_x_style.mp4"),
        ("..", "video_style.mp4"),
        ("C:\\films\\Ärger.mov", "rger_style.mp4"),
        ("", "video_style.mp4"),
        ("x" * 500, "x" * 60 + "_style.mp4"),
    ],
)
def test_names_of_downloads_are_harmless(name: str, expected: str) -> None:
    assert download_name(name, "folder/style.safetensors") == expected
