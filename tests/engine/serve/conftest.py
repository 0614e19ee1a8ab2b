"""A server on a free port, and a WebRTC client for it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("aiohttp", reason="aiohttp is not installed: pip install 'streamgan[live]'")
pytest.importorskip("aiortc", reason="aiortc is not installed: pip install 'streamgan[live]'")

from aiohttp.test_utils import TestClient, TestServer
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import VideoFrame

from engine import save_generator
from engine.generators import build
from engine.generators.resnet import ResNetConfig
from engine.serve.probe import Limits
from engine.serve.sessions import Machine
from engine.serve.uploads import Uploads
from engine.serve.web import Server, keep_to_address
from engine.video.color import Color, FromBgr
from tests.engine.small_generators import save_identity


@dataclasses.dataclass(frozen=True)
class Served:
    """A running server."""

    client: TestClient[Any, Any]
    machine: Machine
    uploads: Uploads


Serve = Callable[..., contextlib.AbstractAsyncContextManager[Served]]


@pytest.fixture(scope="session")
def styles(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A generator that changes nothing, and one that does."""
    folder = tmp_path_factory.mktemp("styles")
    torch.manual_seed(0)
    save_identity(folder / "same.safetensors")
    save_generator(build(ResNetConfig(width=4, blocks=1)), folder / "other.safetensors")
    return [str(folder / "same.safetensors"), str(folder / "other.safetensors")]


@pytest.fixture
def serve(styles: list[str]) -> Serve:
    @contextlib.asynccontextmanager
    async def serve(
        *, most_sessions: int = 2, token: str = "", hosts: frozenset[str] = frozenset(), limits: Limits | None = None
    ) -> AsyncIterator[Served]:
        keep_to_address("127.0.0.1")
        machine = Machine(
            styles, most_sessions=most_sessions, most_pixels=160 * 96, backend="eager", precision="fp32", threads=1
        )
        options = ("--backend", "eager", "--precision", "fp32")
        uploads = Uploads(limits or Limits(), most=2, options=options)
        server = Server(machine, uploads, token=token, hosts=hosts)
        async with TestClient(TestServer(server.application())) as client:
            yield Served(client, machine, uploads)
        machine.stop()

    return serve


def run(test: Awaitable[None]) -> None:
    """Runs an asynchronous test, with time for everything to end."""
    asyncio.run(asyncio.wait_for(test, 90))  # type: ignore[arg-type]


class Numbered(MediaStreamTrack):
    """Frames of one grey each: 16 steps, one after the other."""

    kind = "video"

    def __init__(self, *, size: tuple[int, int] = (160, 96), rate: int = 25) -> None:
        super().__init__()
        self.sent = 0
        self._size, self._rate = size, rate

    async def recv(self) -> VideoFrame:
        await asyncio.sleep(1 / self._rate)
        frame = FromBgr(Color(matrix=6), "yuv420p")(picture(self.sent % 16, self._size))
        frame.pts, frame.time_base = self.sent * 90000 // self._rate, Fraction(1, 90000)
        self.sent += 1
        return frame


def picture(number: int, size: tuple[int, int] = (160, 96)) -> np.ndarray:
    return np.full((size[1], size[0], 3), 8 + 15 * number, np.uint8)


class Peer:
    """What a page is for the server: sends frames, receives frames, has a control channel."""

    def __init__(self, client: TestClient[Any, Any], track: MediaStreamTrack | None = None) -> None:
        self._client = client
        self._track = track
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.statuses: list[dict[str, Any]] = []
        self.frames: list[VideoFrame] = []
        self.watch = ""
        self._arrived = asyncio.Event()
        self._receiving: asyncio.Task[None] | None = None

        @self.connection.on("track")
        def on_track(track: Any) -> None:
            self._receiving = asyncio.ensure_future(self._receive(track))

    async def __aenter__(self) -> Peer:
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
        await self.connection.close()

    async def connect(self, *, watch: str = "") -> int:
        """Sends an offer; returns the status of the answer."""
        if watch:
            self.connection.addTransceiver("video", direction="recvonly")
        else:
            self.connection.addTrack(self._track or Numbered())
            self.channel = self.connection.createDataChannel("control")
            self.channel.on("message", lambda message: self.statuses.append(json.loads(message)))
        await self.connection.setLocalDescription(await self.connection.createOffer())
        told = {"sdp": self.connection.localDescription.sdp, "type": "offer"} | ({"watch": watch} if watch else {})
        async with self._client.post("/offer", json=told) as response:
            answer = await response.json()
            if response.status == 200:
                self.watch = answer.get("watch", "")
                await self.connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
            return response.status

    async def received(self, count: int) -> list[VideoFrame]:
        """Waits for so many more frames, and returns them."""
        begin = len(self.frames)
        while len(self.frames) < begin + count:
            self._arrived.clear()
            await asyncio.wait_for(self._arrived.wait(), 20)
        return self.frames[begin:]

    async def _receive(self, track: Any) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                self.frames.append(await track.recv())
                self._arrived.set()


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
