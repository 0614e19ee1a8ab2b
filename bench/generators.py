"""The generators that speed is measured on, and what a frame costs in them. A new one is one entry in `GENERATORS`."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import nn

from engine.checkpoint import load_generator
from engine.errors import EngineError
from engine.generators import (
    AnimeGANConfig,
    Generator,
    GeneratorConfig,
    ResNetConfig,
    RRDBNetConfig,
    SRResNetConfig,
    SRVGGConfig,
    TransformerNetConfig,
    UNetConfig,
    build,
)
from engine.samples import SAMPLE
from engine.sizes import padded_size
from engine.styles import DEFAULT_STYLE


def _untrained(config: GeneratorConfig, *, output_std: float | None = None, side: int = 256) -> Callable[[], Generator]:
    """Weights as PyTorch initialises them: what a frame costs does not depend on their values.

    Args:
        output_std: the last convolution is scaled so that each channel of the output, for a real frame, is in the
            middle of its range and varies by this many grey levels. For a generator that would paint all but one grey,
            in which no error shows.
        side: of that frame, in pixels.
    """

    def make() -> Generator:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            generator = build(config).eval()
        if output_std is not None:
            _spread_output(generator, output_std, side)
        return generator

    return make


def _spread_output(generator: Generator, grey_levels: float, side: int) -> None:
    low, high = generator.output_range
    last = [layer for layer in generator.modules() if isinstance(layer, nn.Conv2d)][-1]
    with torch.inference_mode(False), torch.no_grad():
        output = generator(torch.from_numpy(generator_input(generator, real_frame(side, side))))
        std, mean = torch.std_mean(output, dim=(0, 2, 3))
        gain = grey_levels / 255 * (high - low) / std
        last.weight.mul_(gain[:, None, None, None])
        assert last.bias is not None
        last.bias.copy_((last.bias - mean) * gain + (low + high) / 2)


# Name -> how to get the generator: the full CycleGAN generator, a compact one, one of separable blocks (as in GAN
# Compression), pix2pix's, fast neural style's, AnimeGANv2's, Real-ESRGAN's two and MSRResNet, which enlarge four times,
# and the bundled trained style.
GENERATORS: dict[str, Callable[[], Generator]] = {
    "resnet9-64": _untrained(ResNetConfig(width=64, blocks=9)),
    "resnet6-16": _untrained(ResNetConfig(width=16, blocks=6)),
    "mobile9-32": _untrained(ResNetConfig(width=32, blocks=9, separable=True)),
    "unet256": _untrained(UNetConfig(width=64, downsamplings=8, norm="batch")),
    "transformer": _untrained(TransformerNetConfig(), output_std=25.0),
    "animegan": _untrained(AnimeGANConfig()),
    "srvgg": _untrained(SRVGGConfig()),
    "srresnet": _untrained(SRResNetConfig()),
    "rrdbnet": _untrained(RRDBNetConfig(), output_std=25.0, side=48),
    DEFAULT_STYLE: lambda: load_generator(DEFAULT_STYLE),
}

SIZES = ("256x256", "640x360", "1280x720", "1920x1080")


def make_generator(name: str) -> Generator:
    """The generator called `name`, or the one in the checkpoint file of that name; eval mode, float32, on the CPU.

    Raises:
        EngineError: there is neither.
    """
    generator = GENERATORS[name]() if name in GENERATORS else load_generator(name)
    return generator.eval().requires_grad_(False)


def real_frame(width: int, height: int) -> np.ndarray:
    """A frame of the sample clip at that size, uint8 [H, W, 3], BGR."""
    capture = cv2.VideoCapture(str(SAMPLE))
    capture.set(cv2.CAP_PROP_POS_FRAMES, 60)
    read, frame = capture.read()
    capture.release()
    if not read:
        raise EngineError(f"{SAMPLE}: the sample clip can't be read")
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def generator_input(generator: Generator, frame: np.ndarray) -> np.ndarray:
    """`frame` as the generator takes it: float32 [1, 3, H, W], RGB, in its input range, padded by reflection.

    The padding at the right and the bottom brings both sides to a multiple that the generator takes (256 for U-Net
    256, so 640x360 is run at 768x512), as the product does.
    """
    height, width = padded_size(generator, *frame.shape[:2])
    padded = cv2.copyMakeBorder(
        frame, 0, height - frame.shape[0], 0, width - frame.shape[1], borderType=cv2.BORDER_REFLECT_101
    )
    low, high = generator.input_range
    values = padded[:, :, ::-1].astype(np.float32) / 255 * (high - low) + low
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def output_bytes(generator: Generator, output: np.ndarray) -> np.ndarray:
    """A generator's output as the uint8 picture that parity is measured on; same shape."""
    low, high = generator.output_range
    values = np.nan_to_num((output.astype(np.float32) - low) * (255 / (high - low)))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
