"""Training examples: a photograph and its affinity label, cut and changed alike, the same way for the same key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data
from torchvision import tv_tensors
from torchvision.transforms import v2

from affinity.settings import AugmentConfig
from wsss.data import IGNORE, read_image, read_label_image
from wsss.errors import InputError
from wsss.training import stable_seed


@dataclass(frozen=True)
class Example:
    """A photograph and the PNG of its affinity label, equal in size."""

    id: str
    image_path: Path
    label_path: Path


class RandomScale(v2.Transform):
    """Magnify by a factor that is uniform in its logarithm between `low` and `high`; labels by nearest pixel."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.functional.get_size(flat_inputs[0])
        factor = self.low * (self.high / self.low) ** torch.rand(()).item()
        return {"size": [max(1, round(height * factor)), max(1, round(width * factor))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(v2.functional.resize, inpt, params["size"], antialias=True)


class Examples(data.Dataset):
    """Map of (epoch, index) to (image (3, S, S) float32 in [0, 1], label (S, S) uint8).

    The random changes depend on (seed, epoch, index) and on nothing else: not on the worker, nor on what was
    drawn before.
    """

    def __init__(self, examples: Sequence[Example], config: AugmentConfig, seed: int) -> None:
        self.examples, self.seed = tuple(examples), seed
        steps: list[v2.Transform] = [
            RandomScale(config.scale_min, config.scale_max),
            v2.RandomCrop(config.crop, pad_if_needed=True, fill={tv_tensors.Image: 128, tv_tensors.Mask: IGNORE}),
        ]
        if config.flip:
            steps.append(v2.RandomHorizontalFlip())
        if config.colour_jitter:
            strength = config.colour_jitter
            steps.append(v2.ColorJitter(strength, strength, strength, strength / 3))
        steps.append(v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True))
        self.transform = v2.Compose(steps)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        example = self.examples[index]
        image = tv_tensors.Image(np.asarray(read_image(example.image_path)).transpose(2, 0, 1).copy())
        label = tv_tensors.Mask(torch.from_numpy(read_label_image(example.label_path)))
        if image.shape[-2:] != label.shape:
            raise InputError(
                f"affinity label {example.label_path} differs in size from its image; make the labels again"
            )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stable_seed(self.seed, epoch, index))
            image, label = self.transform(image, label)
        return image.as_subclass(Tensor), label.as_subclass(Tensor)
