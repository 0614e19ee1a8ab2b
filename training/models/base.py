"""Base of all models: networks by name, precision, optimizers, the state of a run, and parts of a step."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from engine.errors import EngineError
from engine.generators import Generator
from engine.precision import fastest_precision
from training import distributed
from training.discriminators import Discriminator, build_discriminator
from training.ema import MovingAverage
from training.image_pool import ImagePool
from training.losses import PIXEL_LOSSES, GanLoss, gradient_penalty
from training.networks import build_generator, generator_config, initialise, start_from

Batch = Mapping[str, Tensor]
Losses = dict[str, Tensor]
"""Scalars by name."""

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingModel:
    """Networks, losses and optimizers; subclasses define `step` and `pictures`.

    Attributes:
        networks: name, as in file names, -> module: generators `G...`, discriminators `D...`.
        ready: the same, compiled where --compile asks for it; for the networks' own steps.
        optimizers: name -> optimizer.
        averages: name of a generator -> its moving average, where --ema asks for one.
        pools: histories of generated images, part of the state of a run.
    """

    has_dropout: ClassVar[bool] = True

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.options, self.device = options, device
        self.networks: dict[str, nn.Module] = {}
        self.ready: dict[str, nn.Module] = {}
        self.optimizers: dict[str, Optimizer] = {}
        self.averages: dict[str, MovingAverage] = {}
        self.pools: dict[str, ImagePool] = {}
        self.gan = GanLoss(options.gan_mode, real_label=options.real_label, fake_label=options.fake_label)
        self.pixel_loss = PIXEL_LOSSES[options.pixel_loss]
        self.precision: str = fastest_precision(device) if options.precision == "auto" else options.precision
        self._dtype = _DTYPES[self.precision]
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16" and device.type == "cuda")
        if self.precision == "fp16" and device.type != "cuda":
            raise EngineError("--precision fp16 trains on CUDA devices only: use bf16 or fp32")

    # --- defined by subclasses ---

    def step(self, batch: Batch) -> Losses:
        """One step of every network on a batch on the device. Returns the losses, without gradients."""
        raise TypeError(f"{type(self).__name__} defines no step")

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Images of a batch to show: name -> float RGB [N, 3, H, W] in [-1, 1]."""
        raise TypeError(f"{type(self).__name__} defines no pictures")

    def finish(self, folder: Path) -> None:
        """Adds the model's own files to the run's folder once training is over. Every process calls it."""

    # --- building ---

    def _add_generator(self, name: str, *, in_channels: int | None = None, out_channels: int | None = None) -> None:
        options = self.options
        config = generator_config(
            options.netG,
            width=options.ngf,
            norm=options.norm,
            dropout=self.has_dropout and not options.no_dropout,
            upsampling=options.upsampling,
            downsampling=options.downsampling,
            downsampling_padding=options.downsampling_padding,
            in_channels=in_channels or options.input_nc,
            out_channels=out_channels or options.output_nc,
            scale=options.scale,
            blocks=options.n_blocks,
        )
        generator = build_generator(config, init_type=options.init_type, init_gain=options.init_gain)
        if options.pretrained:
            start_from(generator, options.pretrained)
        self._add_network(name, generator)
        if options.ema:
            self.averages[name] = MovingAverage(generator, options.ema)

    def _add_discriminator(self, name: str, in_channels: int) -> None:
        options = self.options
        form = {"width": options.ndf, "layers": options.n_layers_D, "norm": options.norm, "gan_mode": options.gan_mode}
        blur = options.downsampling == "blur"
        discriminator = build_discriminator(options.netD, in_channels, blur=blur, **form)
        initialise(discriminator, options.init_type, options.init_gain)
        self._add_network(name, discriminator)

    def _add_network(self, name: str, network: nn.Module) -> None:
        """Puts the network on the device, in training mode, with the same weights in all processes."""
        # Not channels_last: torch 2.13 then gets InstanceNorm's gradients wrong for a single image on the CPU.
        self.networks[name] = network.to(self.device).train()
        distributed.broadcast(network)
        self.ready[name] = torch.compile(network) if self.options.compile else network  # type: ignore[assignment]

    def _add_optimizer(self, name: str, *networks: str) -> None:
        parameters = [parameter for network in networks for parameter in self.networks[network].parameters()]
        betas = (self.options.beta1, self.options.beta2)
        # fused: one pass over memory for the whole update
        self.optimizers[name] = Adam(parameters, lr=self.options.lr, betas=betas, fused=True)

    # --- parts of a step ---

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Convolutions in the precision of the run; weights, norms' statistics and losses stay float32."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    def run(self, network: nn.Module, *images: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs, float32, for several inputs.

        One call for all is faster than one call each, and gives the same where no layer mixes the images of a batch.
        With BatchNorm each input has its own call, so that its statistics are those of the published step. Images of
        different sizes have their own calls too.
        """
        is_joinable = self.options.norm != "batch" and len({image.shape[1:] for image in images}) == 1
        if len(images) > 1 and not is_joinable:
            return tuple(self.run(network, image)[0] for image in images)
        joined = images[0] if len(images) == 1 else torch.cat(images)
        with self.autocast():
            output = network(joined)
        return torch.split(output.float(), [len(image) for image in images])

    def generator_gan_loss(self, name: str, real: Tensor, fake: Tensor) -> Tensor:
        """The generator's adversarial loss against a discriminator, which gets no gradients; times --lambda_gan."""
        discriminator = self.networks[name].requires_grad_(False)
        (of_fake,) = self.run(discriminator, fake)
        of_real = None
        if self.gan.needs_real:
            with torch.no_grad():
                (of_real,) = self.run(discriminator, real)
        return self.options.lambda_gan * self.gan.generator(of_fake, of_real)

    def discriminator_loss(self, name: str, real: Tensor, fake: Tensor, *, weight: float) -> Tensor:
        """A discriminator's adversarial loss times `weight`, and the gradient penalty where the mode has one."""
        network = self.networks[name].requires_grad_(True)
        loss = weight * self.gan.discriminator(*self.run(self.ready[name], real, fake))
        if self.options.gan_mode == "wgangp":
            # In float32 and without torch.compile, which has no second derivatives.
            loss = loss + gradient_penalty(network, real, fake)
        return loss

    def optimise(self, optimizer: str, losses: Losses, *, share: float = 1.0) -> Losses:
        """Updates the networks of an optimizer by `share` times the sum of the losses; returns the losses."""
        self._scaler.scale(share * torch.stack(list(losses.values())).sum()).backward()
        self.update(self.optimizers[optimizer])
        return losses

    def update(self, optimizer: Optimizer) -> None:
        """One step of an optimizer with the gradients of all processes; clears them."""
        distributed.average_gradients(parameter for group in optimizer.param_groups for parameter in group["params"])
        self._scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)

    def finish_step(self, losses: Losses) -> Losses:
        """Updates loss scale and moving averages; returns the losses without gradients."""
        self._scaler.update()
        for name, average in self.averages.items():
            average.update(self.networks[name])
        return {name: loss.detach() for name, loss in losses.items()}

    def generator(self, name: str) -> Generator:
        """A generator, not compiled."""
        generator = self.networks[name]
        assert isinstance(generator, Generator)
        return generator

    @property
    def size_multiple(self) -> int:
        """The sides of the images have to be multiples of it; those of the targets, where they are larger."""
        return math.lcm(*_in_pixels_out(self.networks.values(), "multiple"))

    @property
    def minimum_size(self) -> int:
        """Smallest side of these images."""
        return max(_in_pixels_out(self.networks.values(), "minimum_size"))

    # --- the state of a run ---

    def state_dict(self) -> dict[str, Any]:
        """Everything that a step depends on, networks included; plain values and tensors."""
        parts = {name: getattr(self, name) for name in ("networks", "optimizers", "averages", "pools")}
        states = {part: {name: value.state_dict() for name, value in mine.items()} for part, mine in parts.items()}
        return {**states, "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned. Raises EngineError for the state of other networks."""
        parts: dict[str, dict[str, Any]] = {n: getattr(self, n) for n in ("networks", "optimizers", "averages")}
        for part, mine in parts.items():
            if state[part].keys() != mine.keys():
                names = f"{', '.join(state[part]) or 'none'} instead of {', '.join(mine) or 'none'}"
                raise EngineError(f"the saved state has other {part}: {names}; --continue_train takes the same options")
        try:
            for part, mine in parts.items():
                for name, value in mine.items():
                    value.load_state_dict(state[part][name])
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise EngineError(
                f"the saved network {name} is another one ({reason}): --continue_train takes the same options"
            ) from None
        for name, pool in self.pools.items():
            pool.load_state_dict(state["pools"][name], self.device)
        self._scaler.load_state_dict(state["scaler"])


def _in_pixels_out(networks: Iterable[nn.Module], name: str) -> list[int]:
    """A size of the networks that take images, in pixels of the generators' output, which discriminators see."""
    return [
        int(getattr(network, name)) * (network.scale if isinstance(network, Generator) else 1)
        for network in networks
        if isinstance(network, (Generator, Discriminator))
    ]
