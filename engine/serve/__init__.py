"""Live translation in the browser: `python -m engine.serve`, or `streamgan serve`.

browser --WebRTC--> Session (newest frame) --> Machine (one thread) --> Broadcast (one encoder) --WebRTC--> browsers
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import secrets
import signal
import ssl
import sys
from pathlib import Path

from engine.allocator import keep_freed_memory
from engine.command_line import command_name, errors_in_one_line
from engine.errors import BackendError, EngineError
from engine.serve.probe import Limits
from engine.sizes import parse_size

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def build_parser() -> argparse.ArgumentParser:
    """The command line of `python -m engine.serve`."""
    parser = argparse.ArgumentParser(
        prog=command_name("engine.serve"),
        description="Serve a page that translates a webcam or a video live, and uploaded videos.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8080, help="0: a free one (default: %(default)s)")
    parser.add_argument(
        "--token", help="what clients must know; made and printed where --host is not this machine (default: none)"
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate; browsers give no camera without")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key")
    parser.add_argument("--style", action="append", metavar="NAME|FILE", help="to offer; default: all bundled ones")
    parser.add_argument("--size", type=parse_size, default=(640, 360), metavar="WxH", help="most pixels of live frames")
    parser.add_argument("--most-sessions", type=int, default=4, metavar="N", help="live at the same time (default: 4)")
    parser.add_argument("--backend", default="auto", help="see streamgan run (default: %(default)s)")
    parser.add_argument("--precision", default="auto", help="see streamgan run (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the generator (default: all cores)")
    parser.add_argument("--upload-mib", type=int, default=2048, metavar="N", help="largest upload (default: 2048)")
    parser.add_argument(
        "--upload-seconds", type=float, default=1800, metavar="S", help="longest upload (default: 1800)"
    )
    return parser


@errors_in_one_line
def main(arguments: list[str] | None = None) -> int:
    """Serves until it is stopped; returns the exit status."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(format="note: %(message)s", level=logging.ERROR)
    logging.getLogger("streamgan").setLevel(logging.WARNING)
    try:
        import aiohttp  # noqa: F401
        import aiortc  # noqa: F401
    except ImportError as error:
        raise BackendError(f"{error.name} is not installed: pip install 'streamgan[live]'") from error
    if bool(options.tls_cert) != bool(options.tls_key):
        raise BackendError("--tls-cert and --tls-key belong together")
    keep_freed_memory()
    try:
        asyncio.run(_serve(options))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


async def _serve(options: argparse.Namespace) -> None:
    from aiohttp import web

    from engine.serve.sessions import Machine
    from engine.serve.uploads import Uploads
    from engine.serve.web import Server, keep_to_address
    from engine.styles import list_styles, locate_generator

    is_local = _is_loopback(options.host)
    token = options.token or ("" if is_local else secrets.token_urlsafe(16))
    styles = options.style or [style.name for style in list_styles()]
    for style in styles:
        locate_generator(style)
    context = None
    if options.tls_cert:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.tls_cert, options.tls_key)
    keep_to_address(options.host)
    machine = Machine(
        styles,
        most_sessions=options.most_sessions,
        most_pixels=options.size[0] * options.size[1],
        backend=options.backend,
        precision=options.precision,
        device=options.device,
        threads=options.threads,
    )
    uploads = Uploads(Limits(bytes=options.upload_mib << 20, seconds=options.upload_seconds))
    hosts = _LOOPBACK_NAMES if is_local else frozenset()
    server = Server(machine, uploads, token=token, hosts=hosts)
    runner = web.AppRunner(server.application(), access_log=None, handle_signals=False)
    await runner.setup()
    stopped = _stop_event()
    try:
        site = web.TCPSite(runner, options.host, options.port, ssl_context=context)
        try:
            await site.start()
        except OSError as error:
            raise EngineError(f"can't listen on {options.host}:{options.port}: {error.strerror}") from error
        port = runner.addresses[0][1]
        scheme = "https" if context else "http"
        name = f"[{options.host}]" if ":" in options.host else options.host
        print(f"{scheme}://{name}:{port}/" + (f"#token={token}" if token else ""), flush=True)
        if not is_local and context is None:
            print(
                "note: browsers give a camera to https and to this machine only: --tls-cert, --tls-key", file=sys.stderr
            )
        await stopped.wait()
    finally:
        await runner.cleanup()
        machine.stop()


def _stop_event() -> asyncio.Event:
    """An event that SIGINT and SIGTERM set."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
