"""The output as a camera that other programs can open, through pyvirtualcam."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from engine.device import host_image
from engine.errors import SinkError, first_line
from engine.video.base import Frame, Sink

_NO_DEVICE = (
    "on Linux: apt-get install v4l2loopback-dkms && modprobe v4l2loopback exclusive_caps=1 (with exclusive_caps=0 "
    "Chrome does not see it, with 1 Zoom's snap does not); elsewhere install OBS and start its virtual camera once"
)


class VirtualCameraSink(Sink):
    """Sends frames to a virtual camera; a frame of another size opens it again.

    Args:
        rate: frames per second that the camera announces.
        is_paced: keep to that rate, as for a file; live sources have their own.

    Raises:
        SinkError: pyvirtualcam is not installed.
    """

    def __init__(self, rate: Fraction, *, is_paced: bool = False) -> None:
        try:
            import pyvirtualcam
        except ImportError as error:
            raise SinkError(
                "--virtual-camera: pyvirtualcam is not installed: pip install 'streamgan[virtual-camera]'"
            ) from error
        self._pyvirtualcam: Any = pyvirtualcam
        self._rate, self._is_paced = float(rate), is_paced
        self._camera: Any = None
        self._opened = ""

    def write(self, frame: Frame) -> None:
        """Sends a frame.

        Raises:
            SinkError: there is no virtual camera.
        """
        image = np.ascontiguousarray(host_image(frame.image))
        height, width = image.shape[:2]
        if self._camera is not None and (self._camera.width, self._camera.height) != (width, height):
            self._close()
        try:
            if self._camera is None:
                pixel_format = self._pyvirtualcam.PixelFormat.BGR
                self._camera = self._pyvirtualcam.Camera(width, height, self._rate, fmt=pixel_format)
                self._opened = str(self._camera.device)
            self._camera.send(image)
            if self._is_paced:
                self._camera.sleep_until_next_frame()
        except (RuntimeError, OSError, ValueError) as error:
            raise SinkError(f"--virtual-camera: there is none ({first_line(error)}); {_NO_DEVICE}") from error

    def finish(self, *, is_cut: bool = False) -> None:
        self._close()

    def abort(self) -> None:
        self._close()

    @property
    def warnings(self) -> list[str]:
        return [f"the virtual camera was {self._opened}"] if self._opened else []

    def _close(self) -> None:
        if self._camera is not None:
            self._camera.close()
            self._camera = None
