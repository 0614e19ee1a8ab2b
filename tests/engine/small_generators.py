"""A small generator of every family and kind of layer, and a real picture for it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from engine import save_generator
from engine.generators import (
    SRVGG,
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
from engine.parity import psnr_db
from engine.reference import frames_to_tensor, tensor_to_frames
from engine.samples import SAMPLE


def save_identity(path: Path) -> Path:
    """Writes a generator that changes nothing: SRVGG x1, whose weights are all zero."""
    generator = build(SRVGGConfig(width=4, convolutions=0, scale=1))
    for weights in generator.parameters():
        weights.data.zero_()
    save_generator(generator, path)
    return path


CONFIGS: dict[str, GeneratorConfig] = {
    "resnet": ResNetConfig(width=8, blocks=2),
    "resnet-blur": ResNetConfig(
        width=8,
        blocks=1,
        downsampling="blur",
        upsampling="blur",
        downsampling_padding="reflect",
        upsampling_padding="reflect",
    ),
    "resnet-nearest": ResNetConfig(width=8, blocks=1, upsampling="nearest", affine=True, dropout=True),
    "resnet-separable": ResNetConfig(width=8, blocks=1, separable=True, norm="batch"),
    "unet": UNetConfig(width=8, downsamplings=5),
    "unet-instance": UNetConfig(width=8, downsamplings=5, norm="instance", affine=True),
    "transformer_net": TransformerNetConfig(width=8, blocks=1),
    "animegan": AnimeGANConfig(width=8, blocks=2),
    "animegan-half-pixel": AnimeGANConfig(width=8, blocks=1, align_corners=False),
    "srresnet": SRResNetConfig(width=8, blocks=1),
    "srresnet-x3": SRResNetConfig(width=8, blocks=1, scale=3),
    "rrdbnet": RRDBNetConfig(width=8, growth=4, blocks=1),
    "rrdbnet-x1": RRDBNetConfig(width=8, growth=4, blocks=1, scale=1),
    "srvgg": SRVGGConfig(width=8, convolutions=1),
}

# Multiples of every generator's multiple, in both orientations.
SIZES = ((64, 96), (128, 64))


def small_generator(name: str) -> Generator:
    """The generator, eval mode, with learned values of norms that are neither 0 nor 1, so that a lost one shows."""
    torch.manual_seed(0)
    generator = build(CONFIGS[name]).eval().requires_grad_(False)
    for layer in generator.modules():
        if isinstance(layer, (nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm)) and layer.weight is not None:
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.uniform_(-0.5, 0.5)
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.1, 0.4)
        if isinstance(layer, nn.PReLU):
            layer.weight.uniform_(0.0, 0.5)
    return generator


def unfused_generator() -> Generator:
    """SRVGG x2 with a layer that our fused engine does not know: a dilated convolution."""
    torch.manual_seed(0)
    generator = build(SRVGGConfig(width=8, convolutions=1, scale=2)).eval()
    assert isinstance(generator, SRVGG)
    generator.body[0] = nn.Conv2d(3, 8, 3, padding=2, dilation=2)
    return generator


def picture(generator: Generator, height: int, width: int) -> Tensor:
    """A frame of the sample clip as the generator's input: float32 [1, 3, height, width], channels_last."""
    read, frame = cv2.VideoCapture(str(SAMPLE)).read()
    assert read
    frames = torch.from_numpy(cv2.resize(frame, (width, height)))[None]
    return frames_to_tensor(
        frames, value_range=generator.input_range, size=(height, width), dtype=torch.float32
    ).contiguous(memory_format=torch.channels_last)


def frames_of(generator: Generator, output: Tensor) -> np.ndarray:
    """The generator's output as frames, uint8 [1, H, W, 3]."""
    size = (output.shape[2], output.shape[3])
    return tensor_to_frames(output.float().cpu(), value_range=generator.output_range, size=size).numpy()


def parity_db(generator: Generator, image: Tensor, output: Tensor) -> float:
    """PSNR in dB of the frames in `output` against those of the generator in eager float32 on `image`."""
    return psnr_db(frames_of(generator, output), frames_of(generator, generator(image.float())))
