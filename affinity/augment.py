"""Training examples: a photograph and its affinity label, cut and changed alike, the same way for the same key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils import data
from torchvision import tv_tensors

from affinity.settings import AugmentConfig
from wsss.augment import apply_seeded, random_crops
from wsss.data import Sample, read_label_image
from wsss.errors import InputError
from wsss.training import stable_seed


@dataclass(frozen=True)
class Example:
    """A photograph and the PNG of its affinity label, equal in size."""

    sample: Sample
    label_path: Path

    @property
    def id(self) -> str:
        """The photograph's."""
        return self.sample.id


class Examples(data.Dataset):
    """Map of (epoch, index) to (image (3, S, S) float32 in [0, 1], label (S, S) uint8).

    The random changes depend on (seed, epoch, index) and on nothing else: not on the worker, nor on what was
    drawn before.
    """

    def __init__(self, examples: Sequence[Example], config: AugmentConfig, seed: int) -> None:
        self.examples, self.seed = tuple(examples), seed
        self.transform = random_crops(
            config.crop,
            scale_min=config.scale_min,
            scale_max=config.scale_max,
            flip=config.flip,
            colour_jitter=config.colour_jitter,
            fill=128,
        )

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        example = self.examples[index]
        image = tv_tensors.Image(np.asarray(example.sample.load_image()).transpose(2, 0, 1).copy())
        label = tv_tensors.Mask(torch.from_numpy(read_label_image(example.label_path)))
        name = f"affinity label {example.label_path}"
        if clash := example.sample.size_clash(tuple(image.shape[-2:]), tuple(label.shape), name):
            raise InputError(f"{clash}; make the labels again")
        image, label = apply_seeded(self.transform, stable_seed(self.seed, epoch, index), image, label)
        return image, label
