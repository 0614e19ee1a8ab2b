"""One painting's style for every picture, in one forward pass (Johnson et al., arXiv:1603.08155)."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from engine.errors import EngineError
from training.data.flow import warp
from training.data.images import read_image
from training.data.transforms import resize, to_tensor
from training.losses import total_variation
from training.models.base import Batch, Losses, TrainingModel
from training.perceptual import VggFeatures, gram_matrix

# Layers of the published loss: content at the second, style at all four.
_STYLE_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
_CONTENT_LAYER = "relu2_2"


class Style(TrainingModel):
    """G: picture -> painting.

    loss = lambda_content |features(G(x)) - features(x)|^2 + lambda_style sum over layers |Gram(G(x)) - Gram(style)|^2
        + lambda_tv TV(G(x)) + lambda_temporal mean(mask |G(next) - warped G(x)|),
    features of relu2_2, Gram matrices of relu1_2, relu2_2, relu3_3 and relu4_3, each divided by the mean square of the
    style image's, so that the weights do not depend on the scale of VGG's features. The last term needs
    `--dataset_mode frames` (Ruder et al., arXiv:1708.04538).
    """

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        super().__init__(options, device)
        if options.style_image is None or options.vgg is None:
            raise EngineError("--model style needs --style_image, the painting, and --vgg, a file of VGG weights")
        if options.lambda_temporal and options.dataset_mode != "frames":
            raise EngineError("--lambda_temporal needs pairs of frames: --dataset_mode frames")
        self._add_generator("G")
        self._add_optimizer("G", "G")
        self.features = VggFeatures.load(options.vgg, device, layers=_STYLE_LAYERS)
        painting = read_image(options.style_image)
        scale = options.crop_size / min(painting.shape[:2])
        painting = resize(painting, round(painting.shape[1] * scale), round(painting.shape[0] * scale))
        with torch.no_grad():
            seen = self.features(to_tensor(painting)[None].to(device))
        self._target = {name: gram_matrix(features) for name, features in seen.items()}
        generator = self.generator("G")
        self._in, self._out = ((low, (high - low) / 2) for low, high in (generator.input_range, generator.output_range))

    def step(self, batch: Batch) -> Losses:
        frames = [batch["A"], batch["next"]] if self.options.lambda_temporal else [batch["A"]]
        painted = self.paint(*frames)
        losses = self._losses(torch.cat(frames), torch.cat(painted))
        if self.options.lambda_temporal:
            moved = warp(painted[0], batch["flow"])
            difference = (batch["mask"] * (painted[1] - moved)).abs().mean()
            losses["temporal"] = self.options.lambda_temporal * difference
        return self.finish_step(self.optimise("G", losses))

    def paint(self, *frames: Tensor) -> list[Tensor]:
        """G's outputs; inputs and outputs are in [-1, 1] whatever range its family has."""
        (low_in, half_in), (low_out, half_out) = self._in, self._out
        outputs = self.run(self.ready["G"], *[(frame + 1.0) * half_in + low_in for frame in frames])
        return [(output - low_out) / half_out - 1.0 for output in outputs]

    def _losses(self, frames: Tensor, painted: Tensor) -> Losses:
        with self.autocast():
            of_painted = self.features(painted)
            with torch.no_grad():
                of_frames = self.features(frames)
        content = of_frames[_CONTENT_LAYER].float()
        difference = (of_painted[_CONTENT_LAYER].float() - content).square().mean() / content.square().mean()
        distances = []
        for name, target in self._target.items():
            distances.append((gram_matrix(of_painted[name].float()) - target).square().mean() / target.square().mean())
        style = torch.stack(distances).sum()
        losses = {"content": self.options.lambda_content * difference, "style": self.options.lambda_style * style}
        if self.options.lambda_tv:
            losses["tv"] = self.options.lambda_tv * total_variation(painted)
        return losses

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        return {"real": batch["A"], "fake": self.paint(batch["A"])[0].clamp(-1.0, 1.0)}
