"""Who gets in, and what wrong requests are told."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.serve import main
from tests.engine.serve.conftest import Peer, Serve, run

ROOT = Path(__file__).parents[3]
PRIVATE = ("/metrics", "/styles", "/styles/0/picture", "/uploads/x")


async def asked(client: Any, path: str, method: str = "GET", **options: Any) -> tuple[int, Any, Any]:
    async with client.request(method, path, **options) as response:
        body = await response.json() if response.content_type == "application/json" else await response.read()
        return response.status, body, response.headers


def test_the_page_contains_no_script_and_no_address_of_others(serve: Serve) -> None:
    async def test() -> None:
        async with serve() as served:
            for path in ("/", "/page.js", "/page.css"):
                status, body, headers = await asked(served.client, path)
                assert status == 200
                assert not re.search(rb"https?://(?!www\.w3\.org)", body)
                policy = headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
            _, body, _ = await asked(served.client, "/")
            assert not re.search(rb"<script(?![^>]*src=)|\son\w+=|<style|style=", body)

    run(test())


@pytest.mark.parametrize("path", ["/", "/styles", "/nothing", "/uploads/x", "/styles/99/picture", "/styles/x/picture"])
def test_headers_are_on_every_answer(path: str, serve: Serve) -> None:
    async def test() -> None:
        async with serve() as served:
            status, _, headers = await asked(served.client, path)
            assert (status == 200) == (path in ("/", "/styles"))
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]

    run(test())


def test_other_sites_and_other_names_are_refused(serve: Serve) -> None:
    async def test() -> None:
        async with serve(hosts=frozenset({"127.0.0.1"})) as served:
            own = f"http://127.0.0.1:{served.client.port}"
            assert (await asked(served.client, "/styles", headers={"Origin": own}))[0] == 200
            for origin in ("http://evil.example", "null", f"http://127.0.0.1:{served.client.port}.evil.example"):
                assert (await asked(served.client, "/styles", headers={"Origin": origin}))[0] == 403
            for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example"):
                assert (await asked(served.client, "/styles", headers={"Host": host}))[0] == 403

    run(test())


def test_without_the_token_there_is_the_page_and_nothing_else(serve: Serve) -> None:
    async def test() -> None:
        async with serve(token="secret") as served:
            for path in ("/", "/page.js", "/healthz"):
                assert (await asked(served.client, path))[0] == 200
            for path in PRIVATE:
                assert (await asked(served.client, path))[0] == 401
                assert (await asked(served.client, path, headers={"Authorization": "Bearer wrong"}))[0] == 401
            for path in ("/offer", "/uploads"):
                assert (await asked(served.client, path, "POST", json={}))[0] == 401
            bearer = {"Authorization": "Bearer secret"}
            assert (await asked(served.client, "/styles", headers=bearer))[0] == 200
            assert (await asked(served.client, "/login", "POST", json={"token": "wrong"}))[0] == 401
            status, _, headers = await asked(served.client, "/login", "POST", json={"token": "secret"})
            assert status == 200
            assert "HttpOnly" in headers["Set-Cookie"]
            assert "SameSite=Strict" in headers["Set-Cookie"]
            assert (await asked(served.client, "/styles", cookies={"streamgan_token": "secret"}))[0] == 200

    run(test())


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, "JSON object"),
        (b"[]", 400, "JSON object"),
        (b'{"sdp": 1, "type": "offer"}', 400, "an offer is expected"),
        (b'{"sdp": "v=0", "type": "answer"}', 400, "an offer is expected"),
        (b'{"sdp": "garbage", "type": "offer"}', 400, "no video"),
        (b'{"sdp": "a=rtpmap:1 H264/90000 garbage", "type": "offer"}', 400, "can't be read"),
        (b'{"sdp": "' + b"v" * 300_000 + b'", "type": "offer"}', 413, None),
    ],
)
def test_a_wrong_offer_is_told_in_one_line(body: bytes, status: int, told: str | None, serve: Serve) -> None:
    async def test() -> None:
        async with serve() as served:
            got, answer, _ = await asked(served.client, "/offer", "POST", data=body)
            assert got == status
            if told is not None:
                assert told in answer["error"]
            assert not served.machine.sessions
            async with Peer(served.client) as peer:  # the server goes on
                assert await peer.connect() == 200

    run(test())


def test_metrics_are_in_the_format_of_prometheus(serve: Serve) -> None:
    async def test() -> None:
        async with serve() as served, Peer(served.client) as peer:
            await peer.connect()
            await peer.received(3)
            _, body, headers = await asked(served.client, "/metrics")
            assert headers["Content-Type"].startswith("text/plain")
            line = re.compile(r'# (HELP|TYPE) \w+ .+|\w+(\{\w+="\w+"\})? \d+')
            lines = body.decode().splitlines()
            assert all(line.fullmatch(one) for one in lines), lines
            values = dict(one.rsplit(" ", 1) for one in lines if not one.startswith("#"))
            assert values["streamgan_sessions"] == values["streamgan_viewers"] == "1"
            assert int(values['streamgan_frames_total{state="shown"}']) >= 3

    run(test())


def test_styles_have_pictures(serve: Serve) -> None:
    async def test() -> None:
        async with serve() as served:
            _, styles, _ = await asked(served.client, "/styles")
            assert [style["name"] for style in styles] == ["same", "other"]
            pictures = [(await asked(served.client, f"/styles/{number}/picture"))[1] for number in (0, 1, 0)]
            assert pictures[0] == pictures[2] != pictures[1]
            assert all(picture[:2] == b"\xff\xd8" for picture in pictures)

    run(test())


# --- the command line ---


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--style", "no-such-style"], "no style 'no-such-style'"),
        (["--tls-cert", "cert.pem"], "belong together"),
        (["--tls-cert", "cert.pem", "--tls-key", "key.pem"], "No such file"),
        (["--host", "192.0.2.1", "--port", "0"], "can't listen on 192.0.2.1:0"),
    ],
)
def test_wrong_options_are_one_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_ctrl_c_ends_it_and_leaves_nothing(tmp_path: Path) -> None:
    import os
    import signal

    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "engine.serve", "--port", "0", "--host", "127.0.0.1", "--token", "t"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#token=t\n", server.stdout.readline())
        assert list(tmp_path.iterdir())
        server.send_signal(signal.SIGINT)
        _, error = server.communicate(timeout=30)
    assert server.returncode == 0
    assert error == ""
    assert list(tmp_path.iterdir()) == []
