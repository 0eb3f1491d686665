"""Photographs as networks take them: at some size, as tensors, normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def at_size(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image at (height, width) `size` (PIL, bicubic); itself if it has that size."""
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std of RGB in [0, 1], (..., 3, H, W)."""
    middle, spread = (images.new_tensor(value)[:, None, None] for value in (mean, std))
    return (images - middle) / spread


class Prepares:
    """What a network with a ``mean`` and ``std`` for RGB in [0, 1] takes."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def prepare(self, image: Image.Image, size: tuple[int, int]) -> Tensor:
        """The image at (height, width) `size`, as the network wants it: (3, height, width) float32 (PIL, bicubic)."""
        return self.normalise(torch.from_numpy(np.array(at_size(image, size))).permute(2, 0, 1).float() / 255)

    def normalise(self, images: Tensor) -> Tensor:
        """RGB in [0, 1], (..., 3, H, W), to the network's input."""
        return normalised(images, self.mean, self.std)
