"""The web server: the page, WebRTC offers, uploads, and what keeps strangers out."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

from aiohttp import web
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaRelay
from aiortc.mediastreams import MediaStreamError

from engine.errors import EngineError
from engine.serve.broadcast import ENCODERS, Broadcast, Viewer
from engine.serve.metrics import exposition
from engine.serve.sessions import BusyError, Machine, Session
from engine.serve.styles import Gallery
from engine.serve.uploads import UploadError, Uploads

logger = logging.getLogger("streamgan")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# An offer is some kilobytes.
_MOST_OFFER_BYTES = 256 << 10
_MOST_MESSAGE_BYTES = 4 << 10

# A browser that says nothing for so long is gone.
_SILENCE_SECONDS = 15.0
_STATUS_SECONDS = 0.5

_COOKIE = "streamgan_token"

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(self), display-capture=(self)",
    "Cache-Control": "no-store",
}

_PAGE_FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}

# Everybody may load the page, which then asks for the token. It holds nothing.
_OPEN_PATHS = {*_PAGE_FILES, "/icon", "/healthz", "/login"}


class Server:
    """The web application and the connections that it has open.

    Args:
        machine: translates.
        uploads: translates files.
        token: what a client must present; "" lets everybody in who reaches the server.
        hosts: the names under which browsers may ask for the server; empty: any.
    """

    def __init__(
        self, machine: Machine, uploads: Uploads, *, token: str = "", hosts: frozenset[str] = frozenset()
    ) -> None:
        self._machine, self._uploads = machine, uploads
        self._token, self._hosts = token, hosts
        self._gallery = Gallery(machine)
        self._relay = MediaRelay()
        self._live: dict[str, Live] = {}  # by the session's token
        self._connections: set[RTCPeerConnection] = set()

    def application(self) -> web.Application:
        """The routes, with checks before each of them."""
        application = web.Application(middlewares=[self._guard], client_max_size=_MOST_OFFER_BYTES)
        application.add_routes(
            [
                *(web.get(path, self._page) for path in _PAGE_FILES),
                web.get("/icon", self._icon),
                web.get("/healthz", self._health),
                web.post("/login", self._log_in),
                web.get("/metrics", self._metrics),
                web.get("/styles", self._styles),
                web.get("/styles/{number}/picture", self._picture),
                web.post("/offer", self._offer),
                web.post("/uploads", self._upload),
                web.get("/uploads/{upload}", self._upload_status),
                web.get("/uploads/{upload}/result", self._result),
                web.delete("/uploads/{upload}", self._remove_upload),
            ]
        )
        application.on_shutdown.append(self._shut_down)
        return application

    # --- who may do what ---

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._check(request)
            response = await handler(request)
        except web.HTTPException as refusal:
            if not refusal.prepared:
                refusal.headers.update(_HEADERS)
            raise
        except (EngineError, UploadError) as error:
            status = 503 if isinstance(error, BusyError) else 400
            response = web.json_response({"error": str(error)}, status=status)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    def _check(self, request: web.Request) -> None:
        """Refuses requests for another host, from another origin, or without the token."""
        host = request.host.rpartition(":")[0] if request.host[-1:].isdigit() and ":" in request.host else request.host
        if self._hosts and host.strip("[]").lower() not in self._hosts:
            raise _refusal(web.HTTPForbidden, f"this server is not called {host!r}: start it with --host {host}")
        origin = request.headers.get("Origin")
        if origin is not None and origin.partition("://")[2] != request.host:
            raise _refusal(web.HTTPForbidden, "requests from other sites are refused")
        if self._token and request.path not in _OPEN_PATHS and not self._knows_token(request):
            raise _refusal(web.HTTPUnauthorized, "the token is missing or wrong: open the link that the server printed")

    def _knows_token(self, request: web.Request) -> bool:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ") or request.cookies.get(_COOKIE, "")
        return hmac.compare_digest(given.encode(), self._token.encode())

    async def _log_in(self, request: web.Request) -> web.Response:
        """Keeps the token, which came in the link, in a cookie."""
        given = (await _json(request)).get("token")
        if not isinstance(given, str) or not hmac.compare_digest(given.encode(), self._token.encode()):
            raise _refusal(web.HTTPUnauthorized, "the token is wrong")
        response = web.json_response({})
        response.set_cookie(_COOKIE, given, httponly=True, samesite="Strict", secure=request.secure)
        return response

    # --- the page ---

    async def _page(self, request: web.Request) -> web.Response:
        name = _PAGE_FILES[request.path]
        text = (resources.files("engine.serve") / "page" / name).read_text("utf-8")
        return web.Response(text=text, content_type=_TYPES[name.partition(".")[2]], charset="utf-8")

    async def _icon(self, request: web.Request) -> web.Response:
        return web.Response(body=await self._gallery.picture(self._machine.styles[0]), content_type="image/jpeg")

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "sessions": len(self._machine.sessions)})

    async def _metrics(self, request: web.Request) -> web.Response:
        viewers = sum(len(live.broadcast.viewers) for live in self._live.values())
        text = exposition(self._machine, viewers=viewers, uploads=self._uploads.counts)
        return web.Response(text=text, content_type="text/plain", charset="utf-8")

    async def _styles(self, request: web.Request) -> web.Response:
        return web.json_response(self._gallery.styles())

    async def _picture(self, request: web.Request) -> web.Response:
        number = request.match_info["number"]
        styles = self._machine.styles
        if not number.isascii() or not number.isdigit() or int(number) >= len(styles):
            raise _refusal(web.HTTPNotFound, "there is no such style")
        picture = await self._gallery.picture(styles[int(number)])
        return web.Response(body=picture, content_type="image/jpeg")

    # --- live ---

    async def _offer(self, request: web.Request) -> web.Response:
        """Answers a WebRTC offer: `{sdp, type}`, with `watch` of someone who only watches."""
        offer = await _json(request)
        sdp, kind, watch = offer.get("sdp"), offer.get("type"), offer.get("watch")
        if not isinstance(sdp, str) or kind != "offer":
            raise _refusal(web.HTTPBadRequest, "an offer is expected: {sdp, type: 'offer'}")
        if watch is not None:
            live = next((live for live in self._live.values() if live.session.watch_token == watch), None)
            if live is None:
                raise _refusal(web.HTTPNotFound, "what this link showed has ended")
            return await self._answer(sdp, live, is_owner=False)
        live = Live(self._machine.open(), asyncio.get_running_loop())
        self._live[live.session.token] = live
        try:
            return await self._answer(sdp, live, is_owner=True)
        except BaseException:
            await self._end(live)
            raise

    async def _answer(self, sdp: str, live: Live, *, is_owner: bool) -> web.Response:
        # Without servers: nobody else learns that there is a connection.
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._connections.add(connection)
        viewer: Viewer | None = None

        async def end() -> None:
            self._connections.discard(connection)
            if viewer is not None:
                live.broadcast.remove(viewer)
            await connection.close()
            if is_owner:
                await self._end(live)

        if is_owner:

            @connection.on("track")
            def on_track(track: Any) -> None:
                live.take(track, self._relay)

            @connection.on("datachannel")
            def on_datachannel(channel: Any) -> None:
                live.listen(channel, end)

        @connection.on("connectionstatechange")
        async def on_change() -> None:
            if connection.connectionState in ("failed", "closed"):
                await end()

        try:
            codec = next((name for name in ENCODERS if f" {name}/90000" in sdp), None)
            if codec is None:
                raise _refusal(web.HTTPBadRequest, "the offer has no video that this server knows (H.264 or VP8)")
            viewer = live.broadcast.add(codec)
            sender = connection.addTrack(viewer)
            _prefer(connection.getTransceivers()[0], codec)
            # aiortc tells only the sender, in which there is no encoder, that a browser wants a key frame.
            setattr(sender, "_send_keyframe", live.broadcast.want_key)  # noqa: B010 - no method of ours
            await connection.setRemoteDescription(RTCSessionDescription(sdp=sdp, type="offer"))
            if live.sound is not None and any(one.kind == "audio" for one in connection.getTransceivers()):
                connection.addTrack(self._relay.subscribe(live.sound))
            answer = await connection.createAnswer()
            await connection.setLocalDescription(answer)

            @sender.transport.on("statechange")
            async def on_transport_change() -> None:
                if sender.transport.state in ("failed", "closed"):  # the browser has closed it
                    await end()

        except web.HTTPException:
            await end()
            raise
        except Exception as error:  # aiortc raises all kinds for what is no SDP
            await end()
            raise _refusal(web.HTTPBadRequest, f"the offer can't be read ({type(error).__name__})") from error
        if is_owner:
            live.watch_connection(end)
        told = {"sdp": connection.localDescription.sdp, "type": connection.localDescription.type}
        if is_owner:
            told["watch"] = live.session.watch_token
        return web.json_response(told)

    async def _end(self, live: Live) -> None:
        if self._live.pop(live.session.token, None) is not None:
            await live.stop()
            self._machine.close(live.session)

    async def _shut_down(self, application: web.Application) -> None:
        for live in list(self._live.values()):
            await self._end(live)
        await asyncio.gather(*(connection.close() for connection in list(self._connections)))
        await self._uploads.stop()

    # --- files ---

    async def _upload(self, request: web.Request) -> web.Response:
        style = request.query.get("style", "0")
        if not style.isascii() or not style.isdigit() or int(style) >= len(self._machine.styles):
            raise _refusal(web.HTTPBadRequest, "there is no such style")
        upload = await self._uploads.receive(
            request.content, name=request.query.get("name", ""), style=self._machine.styles[int(style)]
        )
        return web.json_response({"upload": upload}, status=201)

    async def _upload_status(self, request: web.Request) -> web.Response:
        return web.json_response(self._uploads.status(request.match_info["upload"]))

    async def _result(self, request: web.Request) -> web.StreamResponse:
        path, name = self._uploads.result(request.match_info["upload"])
        disposition = f'attachment; filename="{name}"'
        return web.FileResponse(path, headers={**_HEADERS, "Content-Disposition": disposition})

    async def _remove_upload(self, request: web.Request) -> web.Response:
        await self._uploads.remove(request.match_info["upload"])
        return web.json_response({})


class Live:
    """A session with its source, its sound and those who watch.

    Args:
        session: translates.
        loop: where the connections are.
    """

    def __init__(self, session: Session, loop: asyncio.AbstractEventLoop) -> None:
        self.session = session
        self.broadcast = Broadcast(session, loop)
        self.sound: Any = None
        self._heard = loop.time()
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, track: Any, relay: MediaRelay) -> None:
        """Takes the source's picture or sound."""
        if track.kind == "audio":
            self.sound = track
        else:
            self._start(self._receive(track))

    def listen(self, channel: Any, end: Callable[[], Awaitable[None]]) -> None:
        """Does what the page says: `{style}`, `{strength}`, or nothing, to show that it is there."""

        @channel.on("message")
        def on_message(message: Any) -> None:
            self._heard = asyncio.get_running_loop().time()
            if not isinstance(message, str) or len(message) > _MOST_MESSAGE_BYTES:
                return
            with contextlib.suppress(ValueError):
                self._obey(json.loads(message))

        self._start(self._tell(channel))

    def watch_connection(self, end: Callable[[], Awaitable[None]]) -> None:
        """Ends the session when its page says nothing any more."""

        async def watch() -> None:
            loop = asyncio.get_running_loop()
            self._heard = loop.time()
            while loop.time() - self._heard < _SILENCE_SECONDS:
                await asyncio.sleep(1)
            asyncio.ensure_future(end())  # noqa: RUF006 - this task is cancelled by it

        self._start(watch())

    async def stop(self) -> None:
        """Ends everything that belongs to the session."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.broadcast.stop()

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _obey(self, told: Any) -> None:
        if not isinstance(told, dict):
            return
        style, strength = told.get("style"), told.get("strength")
        styles = self.session.switcher.styles
        if isinstance(style, int) and not isinstance(style, bool) and 0 <= style < len(styles):
            self.session.switcher.to(styles[style])
        if isinstance(strength, (int, float)) and not isinstance(strength, bool) and 0 <= strength <= 1:
            self.session.composition.strength = float(strength)

    async def _receive(self, track: Any) -> None:
        with contextlib.suppress(MediaStreamError):
            while not self.session.failure:
                self.session.put(await track.recv())

    async def _tell(self, channel: Any) -> None:
        while channel.readyState == "open":
            status = self.session.status() | {"viewers": len(self.broadcast.viewers)}
            channel.send(json.dumps(status))
            await asyncio.sleep(_STATUS_SECONDS)


def keep_to_address(host: str) -> None:
    """Offers browsers no other address of this machine than the one that the server listens on."""
    import aioice.ice

    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return
    if not address.is_unspecified:
        aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: [str(address)]


def _prefer(transceiver: Any, codec: str) -> None:
    """Asks for one codec, and takes others where the browser has no such one."""
    from aiortc import RTCRtpSender

    known = RTCRtpSender.getCapabilities("video").codecs
    named = f"video/{codec}"
    transceiver.setCodecPreferences([one for one in known if one.mimeType == named or one.mimeType == "video/rtx"])


async def _json(request: web.Request) -> dict[str, Any]:
    """The body of a request.

    Raises:
        HTTPBadRequest: it is not a JSON object.
    """
    try:
        body = await request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise _refusal(web.HTTPBadRequest, "a JSON object is expected")
    return body


def _refusal(kind: type[web.HTTPException], line: str) -> web.HTTPException:
    return kind(text=json.dumps({"error": line}), content_type="application/json")
