"""The one type every loader makes and every stage reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.data.files import image_size, read_image, read_label_image
from wsss.errors import InputError, did_you_mean

BACKGROUND = 0
IGNORE = 255


@dataclass(frozen=True, slots=True)  # a million of them are held at once
class Sample:
    """An image with its image-level labels.

    ``classes`` are the class indices shown, sorted, each in 1..C (0 is background and never listed); empty where the
    image shows no class of the list. ``mask_path`` is None where no mask exists. ``made_of`` is set where a result is
    due: the record that goes into its file (`wsss.store.records`).
    """

    id: str
    image_path: Path
    classes: tuple[int, ...]
    mask_path: Path | None = None
    made_of: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True)
class Dataset:
    """The samples of one split. Its methods read images and masks, as not every layout keeps each in a file.

    ``class_names[c - 1]`` is the name of class index ``c``. ``mask_values`` maps a pixel value stored in a mask file
    to a class index (uint8, 256 entries; values of classes outside the list map to 255).
    """

    name: str
    split: str
    root: Path
    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    mask_values: np.ndarray = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def num_classes(self) -> int:
        """C, the number of classes without background."""
        return len(self.class_names)

    def class_index(self, name: str) -> int:
        """Index (1..C) of a class name; InputError with the known names if there is none such."""
        if name not in self.class_names:
            raise InputError(f"class {name!r} is not in data set {self.name}: {did_you_mean(name, self.class_names)}")
        return self.class_names.index(name) + 1

    def load_image(self, sample: Sample) -> Image.Image:
        """The photograph as an upright RGB image. InputError if it cannot be read."""
        return read_image(sample.image_path)

    def image_size(self, sample: Sample) -> tuple[int, int]:
        """(height, width) of the upright photograph without decoding its pixels. InputError if it cannot be read."""
        return image_size(sample.image_path)

    def load_mask(self, sample: Sample) -> np.ndarray:
        """Ground truth (H, W) uint8 in 0..C, 255 where it is to be ignored. InputError if missing or unreadable."""
        if sample.mask_path is None:
            raise InputError(f"image {sample.id} of {self.name}/{self.split} has no mask")
        return self.mask_values[self.stored_mask(sample)]

    def stored_mask(self, sample: Sample) -> np.ndarray:
        """The pixel values (H, W) uint8 that the mask's file stores, before they are read as classes."""
        return read_label_image(sample.mask_path)

    def labels(self) -> np.ndarray:
        """Image-level labels (N, C) float32 of 0 and 1, in the order of the samples."""
        table = np.zeros((len(self.samples), self.num_classes), np.float32)
        for row, sample in enumerate(self.samples):
            table[row, [c - 1 for c in sample.classes]] = 1
        return table
