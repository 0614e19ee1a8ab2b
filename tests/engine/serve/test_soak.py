"""A server of the page in a process of its own, for many minutes, with clients that behave badly.

`SOAK_MINUTES=20 python -m pytest -m slow tests/engine/serve/test_soak.py -s` prints what happened.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.engine.serve.conftest import Numbered, Peer
from tests.media import Audio, make_video

MINUTES = float(os.environ.get("SOAK_MINUTES", "1"))
STYLE_SECONDS = 10.0

# How much the server's memory may have grown from the second quarter to the last one.
MOST_GROWTH_MIB = 16.0

GARBAGE = [
    b"{",
    b"[]",
    b'{"sdp": 1, "type": "offer"}',
    b'{"sdp": "v=0", "type": "offer"}',
    b'{"sdp": "v=0", "type": "answer"}',
    b'{"sdp": "' + b"x" * 3_000_000 + b'", "type": "offer"}',
    b"\xff" * 1000,
]


class Interrupted(Numbered):
    """A camera that freezes for some seconds now and then."""

    async def recv(self) -> Any:
        if self.sent and self.sent % 400 == 0:
            await asyncio.sleep(3.0)
        return await super().recv()


class Server:
    """`python -m engine.serve`, and what it leaves."""

    def __init__(self, folder: Path, styles: list[str]) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        command = [sys.executable, "-m", "engine.serve", "--port", "0", "--size", "320x180", "--most-sessions", "3"]
        self.process = subprocess.Popen(
            [*command, *(f"--style={style}" for style in styles)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"TMPDIR": str(self.temporary)},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.url = found[0]
                return
        raise AssertionError("the server ended")

    @property
    def memory_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def left_running(self) -> list[str]:
        """Processes of its session."""
        listed = subprocess.run(["ps", "-o", "pid=,args=", "-s", str(self.process.pid)], capture_output=True, text=True)
        return listed.stdout.splitlines()


class Soak:
    """Clients of all kinds until `end`."""

    def __init__(self, server: Server, client: aiohttp.ClientSession, film: bytes) -> None:
        self.server, self.client, self.film = server, client, film
        self.end = time.monotonic() + 60 * MINUTES
        self.memory: list[float] = []
        self.done: Counter[str] = Counter()
        self.chance = random.Random(0)
        self.watch = ""

    async def run(self) -> None:
        clients = (self.stay, self.come_and_go, self.come_and_go, self.look_on, self.talk_nonsense, self.upload)
        await asyncio.gather(*(client() for client in (*clients, self.sample)))

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.end

    async def stay(self) -> None:
        """Two tabs would be two of these: one that stays, with a style every ten seconds; the others come and go."""
        async with Peer(self.client, Interrupted(size=(320, 180), rate=40)) as peer:  # type: ignore[arg-type]
            assert await peer.connect() == 200
            self.watch, style = peer.watch, 0
            beating = asyncio.ensure_future(self.beat(peer))
            while self.goes_on:
                await asyncio.sleep(min(STYLE_SECONDS, max(0.0, self.end - time.monotonic())))
                style = 1 - style
                peer.channel.send(json.dumps({"style": style, "strength": self.chance.random()}))
                peer.channel.send("x" * 60_000)
                assert peer.frames
                peer.frames.clear()
                await peer.received(3)
                self.done["styles"] += 1
            self.watch = ""
            beating.cancel()

    async def beat(self, peer: Peer) -> None:
        """As the page says that it is there."""
        while peer.channel.readyState in ("connecting", "open"):
            if peer.channel.readyState == "open":
                peer.channel.send("{}")
            await asyncio.sleep(2.0)

    async def come_and_go(self) -> None:
        while self.goes_on:
            peer = Peer(self.client, Numbered(size=(160, 90), rate=20))  # type: ignore[arg-type]
            status = await peer.connect()
            assert status in (200, 503)
            if status == 200:
                beating = asyncio.ensure_future(self.beat(peer))
                await peer.received(self.chance.randint(1, 20))
                beating.cancel()
            if self.chance.random() < 0.3 and status == 200:  # without a word: as a browser that is killed
                for transceiver in peer.connection.getTransceivers():
                    await transceiver.sender.transport.transport.stop()
                self.done["vanished"] += 1
            await peer.__aexit__()
            self.done["refused" if status == 503 else "came"] += 1
            await asyncio.sleep(self.chance.uniform(0.0, 2.0))

    async def look_on(self) -> None:
        while self.goes_on:
            await asyncio.sleep(self.chance.uniform(0.5, 3.0))
            if not self.watch:
                continue
            async with Peer(self.client) as peer:  # type: ignore[arg-type]
                if await peer.connect(watch=self.watch) != 200:
                    continue
                try:
                    await peer.received(5)
                except asyncio.TimeoutError:
                    assert not self.watch  # who is watched has left
                self.done["watched"] += 1

    async def talk_nonsense(self) -> None:
        while self.goes_on:
            for body in GARBAGE:
                async with self.client.post(
                    "/offer", data=body, headers={"Content-Type": "application/json"}
                ) as answer:
                    assert 400 <= answer.status < 500 or answer.status == 503, (body[:40], answer.status)
                    self.done["nonsense"] += 1
            await asyncio.sleep(2.0)

    async def upload(self) -> None:
        while self.goes_on:
            for body, state in ((b"no video", "failed"), (self.film, "done")):
                async with self.client.post("/uploads", data=body, params={"name": "../film.mp4"}) as answer:
                    assert answer.status == 201
                    upload = (await answer.json())["upload"]
                job: dict[str, Any] = {"state": ""}
                while job["state"] not in ("done", "failed"):
                    await asyncio.sleep(0.2)
                    async with self.client.get(f"/uploads/{upload}") as answer:
                        job = await answer.json()
                assert job["state"] == state, job
                async with self.client.delete(f"/uploads/{upload}") as answer:
                    assert answer.status == 200
            self.done["uploads"] += 1
            await asyncio.sleep(5.0)

    async def sample(self) -> None:
        while self.goes_on:
            self.memory.append(self.server.memory_mib)
            async with self.client.get("/healthz") as answer:
                assert answer.status == 200
            await asyncio.sleep(1.0)


async def frames_of(client: aiohttp.ClientSession) -> dict[str, int]:
    async with client.get("/metrics") as answer:
        text = await answer.text()
    return {name: int(count) for name, count in re.findall(r'frames_total\{state="(\w+)"\} (\d+)', text)} | {
        "sessions": int(re.search(r"^streamgan_sessions (\d+)", text, re.M)[1])  # type: ignore[index]
    }


@pytest.mark.slow
@pytest.mark.time_limit(int(60 * MINUTES) + 300)
def test_a_server_stays_well(styles: list[str], tmp_path: Path) -> None:
    film = make_video(tmp_path / "film.mp4", audio=(Audio(seconds=0.4),)).read_bytes()
    server = Server(tmp_path, styles)

    async def soak() -> Soak:
        async with aiohttp.ClientSession(server.url) as client:
            soak = Soak(server, client, film)
            await soak.run()
            counts: dict[str, int] = {}

            async def are_gone() -> bool:
                counts.update(await frames_of(client))
                return not counts["sessions"]

            for _ in range(60):
                if await are_gone():
                    break
                await asyncio.sleep(1.0)
            counts.update(await frames_of(client))
            memory = [round(value) for value in soak.memory[:: max(1, len(soak.memory) // 20)]]
            print(dict(soak.done), counts, f"memory in MiB: {memory}")
            assert not counts["sessions"]
            assert counts["received"] == counts["shown"] + counts["dropped"] > 100
            return soak

    try:
        result = asyncio.run(soak())
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(15) in (0, 130)
        assert server.left_running() == []
        assert list(server.temporary.iterdir()) == []
    finally:
        server.process.kill()
        server.process.wait()
    quarter = len(result.memory) // 4
    second, last = result.memory[quarter : 2 * quarter], result.memory[-quarter:]
    growth = statistics.median(last) - statistics.median(second)
    print(f"memory grew by {growth:.1f} MiB from the second quarter to the last")
    assert growth <= MOST_GROWTH_MIB
    assert all(result.done[name] for name in ("styles", "came", "vanished", "watched", "nonsense", "uploads"))
