"""Training examples of images with and without masks, and the batches they come in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils import data
from torchvision import tv_tensors
from torchvision.transforms import v2

from cnnseg.settings import TrainConfig
from wsss.augment import apply_seeded, random_crops
from wsss.data import IGNORE, Dataset, Sample
from wsss.errors import InputError
from wsss.training import stable_seed

FILL = (124, 116, 104)
"""Colour around images smaller than the crop: ImageNet's mean, 0 to the network. Its mask is 255."""

SHOWN = 1 / 1000
"""A crop of an image with mask is labelled with the classes that cover at least this share of it."""

Key = tuple[int, int, int]
"""Step of the training, place in its batch, index of the image in the data set."""


def masked_places(config: TrainConfig, masked: Sequence[Sample], classifies: bool) -> int:
    """How many images of each batch have masks: the first ones.

    None if there are no masks; all for a network that does not classify, as it learns nothing from the others; else
    `config.mask_share` of the batch, and at least one.
    """
    if not masked:
        return 0
    return max(1, round(config.batch_size * config.mask_share)) if classifies else config.batch_size


class Examples(data.Dataset):
    """Map of (step, place, index) to (image (3, S, S) float32 in [0, 1], mask (S, S) uint8, labels (C,) float32).

    The images in `masked` have their mask, cropped alike, and as labels the classes that the crop still shows; all
    others, with a mask on disk or not, have 255 everywhere and their image-level labels. What is random depends on
    (seed, step, place) and on nothing else: not on the reading process, nor on what was drawn before.

    Raises InputError if an image in `masked` has no mask or is not in the data set; when read, if a file cannot be
    read, or image and mask differ in size.
    """

    def __init__(self, dataset: Dataset, masked: Sequence[Sample], config: TrainConfig) -> None:
        self.dataset, self.size, self.seed = dataset, config.crop, config.seed
        self.masked = frozenset(_indices(dataset, masked))
        self.labels = torch.from_numpy(dataset.labels())
        self.transform: v2.Transform = random_crops(
            config.crop,
            scale_min=config.scale_min,
            scale_max=config.scale_max,
            flip=config.flip,
            colour_jitter=config.colour_jitter,
            fill=FILL,
            colours_first=True,
            squares=config.squares,
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, Tensor]:
        step, place, index = key
        sample, seed = self.dataset.samples[index], stable_seed(self.seed, step, place)
        image = tv_tensors.Image(np.asarray(self.dataset.load_image(sample)).transpose(2, 0, 1).copy())
        if index not in self.masked:
            (image,) = apply_seeded(self.transform, seed, image)
            return image, self.unknown(), self.labels[index]
        mask = tv_tensors.Mask(torch.from_numpy(self.target(sample)))
        if clash := sample.size_clash(tuple(image.shape[-2:]), tuple(mask.shape[-2:])):
            raise InputError(clash)
        image, mask = apply_seeded(self.transform, seed, image, mask)
        return image, mask, self.labels_of(mask, index)

    def target(self, sample: Sample) -> np.ndarray:
        """What the pixels of an image are to be, at its own size: a mask, uint8 (H, W)."""
        return self.dataset.load_mask(sample)

    def unknown(self) -> Tensor:
        """The target of a crop of which nothing is known."""
        return torch.full((self.size, self.size), IGNORE, dtype=torch.uint8)

    def labels_of(self, mask: Tensor, index: int) -> Tensor:
        """The labels (C,) of a crop of image `index`, whose target has been cropped alike."""
        return self.crop_labels(mask)

    def crop_labels(self, mask: Tensor) -> Tensor:
        """(C,) float32 of 0 and 1: the classes that cover enough of a mask (S, S)."""
        pixels = torch.bincount(mask.flatten(), minlength=256)[1 : self.dataset.num_classes + 1]
        return (pixels >= SHOWN * mask.numel()).float()


class StepBatches(data.Sampler):
    """The keys of each step's batch, from step `start` to the last: a function of (seed, step) alone.

    The first `places` places of a batch take the images in `masked`, the others all other images (or, if there are no
    others, the same ones). Each of the two streams passes through its images in one random order after the other,
    without gaps, so that the numbers of times that two images have been used never differ by more than one.

    Raises InputError if a stream has no image, or an image in `masked` is not in the data set.
    """

    def __init__(
        self, dataset: Dataset, masked: Sequence[Sample], config: TrainConfig, places: int, start: int = 0
    ) -> None:
        self.batch_size, self.places = config.batch_size, places
        self.seed, self.steps, self.start = config.seed, config.steps, start
        first = _indices(dataset, masked)
        rest = sorted(set(range(len(dataset))) - set(first)) or first
        self.streams = (np.array(first, int), np.array(rest, int))
        if (places and not first) or (places < self.batch_size and not rest):
            what = "masks" if rest else "images"
            raise InputError(f"data set {dataset.name}/{dataset.split}: no {what} to train on")

    def __len__(self) -> int:
        return max(0, self.steps - self.start)

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.start, self.steps):
            indices = [*self._take(0, step, self.places), *self._take(1, step, self.batch_size - self.places)]
            yield [(step, place, index) for place, index in enumerate(indices)]

    def _take(self, stream: int, step: int, count: int) -> list[int]:
        images = self.streams[stream]
        taken = []
        for position in range(step * count, (step + 1) * count):
            passes, place = divmod(position, len(images))
            taken.append(int(images[_permutation(self.seed, stream, passes, len(images))[place]]))
        return taken


@lru_cache(maxsize=4)
def _permutation(seed: int, stream: int, passes: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, stream, passes)).permutation(count)


def _indices(dataset: Dataset, masked: Sequence[Sample]) -> list[int]:
    """Places of the images in the data set, in ascending order."""
    places = {sample.id: index for index, sample in enumerate(dataset)}
    for sample in masked:
        if sample.id not in places or sample.mask_path is None:
            reason = "has no mask" if sample.id in places else "is not in it"
            raise InputError(f"data set {dataset.name}/{dataset.split}: image {sample.id} {reason}")
    return sorted({places[sample.id] for sample in masked})
