"""CUT and FastCUT: two domains without pairs and one generator (Park et al., arXiv:2007.15651)."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import EngineError
from engine.generators import ResNetConfig
from training.models.base import Batch, Losses, TrainingModel
from training.networks import initialise


class PatchProjection(nn.Module):
    """F: features at places of an image -> unit vectors; one network of two linear layers per layer of the generator.

    Parameter names are those of CUT's files: `mlp_0.0.weight`, `mlp_0.2.weight`, ...

    Args:
        widths: channels of the features of each layer.
        channels: length of the vectors.
        learned: False: the features themselves are normalised.
    """

    def __init__(self, widths: Sequence[int], channels: int, *, learned: bool = True) -> None:
        super().__init__()
        self.learned = learned
        for number, width in enumerate(widths if learned else ()):
            layers = nn.Sequential(nn.Linear(width, channels), nn.ReLU(), nn.Linear(channels, channels))
            self.add_module(f"mlp_{number}", layers)

    def forward(self, features: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor]:
        """[N, C, H, W] of each layer, and int64 [P] places in its H * W -> float32 [N, P, channels] of each."""
        vectors = []
        for number, (feature, place) in enumerate(zip(features, places, strict=True)):
            chosen = feature.flatten(2)[:, :, place].transpose(1, 2)
            if self.learned:
                chosen = self.get_submodule(f"mlp_{number}")(chosen)
            vectors.append(F.normalize(chosen.float(), dim=2, eps=1e-7))
        return vectors


def patch_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """PatchNCE: the mean cross-entropy of finding each query's own place among all places of the same image.

    The logits are inner products divided by `temperature`; keys get no gradients.

    Args:
        queries: unit vectors of the output, float32 [N, P, C].
        keys: those of the input at the same places.
    """
    logits = torch.bmm(queries, keys.detach().transpose(1, 2)) / temperature
    own = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    return F.cross_entropy(logits.flatten(0, 1), own.flatten())


class Cut(TrainingModel):
    """G: A -> B; D tells real B from G(A); F projects features of G's encoder.

    loss of G and F = lambda_gan GAN(D(G(A))) + lambda_NCE PatchNCE(A, G(A)), or with the identity term
        lambda_NCE (PatchNCE(A, G(A)) + PatchNCE(B, G(B))) / 2; PatchNCE is the mean over `--nce_layers`.
    loss of D = half of the adversarial one.
    """

    has_dropout = False

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        super().__init__(options, device)
        if options.input_nc != options.output_nc:
            raise EngineError("cut needs --input_nc and --output_nc equal: its encoder sees inputs and outputs")
        self._add_generator("G")
        config = self.generator("G").config
        if not isinstance(config, ResNetConfig):
            raise EngineError(f"cut takes features from a ResNet: --netG resnet_9blocks, not {options.netG}")
        self._layers = [int(number) for number in options.nce_layers]
        encoder = _encoder_end(config)
        if not self._layers or sorted(set(self._layers)) != self._layers or not 0 <= self._layers[-1] < encoder:
            raise EngineError(f"--nce_layers are rising numbers of the encoder's layers, 0 to {encoder - 1}")
        with torch.no_grad():
            side = max(self.generator("G").minimum_size, 32)
            widths = [f.shape[1] for f in self.features(torch.zeros(1, options.input_nc, side, side, device=device))]
        projection = PatchProjection(widths, options.netF_nc, learned=options.netF == "mlp_sample")
        initialise(projection, options.init_type, options.init_gain)
        self._add_network("F", projection)
        self._add_optimizer("G", "G")
        if options.netF == "mlp_sample":
            self._add_optimizer("F", "F")
        if options.lambda_gan > 0:
            self._add_discriminator("D", options.output_nc)
            self._add_optimizer("D", "D")

    def features(self, image: Tensor) -> list[Tensor]:
        """What the layers `--nce_layers` of the generator's sequence make of an image."""
        features, layers = [], list(self.generator("G").get_submodule("model").children())
        with self.autocast():
            for number, (layer, following) in enumerate(itertools.pairwise(layers)):
                image = layer(image)
                if number in self._layers:
                    # An activation in place would change what was kept.
                    features.append(image.clone() if isinstance(following, nn.ReLU) else image)
                if number == self._layers[-1]:
                    break
        return features

    def step(self, batch: Batch) -> Losses:
        options = self.options
        inputs = [batch["A"], batch["B"]] if options.nce_idt else [batch["A"]]
        is_flipped = options.flip_equivariance and bool(torch.rand(()) < 0.5)
        fakes = self.run(self.ready["G"], *(image.flip(3) if is_flipped else image for image in inputs))
        losses: Losses = {}
        real = batch["B"].flip(3) if is_flipped else batch["B"]
        if "D" in self.networks:
            losses |= self.optimise("D", {"D": self.discriminator_loss("D", real, fakes[0].detach(), weight=0.5)})
        terms: Losses = {}
        if "D" in self.networks:
            terms["G_GAN"] = self.generator_gan_loss("D", real, fakes[0])
        share = options.lambda_NCE / len(inputs)
        for name, image, fake in zip(("NCE", "NCE_Y"), inputs, fakes, strict=False):
            terms[name] = share * self.nce_loss(image, fake, is_flipped=is_flipped)
        losses |= self.optimise("G", terms)
        if "F" in self.optimizers:
            self.update(self.optimizers["F"])
        return self.finish_step(losses)

    def nce_loss(self, source: Tensor, output: Tensor, *, is_flipped: bool = False) -> Tensor:
        """The mean of PatchNCE over the layers, at random places; `is_flipped`: the output is mirrored."""
        of_output = self.features(output)
        if is_flipped:
            of_output = [feature.flip(3) for feature in of_output]
        with torch.no_grad():
            of_source = self.features(source)
        # Places are drawn on the CPU, whose random numbers are part of a run's state on every device.
        places = [
            torch.randperm(feature.shape[2] * feature.shape[3])[: self.options.num_patches].to(feature.device)
            for feature in of_source
        ]
        with self.autocast():
            queries = self.networks["F"](of_output, places)
            with torch.no_grad():
                keys = self.networks["F"](of_source, places)
        losses = [patch_nce(q, k, self.options.nce_T) for q, k in zip(queries, keys, strict=True)]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        shown = {"real_A": batch["A"], "fake_B": self.run(self.networks["G"], batch["A"])[0], "real_B": batch["B"]}
        if self.options.nce_idt:
            shown["idt_B"] = self.run(self.networks["G"], batch["B"])[0]
        return shown


def _encoder_end(config: ResNetConfig) -> int:
    """Number of the first layer behind the residual blocks."""
    before = 4 if config.outer_padding == "reflect" else 3
    return before + config.downsamplings * (4 if config.downsampling == "blur" else 3) + config.blocks
