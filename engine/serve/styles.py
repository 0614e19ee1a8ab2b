"""The styles that the page offers, each with a picture that it made itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from engine.errors import EngineError
from engine.samples import SAMPLE
from engine.serve.sessions import Machine
from engine.styles import list_styles

_WIDTH, _HEIGHT = 320, 180

# The frame of the sample clip that is shown.
_FRAME = 60


class Gallery:
    """What each style of a machine is called and looks like."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._pictures: dict[str, bytes] = {}

    def styles(self) -> list[dict[str, Any]]:
        """Names and descriptions, in the machine's order."""
        bundled = {style.name: style.description for style in list_styles()}
        return [{"name": Path(style).stem, "description": bundled.get(style, "")} for style in self._machine.styles]

    async def picture(self, style: str) -> bytes:
        """A frame of the sample clip in a style, as JPEG.

        Raises:
            EngineError: the style can't be loaded.
        """
        if style not in self._pictures:
            loop = asyncio.get_running_loop()
            made: asyncio.Future[bytes] = loop.create_future()

            def make() -> None:
                try:
                    picture = _encoded(np.asarray(self._machine.translator(style)(_sample())))
                except EngineError as error:
                    loop.call_soon_threadsafe(made.set_exception, error)
                else:
                    loop.call_soon_threadsafe(made.set_result, picture)

            self._machine.call(make)
            self._pictures[style] = await made
        return self._pictures[style]


def _sample() -> np.ndarray:
    capture = cv2.VideoCapture(str(SAMPLE))
    capture.set(cv2.CAP_PROP_POS_FRAMES, _FRAME)
    _, frame = capture.read()
    capture.release()
    return cv2.resize(frame, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA)


def _encoded(image: np.ndarray) -> bytes:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return data.tobytes()
