"""HDR (PQ and HLG, BT.2020) to standard dynamic range (BT.709), through one precomputed 3D table."""

from __future__ import annotations

import tempfile
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from engine.video.color import RANGE_FULL, TRANSFER_HLG, UNSPECIFIED, Color, ToBgr, yuv_side
from engine.video.pyav import import_av

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

# Nodes on each axis of the table. The axes are PQ or HLG signals, which are perceptually even.
TABLE_SIZE = 33

# Brightest light of the source in cd/m2: what nearly all HDR video is mastered for.
SOURCE_PEAK_NITS = 1000.0

# HDR reference white (ITU-R BT.2408) becomes the brightest light of the output before the highlights are compressed.
SDR_PEAK_NITS = 203.0

# Display gamma of standard dynamic range (ITU-R BT.1886).
SDR_GAMMA = 2.4

# Linear BT.2020 to linear BT.709 (ITU-R BT.2087).
_BT2020_TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]]
)
_BT709_LUMA = np.array([0.2126, 0.7152, 0.0722])
_BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593])

# SMPTE ST 2084.
_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128


def pq_to_nits(signal: np.ndarray) -> np.ndarray:
    """Light in cd/m2 of a PQ signal in 0..1 (SMPTE ST 2084)."""
    power = np.asarray(signal) ** (1 / _M2)
    return 10000.0 * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1)


def nits_to_pq(nits: np.ndarray | float) -> np.ndarray:
    """PQ signal in 0..1 of light in cd/m2 (SMPTE ST 2084)."""
    power = (np.maximum(nits, 0) / 10000.0) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


def hlg_to_nits(signal: np.ndarray) -> np.ndarray:
    """Light in cd/m2 on a 1000 cd/m2 display of HLG signals [..., 3] in 0..1 (ITU-R BT.2100, system gamma 1.2)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luma = scene @ _BT2020_LUMA
    return 1000.0 * scene * np.maximum(luma, 1e-6)[..., None] ** 0.2


def compress_highlights(nits: np.ndarray) -> np.ndarray:
    """The curve of ITU-R BT.2390: unchanged up to a knee near 90 cd/m2, then a Hermite spline to the SDR peak."""
    source_peak = nits_to_pq(SOURCE_PEAK_NITS)
    level = np.minimum(nits_to_pq(nits) / source_peak, 1)
    peak = nits_to_pq(SDR_PEAK_NITS) / source_peak
    knee = 1.5 * peak - 0.5
    t = np.maximum(level - knee, 0) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * peak
    return pq_to_nits(np.where(level < knee, level, spline) * source_peak)


def tone_map(signal: np.ndarray, transfer: int) -> np.ndarray:
    """SDR BT.709 signals in 0..1 of PQ or HLG BT.2020 signals [..., 3] in 0..1, in RGB order."""
    nits = hlg_to_nits(signal) if transfer == TRANSFER_HLG else pq_to_nits(signal)
    brightest = np.maximum(nits.max(axis=-1, keepdims=True), 1e-6)
    # One factor for the three channels keeps the hue.
    light = nits * (compress_highlights(brightest) / brightest) / SDR_PEAK_NITS
    light = light @ _BT2020_TO_BT709.T
    # Colours outside BT.709 are mixed with grey of their own luma until they fit.
    luma = np.clip(light @ _BT709_LUMA, 0, 1)[..., None]
    offset = light - luma
    with np.errstate(divide="ignore", invalid="ignore"):
        room = np.where(offset < 0, luma / -offset, np.where(offset > 0, (1 - luma) / offset, np.inf))
    light = luma + offset * np.minimum(room.min(axis=-1, keepdims=True), 1)
    return np.clip(light, 0, 1) ** (1 / SDR_GAMMA)


class ToneMapper:
    """Converts decoded HDR frames to BGR arrays of one size in standard dynamic range."""

    def __init__(self, color: Color, width: int, height: int) -> None:
        av = import_av()
        self._color = color
        self._size = (width, height)
        self._to_rgb = av.video.reformatter.VideoReformatter()
        self._to_bgr = ToBgr(Color(), width, height)
        with tempfile.NamedTemporaryFile("w", suffix=".cube") as file:
            file.write(_table(color.transfer))
            file.flush()
            self._graph = av.filter.Graph()
            source = self._graph.add_buffer(
                width=width, height=height, format=av.VideoFormat("gbrp12le"), time_base=Fraction(1, 1000)
            )
            table = self._graph.add("lut3d", file=file.name, interp="tetrahedral")
            self._graph.link_nodes(source, table, self._graph.add("buffersink")).configure()

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        width, height = self._size
        signal = self._to_rgb.reformat(
            frame,
            width,
            height,
            "gbrp12le",
            threads=1,
            dst_color_range=RANGE_FULL,
            **yuv_side("src", frame.format, self._color),
        )
        # The filter must see light as plain numbers: with HDR tags it would refuse to link or convert by itself.
        signal.color_trc = signal.color_primaries = UNSPECIFIED
        self._graph.vpush(signal)
        return self._to_bgr(self._graph.vpull())


def _table(transfer: int) -> str:
    """The table as a .cube file for FFmpeg's lut3d; red runs fastest."""
    axis = np.linspace(0, 1, TABLE_SIZE)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    table = tone_map(np.stack([red, green, blue], axis=-1).reshape(-1, 3), transfer)
    lines = [f"{r:.5f} {g:.5f} {b:.5f}\n" for r, g, b in table.tolist()]
    return f"LUT_3D_SIZE {TABLE_SIZE}\n" + "".join(lines)
