"""The model under test, and what it makes of images that nobody has touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from wsss.errors import InputError
from wsss.explanation import predictions
from wsss.preparing import normalised


@dataclass(frozen=True)
class ModelUnderTest:
    """The model under test: any module that gives logits (B, C) of normalised images (B, 3, H, W).

    Attributes:
        model: in evaluation mode.
        class_names: ``class_names[c]`` belongs to output ``first_class + c``. Those of one output may be empty: it is
            class 0 where it is positive, `wsss.explanation.NEGATIVE` where it is not.
        mean: of each channel; RGB in [0, 1] is normalised by it and `std`. Removed pixels are what 0 becomes.
        std: of each channel.
        size: (height, width) that images are squeezed to.
        name: in tables and names of runs.
        fingerprint: tells it from another model of the same name.
        first_class: outputs before it stand for no class (a background) and are never the prediction.
        path: its file, where it has one.
    """

    model: nn.Module
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    name: str
    fingerprint: str = ""
    first_class: int = 0
    path: Path | None = None

    def to(self, device: str, precision: str) -> None:
        """Bring the model, in place, to a device, in evaluation mode and in "float32" or "float64"."""
        self.model.to(device, getattr(torch, precision)).eval()

    def inputs(self, pixels: Tensor) -> Tensor:
        """What the model takes, on its device and in its precision.

        Args:
            pixels: uint8 (n, 3, H, W), or of a float type if they are normalised already.
        """
        like = next((p for p in self.model.parameters() if p.is_floating_point()), torch.empty(0))
        if pixels.is_floating_point():
            return pixels.to(like.device, like.dtype)
        return normalised(pixels.to(like.device, like.dtype) / 255, self.mean, self.std)

    def black(self) -> Tensor:
        """What removed pixels become: 0 before normalisation, (1, 3, 1, 1)."""
        return self.inputs(torch.zeros(1, len(self.mean), 1, 1, dtype=torch.uint8))

    def logits(self, inputs: Tensor) -> Tensor:
        """Class scores (n, C) of normalised images. InputError if the model gives anything else, or NaN."""
        found = self.model(inputs)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(inputs):
            shape = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise InputError(
                f"model {self.name}: gives {shape} for {len(inputs)} images; expected logits (B, C), a score for each "
                "class; wrap a model that gives something else in a module"
            )
        if found.isnan().any():
            raise InputError(f"model {self.name}: gives NaN; nothing can be predicted or explained")
        return found

    def named(self, logits: Tensor) -> Tensor:
        """The outputs (n,) that logits name: the highest; of one output see `wsss.explanation.predictions`."""
        return predictions(logits[:, self.first_class :]) + self.first_class

    def predict(self, inputs: Tensor) -> Tensor:
        """The outputs (n,) that the model names."""
        return self.named(self.logits(inputs))


@dataclass(frozen=True, eq=False)
class Photographs:
    """Images of one part of a test and what the model makes of them untouched.

    ``ids`` n names for messages; ``pixels`` uint8 (n, 3, H, W), small enough to keep (or normalised already, of a float
    type); ``predicted`` int64 (n,) outputs of the model, which has ``outputs`` of them. All on the CPU.
    """

    ids: tuple[str, ...]
    pixels: Tensor
    predicted: Tensor
    outputs: int


def classify(tested: ModelUnderTest, pixels: Tensor, ids: Sequence[str], *, batch_size: int = 16) -> Photographs:
    """Classify images (n, 3, H, W) untouched, once for all methods; see `Photographs`."""
    with torch.inference_mode():
        logits = torch.cat([tested.logits(tested.inputs(chunk)).cpu() for chunk in pixels.split(batch_size)])
        predicted = tested.named(logits)
    return Photographs(tuple(ids), pixels, predicted.clone(), logits.shape[1])


def squeeze(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """An RGB image at `size` (height, width), whatever its proportions (PIL, bilinear): uint8 (height, width, 3)."""
    return np.array(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def stack(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 images (H, W, 3) as one tensor (n, 3, H, W)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
