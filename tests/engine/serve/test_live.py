"""Live sessions over WebRTC: the newest frames, translated, to all who watch."""

from __future__ import annotations

import asyncio
import gc
import weakref

import numpy as np
from av import VideoFrame

from engine.serve.broadcast import Viewer
from engine.translator import Translator
from engine.video.color import Color, ToBgr
from tests.engine.serve.conftest import Numbered, Peer, Serve, picture, run, until


def grey(frame: VideoFrame) -> float:
    return grey_of(ToBgr(Color(matrix=6), frame.width, frame.height)(frame))


def test_frames_come_back_translated(serve: Serve, styles: list[str]) -> None:
    """In the style that is chosen, at the strength that is chosen; pixels are those of the translator."""

    async def test() -> None:
        async with serve() as served, Peer(served.client, Numbered(rate=10)) as peer:
            assert await peer.connect() == 200
            levels = {round(grey(frame)) for frame in await peer.received(24)}
            assert len(levels) >= 12  # they move
            sent = [8 + 15 * number for number in range(16)]
            assert all(min(abs(level - one) for one in sent) <= 3 for level in levels), levels

            peer.channel.send('{"style": 1}')
            await until(lambda: peer.statuses and peer.statuses[-1]["style"] == "other")
            translator = Translator(styles[1], backend="eager", precision="fp32")
            expected = [grey_of(np.asarray(translator(picture(number)))) for number in range(16)]
            await peer.received(5)
            for frame in await peer.received(10):
                assert min(abs(grey(frame) - one) for one in expected) <= 3

            peer.channel.send('{"strength": 0}')
            await peer.received(5)
            for frame in await peer.received(10):
                assert min(abs(grey(frame) - one) for one in sent) <= 3

    run(test())


def grey_of(image: np.ndarray) -> float:
    return float(image.mean())


def test_every_frame_is_counted_once(serve: Serve) -> None:
    async def test() -> None:
        async with serve() as served:
            async with Peer(served.client, Numbered(rate=200)) as peer:
                await peer.connect()
                (session,) = served.machine.sessions.values()
                translate = session.switcher.submit

                def slowly(frames: np.ndarray) -> object:
                    import time

                    time.sleep(0.02)
                    return translate(frames)

                session.switcher.submit = slowly  # type: ignore[assignment]
                await peer.received(40)
                assert session.dropped > 10
            await until(lambda: not served.machine.sessions)
            await until(lambda: not session.under_way)
            assert session.received == session.shown + session.dropped
            counts = {"received": session.received, "shown": session.shown, "dropped": session.dropped}
            assert served.machine.totals() == counts
            assert served.machine.totals() == counts

    run(test())


def test_watchers_see_the_same_encoding(serve: Serve) -> None:
    async def test() -> None:
        async with serve() as served, Peer(served.client) as peer:
            await peer.connect()
            await peer.received(3)
            async with Peer(served.client) as one, Peer(served.client) as two:
                assert await one.connect(watch=peer.watch) == 200
                assert await two.connect(watch=peer.watch) == 200
                await one.received(10)
                await two.received(10)
                await until(lambda: peer.statuses[-1]["viewers"] == 3)
                assert len(served.machine.sessions) == 1
                assert await Peer(served.client).connect(watch="no such one") == 404
            await until(lambda: peer.statuses[-1]["viewers"] == 1)

    run(test())


def test_a_full_machine_refuses(serve: Serve) -> None:
    async def test() -> None:
        async with serve(most_sessions=1) as served, Peer(served.client) as peer, Peer(served.client) as other:
            assert await peer.connect() == 200
            assert await other.connect() == 503
            await peer.received(1)
            await peer.connection.close()
            await until(lambda: not served.machine.sessions)
            async with Peer(served.client) as third:
                assert await third.connect() == 200

    run(test())


def test_a_session_that_has_ended_is_forgotten(serve: Serve) -> None:
    """Whether anybody asks for `/metrics` or not: it has an encoder."""

    async def test() -> None:
        async with serve() as served:
            ended = []
            for _ in range(3):
                async with Peer(served.client) as peer:
                    await peer.connect()
                    await peer.received(1)
                    (session,) = served.machine.sessions.values()
                    ended.append(weakref.ref(session))
                    del session
                await until(lambda: not served.machine.sessions)
            gc.collect()
            assert [session() for session in ended[:2]] == [None, None]

    run(test())


def test_two_sessions_share_the_machine(serve: Serve) -> None:
    async def test() -> None:
        async with serve() as served, Peer(served.client) as one, Peer(served.client) as two:
            await one.connect()
            await two.connect()
            await asyncio.gather(one.received(20), two.received(20))
            shown = [session.shown for session in served.machine.sessions.values()]
            assert min(shown) > 0.3 * max(shown)

    run(test())


def test_a_frame_of_another_size_goes_on(serve: Serve) -> None:
    """A camera that turns; and larger frames are scaled down to the machine's size, with even sides."""

    async def test() -> None:
        track = Numbered()
        async with serve() as served, Peer(served.client, track) as peer:
            await peer.connect()
            await peer.received(3)
            track._size = (334, 518)
            await until(lambda: peer.statuses and peer.statuses[-1]["size"] == [100, 154])
            (frame, *_) = (await peer.received(20))[-1:]
            assert (frame.width, frame.height) == (100, 154)

    run(test())


def test_nonsense_on_the_channel_changes_nothing(serve: Serve) -> None:
    async def test() -> None:
        async with serve() as served, Peer(served.client) as peer:
            await peer.connect()
            await peer.received(3)
            wrong = ["", "{", "[]", "1", '{"style": 7}', '{"style": true}', '{"strength": 2}', '{"strength": "x"}']
            for message in [*wrong, b"\0\1", "x" * 60_000]:
                peer.channel.send(message)
            await peer.received(5)
            (session,) = served.machine.sessions.values()
            assert (session.composition.strength, session.failure) == (1.0, "")

    run(test())


def test_a_slow_viewer_gets_fewer_frames_not_older_ones() -> None:
    async def test() -> None:
        import av

        wanted = []
        viewer = Viewer("H264", lambda: wanted.append(1))

        def packet(number: int, *, is_key: bool = False) -> av.Packet:
            one = av.Packet(bytes([number]))
            one.pts, one.is_keyframe = number, is_key
            return one

        viewer.push(packet(0))  # nothing before a key frame
        assert (viewer.dropped, len(wanted)) == (1, 1)
        for number in range(1, 6):
            viewer.push(packet(number, is_key=number == 1))
        assert len(wanted) > 1  # it does not take them, so it waits for a key frame
        viewer.push(packet(6, is_key=True))
        viewer.push(packet(7))
        assert [(await viewer.recv()).pts for _ in range(2)] == [6, 7]
        assert viewer.dropped == 6

    run(test())
