"""What all models share: networks by name, precision, optimizers, and the step of one of them."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterable, Mapping
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

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingModel:
    """Networks, losses and optimizers; subclasses define `step` and `pictures`.

    Attributes:
        networks: name, as in file names, -> module: generators `G...`, discriminators `D...`.
        optimizers: name -> optimizer.
        averages: name of a generator -> its moving average, where --ema asks for one.
        pools: histories of generated images, part of the state of a run.
    """

    has_dropout: ClassVar[bool] = True

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.options, self.device = options, device
        self.networks: dict[str, nn.Module] = {}
        self.optimizers: dict[str, Optimizer] = {}
        self.averages: dict[str, MovingAverage] = {}
        self.pools: dict[str, ImagePool] = {}
        self.gan = GanLoss(options.gan_mode, real_label=options.real_label, fake_label=options.fake_label)
        self.pixel_loss = PIXEL_LOSSES[options.pixel_loss]
        precision = fastest_precision(device) if options.precision == "auto" else options.precision
        self.precision: str = precision
        self._dtype = _DTYPES[precision]
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16" and device.type == "cuda")
        if precision == "fp16" and device.type != "cuda":
            raise EngineError("--precision fp16 trains on CUDA devices only: take bf16 or fp32")

    # --- what subclasses define ---

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One step of every network on a batch on the device. Returns the losses, scalars without gradients."""
        raise TypeError(f"{type(self).__name__} defines no step")

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """What the networks make of a batch: name -> float RGB [N, 3, H, W] in [-1, 1]."""
        raise TypeError(f"{type(self).__name__} defines no pictures")

    # --- building ---

    def _add_generator(
        self, name: str, *, in_channels: int | None = None, out_channels: int | None = None
    ) -> nn.Module:
        options = self.options
        config = generator_config(
            options.netG,
            width=options.ngf,
            norm=options.norm,
            dropout=self.has_dropout and not options.no_dropout,
            upsampling=options.upsampling,
            downsampling_padding=options.downsampling_padding,
            in_channels=options.input_nc if in_channels is None else in_channels,
            out_channels=options.output_nc if out_channels is None else out_channels,
            scale=options.scale,
            blocks=options.n_blocks,
        )
        generator = build_generator(config, init_type=options.init_type, init_gain=options.init_gain)
        if options.pretrained:
            start_from(generator, options.pretrained)
        ready = self._place(generator)
        self.networks[name] = generator
        if options.ema:
            self.averages[name] = MovingAverage(generator, options.ema)
        return ready

    def _add_discriminator(self, name: str, in_channels: int) -> nn.Module:
        options = self.options
        discriminator = build_discriminator(
            options.netD,
            in_channels,
            width=options.ndf,
            layers=options.n_layers_D,
            norm=options.norm,
            gan_mode=options.gan_mode,
        )
        initialise(discriminator, options.init_type, options.init_gain)
        self.networks[name] = discriminator
        return self._place(discriminator)

    def _place(self, network: nn.Module) -> nn.Module:
        """The network on the device, in training mode, alike in all processes, compiled if that is wanted."""
        # Not channels_last: torch 2.13 then gets InstanceNorm's gradients wrong for a single image on the CPU.
        network.to(self.device).train()
        distributed.broadcast(network)
        return torch.compile(network) if self.options.compile else network  # type: ignore[return-value]

    def _add_optimizer(self, name: str, networks: Iterable[nn.Module]) -> Optimizer:
        parameters = [parameter for network in networks for parameter in network.parameters()]
        # fused: one pass over memory for all of the update
        optimizer = Adam(parameters, lr=self.options.lr, betas=(self.options.beta1, 0.999), fused=True)
        self.optimizers[name] = optimizer
        return optimizer

    # --- running ---

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Convolutions in the precision of the run; weights, norms' statistics and losses stay float32."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self._dtype)

    def run(self, network: nn.Module, *images: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs, float32, for several inputs of equal size in one call.

        One call of all is faster than one call each, and the same where no layer looks at the batch as a whole:
        with BatchNorm each has its own call, so that its statistics are those of the published step. Images of
        different sizes have theirs too.
        """
        is_joinable = self.options.norm != "batch" and len({image.shape[1:] for image in images}) == 1
        if len(images) > 1 and not is_joinable:
            return tuple(self.run(network, image)[0] for image in images)
        joined = images[0] if len(images) == 1 else torch.cat(images)
        with self.autocast():
            output = network(joined)
        return torch.split(output.float(), [len(image) for image in images])

    def penalty(self, name: str, real: Tensor, fake: Tensor) -> Tensor:
        """The gradient penalty of a discriminator where the loss has one, else 0.

        In float32 and without torch.compile, which has no second derivatives.
        """
        if self.options.gan_mode != "wgangp":
            return real.new_zeros(())
        return gradient_penalty(self.networks[name], real, fake)

    def judge(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """The discriminator's outputs for real and for generated images."""
        of_real, of_fake = self.run(discriminator, real, fake)
        return of_real, of_fake

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, scaled where the precision needs it."""
        self._scaler.scale(loss).backward()

    def update(self, optimizer: Optimizer) -> None:
        """One step of an optimizer with the gradients of all processes; clears them."""
        distributed.average_gradients(parameter for group in optimizer.param_groups for parameter in group["params"])
        self._scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)

    def finish_step(self) -> None:
        """The end of a step: loss scale and moving averages."""
        self._scaler.update()
        for name, average in self.averages.items():
            average.update(self.networks[name])

    def generator(self, name: str) -> Generator:
        """A generator without what is wrapped around it."""
        generator = self.networks[name]
        assert isinstance(generator, Generator)
        return generator

    @property
    def size_multiple(self) -> int:
        """What the sides of the images have to be multiples of; of the targets, where they are larger."""
        return math.lcm(*(_in_pixels_out(network, "multiple") for network in self.networks.values()))

    @property
    def minimum_size(self) -> int:
        """Smallest side of these images."""
        return max(_in_pixels_out(network, "minimum_size") for network in self.networks.values())

    # --- the state of a run ---

    def state_dict(self) -> dict[str, Any]:
        """Everything that a step depends on, networks included; plain values and tensors."""
        return {
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "averages": {name: average.state_dict() for name, average in self.averages.items()},
            "pools": {name: pool.state_dict() for name, pool in self.pools.items()},
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken.

        Raises:
            EngineError: it is the state of another model, or of other networks.
        """
        for part, mine in (("networks", self.networks), ("optimizers", self.optimizers), ("averages", self.averages)):
            if state[part].keys() != mine.keys():
                names = f"{', '.join(state[part]) or 'none'} instead of {', '.join(mine) or 'none'}"
                raise EngineError(f"the saved state has other {part}: {names}; --continue_train takes the same options")
        try:
            for name, network in self.networks.items():
                network.load_state_dict(state["networks"][name])
        except RuntimeError as error:
            lines = str(error).strip().splitlines()
            raise EngineError(
                f"the saved network {name} is another one ({lines[-1].strip()}): "
                f"--continue_train takes the same options"
            ) from None
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        for name, average in self.averages.items():
            average.load_state_dict(state["averages"][name])
        for name, pool in self.pools.items():
            pool.load_state_dict(state["pools"][name], self.device)
        self._scaler.load_state_dict(state["scaler"])


def _in_pixels_out(network: nn.Module, name: str) -> int:
    """A size of a network in pixels of the generators' output, which discriminators see."""
    assert isinstance(network, (Generator, Discriminator))
    return int(getattr(network, name)) * (network.scale if isinstance(network, Generator) else 1)


def detached(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Losses to report: values without gradients."""
    return {name: loss.detach() for name, loss in losses.items()}
