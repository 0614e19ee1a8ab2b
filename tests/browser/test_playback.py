"""A translated clip in a real browser: it plays to its end, with its frames and its sound."""

from __future__ import annotations

import functools
import http.server
import json
import queue
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import save_generator
from engine.generators import build
from engine.generators.resnet import ResNetConfig
from engine.run import main
from engine.samples import SAMPLE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

PAGE = """<!doctype html><video id=v src=clip.mp4 muted></video><script>
const send = report => fetch('/report', {method: 'POST', body: JSON.stringify(report)});
v.onerror = () => send({error: v.error.message});
v.onended = () => send({
  duration: v.duration, width: v.videoWidth, height: v.videoHeight,
  frames: v.getVideoPlaybackQuality().totalVideoFrames, sound: v.webkitAudioDecodedByteCount});
v.play().catch(reason => send({error: String(reason)}));
</script>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the folder, and takes the page's report."""

    reports: queue.Queue[dict[str, Any]] = queue.Queue()

    def do_POST(self) -> None:
        self.reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_translated_clip_plays_in_chromium(tmp_path: Path) -> None:
    torch.manual_seed(0)
    style = tmp_path / "tiny.safetensors"
    save_generator(build(ResNetConfig(width=4, blocks=1)), style)
    site = tmp_path / "site"
    site.mkdir()
    assert main([str(SAMPLE), "-o", str(site / "clip.mp4"), "--style", str(style), "--quiet"]) == 0
    (site / "index.html").write_text(PAGE)
    handler = functools.partial(Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert CHROMIUM is not None
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
        options += ["--disable-background-networking", "--autoplay-policy=no-user-gesture-required"]
        options += [f"--user-data-dir={tmp_path / 'profile'}"]
        # Without a debugging port, headless Chromium loads the page and leaves before it has played.
        address = f"http://127.0.0.1:{server.server_port}/index.html"
        browser = subprocess.Popen(
            [CHROMIUM, *options, "--remote-debugging-port=0", address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            report = Handler.reports.get(timeout=60)
        finally:
            browser.kill()
            browser.wait()
            server.shutdown()
    assert "error" not in report, report
    assert (report["width"], report["height"]) == (640, 360)
    assert report["duration"] == pytest.approx(6.0, abs=0.1)
    assert report["frames"] >= 130  # of 144: a busy machine may drop some, a file that does not play has none
    assert report["sound"] > 10_000
