"""The page of `streamgan serve` in a real browser, with a camera that shows a film."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

pytest.importorskip("aiortc", reason="aiortc is not installed: pip install 'streamgan[live]'")

from bench.chromium import CHROMIUM, Page, chromium
from engine import save_generator
from engine.generators import build
from engine.generators.resnet import ResNetConfig
from engine.translator import Translator
from tests.engine.small_generators import save_identity
from tests.media import Audio, make_video

ROOT = Path(__file__).parents[2]
SIZE = (160, 96)

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.time_limit(300),
]

GREY = """(() => {
  const canvas = document.createElement('canvas'), video = document.getElementById(%r);
  canvas.width = video.videoWidth; canvas.height = video.videoHeight;
  const context = canvas.getContext('2d');
  context.drawImage(video, 0, 0);
  const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let sum = 0;
  for (let i = 0; i < data.length; i += 4) sum += data[i] + data[i + 1] + data[i + 2];
  return sum / data.length * 4 / 3;
})()"""


def level(number: int) -> int:
    """Grey of a numbered frame."""
    return 40 + 20 * (number % 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def camera(folder: Path) -> Path:
    """Frames of one grey each, five a second so that each one is seen."""
    path = folder / "camera.y4m"
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W%d H%d F5:1 Ip A1:1 C420jpeg\n" % SIZE)
        for number in range(40):
            luma = round(16 + level(number) * 219 / 255)
            pixels = SIZE[0] * SIZE[1]
            file.write(b"FRAME\n" + bytes([luma]) * pixels + bytes([128]) * (pixels // 2))
    return path


@pytest.fixture(scope="module")
def styles(folder: Path) -> list[Path]:
    torch.manual_seed(0)
    save_identity(folder / "same.safetensors")
    save_generator(build(ResNetConfig(width=4, blocks=1)), folder / "other.safetensors")
    return [folder / "same.safetensors", folder / "other.safetensors"]


class Server:
    """A server process."""

    def __init__(self, styles: list[Path], folder: Path) -> None:
        options = [f"--style={style}" for style in styles]
        self._command = [sys.executable, "-m", "engine.serve", *options, "--backend", "eager", "--precision", "fp32"]
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
        self.port = 0
        self.start()

    def start(self) -> None:
        command = [*self._command, "--port", str(self.port)]
        self._process = subprocess.Popen(command, env=self._environment, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        self.port = int(re.search(r":(\d+)/", self.url)[1])  # type: ignore[index]

    def stop(self, number: int = signal.SIGINT) -> int:
        self._process.send_signal(number)
        return self._process.wait(30)


@pytest.fixture
def server(styles: list[Path], folder: Path) -> Iterator[Server]:
    server = Server(styles, folder)
    yield server
    with contextlib.suppress(ProcessLookupError):
        server.stop()


@contextlib.asynccontextmanager
async def showing(server: Server, camera: Path | None, *flags: str) -> AsyncIterator[Page]:
    async with chromium(*flags, camera=camera) as browser:
        page = await browser.page(server.url)
        await page.until("document.querySelectorAll('#styles img').length === 2")
        yield page


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 200))  # type: ignore[arg-type]


async def start_camera(page: Page) -> None:
    await page.js("document.getElementById('camera').click()")
    await page.until("document.getElementById('result').videoWidth > 0")


async def greys(page: Page, element: str, count: int = 12) -> list[float]:
    seen = []
    for _ in range(count):
        seen.append(await page.js(GREY % element))
        await asyncio.sleep(0.17)
    return seen


def near(value: float, levels: Any) -> bool:
    return min(abs(value - one) for one in levels) <= 4


def test_the_camera_comes_back_translated(server: Server, camera: Path, styles: list[Path]) -> None:
    """Moving frames with the pixels that the translator makes, in the style and strength that are chosen."""
    sent = [level(number) for number in range(8)]
    translator = Translator(styles[1], backend="eager", precision="fp32")
    expected = [float(np.asarray(translator(np.full((SIZE[1], SIZE[0], 3), grey, np.uint8))).mean()) for grey in sent]

    async def test() -> None:
        async with showing(server, camera) as page:
            await start_camera(page)
            await page.until("(state.server.shown || 0) > 5")
            seen = await greys(page, "result")
            assert len({round(one / 10) for one in seen}) >= 4, seen
            assert sum(near(one, sent) for one in seen) >= 10, seen

            await page.js("document.querySelectorAll('#styles input')[1].click()")
            await page.until("state.server.style === 'other'")
            await asyncio.sleep(1.5)
            seen = await greys(page, "result")
            assert sum(near(one, expected) for one in seen) >= 10, (seen, expected)

            await page.js(
                "strength.value = 0; strength.oninput()".replace("strength", "document.getElementById('strength')")
            )
            await asyncio.sleep(1.5)
            seen = await greys(page, "result")
            assert sum(near(one, sent) for one in seen) >= 10, seen

            figures = await page.js("document.getElementById('figures').textContent")
            assert re.search(r"\d+ frames/s · picture \d+ ms old", figures), figures
            await page.js(
                "divider.value = 30; divider.oninput()".replace("divider", "document.getElementById('divider')")
            )
            assert (
                await page.js("getComputedStyle(document.getElementById('result')).clipPath") == "inset(0px 0% 0px 30%)"
            )
            assert page.console == []

            await page.js("document.getElementById('stop').click()")
            await page.until("(await (await fetch('/healthz')).json()).sessions === 0".join(["(async () => ", ")()"]))

    run(test)


def test_it_connects_again_when_the_server_was_killed(server: Server, camera: Path) -> None:
    async def test() -> None:
        async with showing(server, camera) as page:
            await start_camera(page)
            await page.until("(state.server.shown || 0) > 3")
            server.stop(signal.SIGKILL)
            await page.until("document.getElementById('trouble').textContent.includes('Trying again')")
            server.start()
            await page.until("document.getElementById('trouble').hidden && (state.server.shown || 0) > 3")

    run(test)


def test_those_who_watch_see_it_too(server: Server, camera: Path) -> None:
    async def test() -> None:
        async with chromium(camera=camera) as browser:
            page = await browser.page(server.url)
            await page.until("document.querySelectorAll('#styles img').length === 2")
            await start_camera(page)
            link = await page.until("state.watch")
            other = await browser.page(link)
            await other.until("document.getElementById('result').videoWidth > 0")
            await page.until("state.server.viewers === 2")
            seen = await greys(other, "result")
            assert len({round(one / 10) for one in seen}) >= 3, seen
            assert await other.js("document.getElementById('controls').hidden")

    run(test)


def test_a_screenshot_and_a_recording_are_saved(server: Server, camera: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with showing(server, camera) as page:
            await page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
            await start_camera(page)
            await page.until("(state.server.shown || 0) > 3")
            await page.js("document.getElementById('shot').click()")
            await page.js("document.getElementById('record').click()")
            await asyncio.sleep(3)
            await page.js("document.getElementById('record').click()")
            for _ in range(100):
                names = sorted(path.suffix for path in tmp_path.iterdir())
                if names == [".png", ".webm"]:
                    break
                await asyncio.sleep(0.1)
            assert names == [".png", ".webm"]

    run(test)
    image, film = sorted(tmp_path.iterdir(), key=lambda path: path.suffix)
    with av.open(str(image)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == SIZE
    with av.open(str(film)) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 5


def test_a_whole_video_is_uploaded_and_downloaded(server: Server, tmp_path: Path) -> None:
    clip = make_video(tmp_path / "my clip.mp4", audio=(Audio(seconds=0.4),))

    async def test() -> None:
        async with showing(server, None) as page:
            await page.choose_file("#whole", clip)
            link = await page.until(
                "!document.getElementById('download').hidden && document.getElementById('download').href", 60
            )
            size = await page.js(f"fetch({link!r}).then(answer => answer.arrayBuffer()).then(data => data.byteLength)")
            assert size > 1000
            await page.js("document.getElementById('discard').click()")
            await page.until(f"fetch({link!r}).then(answer => answer.status === 400)")

            (tmp_path / "broken.mp4").write_bytes(b"nothing")
            await page.choose_file("#whole", tmp_path / "broken.mp4")
            await page.until("document.getElementById('job').textContent.includes('this is no video')")

    run(test)


def test_trouble_is_told_in_words(server: Server) -> None:
    async def test() -> None:
        async with showing(server, None, "--deny-permission-prompts") as page:
            await page.js(
                "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotFoundError'); }"
            )
            await page.js("document.getElementById('camera').click()")
            await page.until("document.getElementById('trouble').textContent.startsWith('No camera was found')")
            await page.js(
                "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError'); }"
            )
            await page.js("document.getElementById('camera').click()")
            await page.until("document.getElementById('trouble').textContent.includes('may not use the camera')")

    run(test)


def test_everything_can_be_reached_by_keyboard_and_has_a_name(server: Server) -> None:
    async def test() -> None:
        async with showing(server, None) as page:
            await page.call("Accessibility.enable")
            nodes = (await page.call("Accessibility.getFullAXTree"))["nodes"]
            kinds = {"button", "slider", "radio", "checkbox"}
            controls = [
                node for node in nodes if node.get("role", {}).get("value") in kinds and not node.get("ignored")
            ]
            assert len(controls) >= 10
            assert all(node["name"]["value"] for node in controls), controls
            overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            await page.call(
                "Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True
            )
            assert await page.js(overflow) == 0

    run(test)
