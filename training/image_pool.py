"""A history of generated images for the discriminator (Shrivastava et al., arXiv:1612.07828)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.errors import EngineError


class ImagePool:
    """Keeps up to `size` generated images, and half of the time returns an earlier one instead of a new one.

    This keeps the discriminator from forgetting earlier states of the generator.

    Args:
        size: 0 keeps nothing and returns the new images.
        seed: for its own random numbers, which are part of `state_dict`.
    """

    def __init__(self, size: int, *, seed: int = 0) -> None:
        self.size = size
        self._images: list[Tensor] = []
        self._random = torch.Generator().manual_seed(seed)

    def query(self, images: Tensor) -> Tensor:
        """Images for the discriminator, as many as `images`: float [N, C, H, W], detached."""
        images = images.detach()
        if self.size == 0:
            return images
        return torch.stack([self._exchange(image) for image in images])

    def _exchange(self, image: Tensor) -> Tensor:
        if len(self._images) < self.size:
            self._images.append(image.clone())
            return image
        if torch.rand((), generator=self._random) < 0.5:
            return image
        place = int(torch.randint(self.size, (), generator=self._random))
        earlier, self._images[place] = self._images[place], image.clone()
        return earlier

    def state_dict(self) -> dict[str, Any]:
        """Images and random state."""
        return {"images": [image.cpu() for image in self._images], "random": self._random.get_state()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restores what `state_dict` returned. Raises EngineError if it holds more images than this pool may."""
        if len(state["images"]) > self.size:
            raise EngineError(f"the saved pool holds {len(state['images'])} images, --pool_size is {self.size}")
        self._images = [image.to(device) for image in state["images"]]
        self._random.set_state(state["random"])
