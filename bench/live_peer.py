"""A server as in aiortc's example, for the page of `engine.serve`: what `python -m bench live` compares with.

Frames are translated one after the other where the track is asked for them, as the example's transforms are.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from importlib import resources
from typing import Any

from engine.styles import DEFAULT_STYLE
from engine.translator import Translator

_TYPES = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}


def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--style", default=DEFAULT_STYLE)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(options.port, Translator(options.style)))


async def _serve(port: int, translator: Translator) -> None:
    from aiohttp import web
    from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
    from av import VideoFrame

    class Transformed(MediaStreamTrack):
        kind = "video"

        def __init__(self, track: Any) -> None:
            super().__init__()
            self._track = track

        async def recv(self) -> Any:
            frame = await self._track.recv()
            translated = VideoFrame.from_ndarray(translator(frame.to_ndarray(format="bgr24")), format="bgr24")
            translated.pts, translated.time_base = frame.pts, frame.time_base
            return translated

    connections = set()

    async def file(request: web.Request) -> web.Response:
        name = request.path.lstrip("/") or "index.html"
        text = (resources.files("engine.serve") / "page" / name).read_text("utf-8")
        return web.Response(text=text, content_type=_TYPES[name])

    async def styles(request: web.Request) -> web.Response:
        return web.json_response([{"name": "style", "description": ""}])

    async def nothing(request: web.Request) -> web.Response:
        return web.Response()

    async def offer(request: web.Request) -> web.Response:
        told = await request.json()
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        connections.add(connection)

        @connection.on("track")
        def on_track(track: Any) -> None:
            if track.kind == "video":
                connection.addTrack(Transformed(track))

        await connection.setRemoteDescription(RTCSessionDescription(told["sdp"], told["type"]))
        await connection.setLocalDescription(await connection.createAnswer())
        answer = connection.localDescription
        return web.json_response({"sdp": answer.sdp, "type": answer.type})

    application = web.Application()
    application.add_routes([web.get(path, file) for path in ("/", "/page.css", "/page.js")])
    application.add_routes(
        [web.get("/styles", styles), web.get("/styles/0/picture", nothing), web.get("/icon", nothing)]
    )
    application.add_routes([web.post("/offer", offer)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
