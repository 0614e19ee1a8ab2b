"""Generators as users' code defines them, written from the facts alone; nothing here imports `engine`.

`LAYOUTS` lists each key layout once, with the variants that the tests load: docs/checkpoints.md has its table.
"""

import dataclasses
import functools
from collections.abc import Callable

from torch import nn

from tests.architectures import (
    animegan,
    block_resnet,
    cut_resnet,
    mobile_resnet,
    reference_resnet,
    reference_unet,
    sequential_resnet,
    super_resolution,
    transformer_net,
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """One key layout in the wild.

    Attributes:
        family: family in `engine.generators.FAMILIES`.
        name: the layout's name for people.
        told_by: keys that tell the layout.
        variants: name -> a generator of that layout.
        height, width: size of the test picture.
        value_range: (low, high) of the picture's values.
    """

    family: str
    name: str
    told_by: str
    variants: dict[str, Callable[[], nn.Module]]
    height: int = 32
    width: int = 40
    value_range: tuple[float, float] = (-1.0, 1.0)


_ResNet = functools.partial(functools.partial, reference_resnet.ReferenceResNet)
_UNet = functools.partial(functools.partial, reference_unet.ReferenceUNet)
_Sequential = functools.partial(functools.partial, sequential_resnet.SequentialResNet)
_Block = functools.partial(functools.partial, block_resnet.BlockResNet)
_CUT = functools.partial(functools.partial, cut_resnet.CUTResNet)
_Mobile = functools.partial(functools.partial, mobile_resnet.MobileResNet)
_RRDB = functools.partial(functools.partial, super_resolution.RealESRGANNet)
_SRVGG = functools.partial(functools.partial, super_resolution.CompactNet)
_MSR = functools.partial(functools.partial, super_resolution.MSRNet)

LAYOUTS = (
    Layout(
        "resnet",
        "CycleGAN / pix2pix reference ResNet",
        "`model.1`, `model.10.conv_block.1` and `.5` (`.6` with dropout), `model.19`, `model.26`",
        {
            "9 blocks": _ResNet(),
            "6 blocks": _ResNet(blocks=6),
            "4 blocks, width 20": _ResNet(blocks=4, width=20),
            "dropout": _ResNet(blocks=3, dropout=True),
            "batch norm": _ResNet(blocks=3, norm="batch"),
            "batch norm, dropout": _ResNet(blocks=3, norm="batch", dropout=True),
            "affine instance norm": _ResNet(blocks=3, norm="affine"),
            "no norm": _ResNet(blocks=3, norm="none"),
            "zero padding": _ResNet(blocks=3, zero_padding=True),
            "zero padding, dropout": _ResNet(blocks=3, zero_padding=True, dropout=True),
            "grey to colour": _ResNet(blocks=2, colours=(1, 3)),
        },
    ),
    Layout(
        "unet",
        "pix2pix reference U-Net",
        "`model.model.0`, `model.model.1.model.1`, ..., `model.model.3`",
        {
            "5 downsamplings": _UNet(downs=5),
            "6, instance norm": _UNet(downs=6, norm="instance"),
            "6, affine instance norm": _UNet(downs=6, norm="affine", width=6),
            "6, no norm": _UNet(downs=6, norm="none"),
            "7 (128)": _UNet(downs=7),
            "7, no dropout, colour to grey": _UNet(downs=7, dropout=False, colours=(3, 1)),
            "8 (256)": _UNet(downs=8, width=6),
        },
        height=256,
        width=256,
    ),
    Layout(
        "resnet",
        "one nn.Sequential, transposed convolutions",
        "`model.N`, `model.N.block.M`; first upsampling one after the last block",
        {
            "instance norm": _Sequential(upsampling="transposed"),
            "affine instance norm": _Sequential(
                upsampling="transposed", norm=functools.partial(nn.InstanceNorm2d, affine=True)
            ),
            "instance norm, no bias": _Sequential(upsampling="transposed", bias=False),
            "batch norm": _Sequential(upsampling="transposed", norm=nn.BatchNorm2d, bias=False),
            "batch norm and bias": _Sequential(upsampling="transposed", norm=nn.BatchNorm2d),
            "zero padding": _Sequential(upsampling="transposed", zero_padded=True),
            "3 downsamplings": _Sequential(upsampling="transposed", downs=3, width=6),
            "1 downsampling": _Sequential(upsampling="transposed", downs=1),
            "reflect-padded downsampling": _Sequential(upsampling="transposed", reflect_down=True),
        },
    ),
    Layout(
        "resnet",
        "one nn.Sequential, resize-convolution",
        "`model.N`, `model.N.block.M`; first upsampling two after the last block (three with reflect padding)",
        {
            "instance norm": _Sequential(),
            "9 blocks": _Sequential(blocks=9),
            "affine instance norm": _Sequential(norm=functools.partial(nn.InstanceNorm2d, affine=True)),
            "batch norm": _Sequential(norm=nn.BatchNorm2d, bias=False),
            "reflect-padded upsampling": _Sequential(upsampling="resize-reflect"),
            "zero padding": _Sequential(zero_padded=True),
            "grey": _Sequential(colours=1),
        },
    ),
    Layout(
        "resnet",
        "block-style ResNet",
        "`initial.0`, `down_blocks.N.conv.0`, `res_blocks.N.block.M.conv.0`, `up_blocks.N.conv.0`, `last`",
        {
            "9 blocks": _Block(),
            "4 blocks, width 8": _Block(blocks=4, width=8),
            "batch norm": _Block(blocks=3, norm=nn.BatchNorm2d),
            "affine instance norm": _Block(blocks=3, norm=functools.partial(nn.InstanceNorm2d, affine=True)),
        },
    ),
    Layout(
        "resnet",
        "anti-aliased ResNet (CUT)",
        "`model.{7,11,21,25}.filt`, `model.12.conv_block.1`, `model.30`",
        {
            "9 blocks": _CUT(),
            "6 blocks": _CUT(blocks=6),
            "batch norm": _CUT(blocks=3, norm="batch"),
            "transposed upsampling": _CUT(blocks=3, blur_up=False),
            "strided downsampling": _CUT(blocks=3, blur_down=False),
        },
    ),
    Layout(
        "resnet",
        "GAN Compression mobile ResNet",
        "`model.N.conv_block.{1,6}.conv.{0,2}`",
        {
            "one width": _Mobile(),
            "widths per layer": _Mobile(widths=(7, 12, 20, 16, 24, 9, 14, 11)),
            "batch norm": _Mobile(norm="batch"),
        },
    ),
    Layout(
        "transformer_net",
        "fast neural style TransformerNet",
        "`conv1.conv2d`, `res1.conv1.conv2d`, `deconv1.conv2d`, `in1`",
        {
            "5 blocks": transformer_net.FastStyleNet,
            "full size": functools.partial(transformer_net.FastStyleNet, 32),
            "2 blocks": functools.partial(transformer_net.FastStyleNet, 8, 2),
        },
        value_range=(0.0, 255.0),
    ),
    Layout(
        "animegan",
        "AnimeGANv2",
        "`block_a.0.1`, `block_c.1.layers.0.1`, `out_layer.0`",
        {"width 8": animegan.AnimeNet, "full size": functools.partial(animegan.AnimeNet, 32)},
    ),
    Layout(
        "rrdbnet",
        "RRDBNet (ESRGAN, Real-ESRGAN)",
        "`conv_first`, `body.N.rdb1.conv1`, `conv_body`, `conv_up1`; input channels of `conv_first` tell the scale",
        {"x4": _RRDB(), "x2": _RRDB(scale=2), "x1": _RRDB(scale=1), "x4, 5 to 3 channels": _RRDB(colours=(5, 3))},
        height=16,
        width=20,
        value_range=(0.0, 1.0),
    ),
    Layout(
        "rrdbnet",
        "RRDBNet, first names",
        "`RRDB_trunk.N.RDB1.conv1`, `trunk_conv`, `HRconv`",
        {"x4": super_resolution.FirstESRGANNet},
        height=16,
        width=20,
        value_range=(0.0, 1.0),
    ),
    Layout(
        "rrdbnet",
        "RRDBNet, one sequence",
        "`model.0`, `model.1.sub.N.RDB1.conv1.0`, `model.{3,6,8,10}`",
        {"x4": super_resolution.SequentialESRGANNet},
        height=16,
        width=20,
        value_range=(0.0, 1.0),
    ),
    Layout(
        "srvgg",
        "SRVGGNetCompact (Real-ESRGAN)",
        "`body.0` convolution, `body.1` PReLU, ...",
        {"x4": _SRVGG(), "x2": _SRVGG(scale=2, inner=2), "x1": _SRVGG(scale=1), "full size": _SRVGG(4, 64, 16)},
        height=16,
        width=20,
        value_range=(0.0, 1.0),
    ),
    Layout(
        "srresnet",
        "MSRResNet (SRResNet)",
        "`conv_first`, `body.N.conv1`, `upconv1`, `conv_hr`, `conv_last`",
        {"x4": _MSR(), "x3": _MSR(scale=3), "x2": _MSR(scale=2), "grey": _MSR(colours=1)},
        height=16,
        width=20,
        value_range=(0.0, 1.0),
    ),
)
