"""The one type every loader makes and every stage reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from wsss.data.files import image_size, orientation, read_image, read_label_image
from wsss.errors import InputError, did_you_mean

T = TypeVar("T")

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

    def load_image(self) -> Image.Image:
        """The photograph as an upright RGB image. InputError if it cannot be read.

        Whatever reads photographs of a data set reads them by this: not every layout keeps each in a file of its own.
        """
        return read_image(self.image_path)

    def image_size(self) -> tuple[int, int]:
        """(height, width) of the upright photograph without decoding its pixels. InputError if it cannot be read."""
        return image_size(self.image_path)

    def stored_mask(self) -> np.ndarray:
        """The pixel values (H, W) uint8 that the mask's file stores, before they are read as classes.

        InputError if it is missing or cannot be read.
        """
        if self.mask_path is None:
            raise InputError(f"image {self.id} has no mask")
        return read_label_image(self.mask_path)

    @property
    def orientation(self) -> int:
        """How the photograph's file stores it (EXIF): 1 as it is read, 2 to 8 turned or mirrored."""
        return orientation(self.image_path)

    @property
    def mask_name(self) -> str:
        """The mask, for messages."""
        return f"mask {self.mask_path}"

    def size_clash(self, size: tuple[int, int], shape: tuple[int, ...], name: str | None = None) -> str | None:
        """What is wrong where a mask has not the size of its photograph; None where it has.

        Args:
            size: (height, width) of the upright photograph. shape: of the mask.
            name: of the mask, for the message; `mask_name` unless given.
        """
        if tuple(shape) == tuple(size):
            return None
        sizes = f"{shape[1]} x {shape[0]} pixels, its image {size[1]} x {size[0]} (width x height)"
        return f"{name or self.mask_name}: {sizes}; they must be of one size{self.turn_hint(size, shape)}"

    def turn_hint(self, size: tuple[int, int], shape: tuple[int, ...]) -> str:
        """A closing clause where a mask of `shape` fits the photograph as it is stored, not as it is read; else ""."""
        if tuple(shape) != tuple(size[::-1]) or self.orientation < 5:
            return ""
        return (
            f": the photograph is stored turned (EXIF orientation {self.orientation}) and read upright, so turn the "
            "mask upright, too"
        )


@dataclass(frozen=True)
class Dataset:
    """The samples of one split.

    ``class_names[c - 1]`` is the name of class index ``c``. ``mask_values`` maps a pixel value stored in a mask file
    to a class index (uint8, 256 entries; values of classes outside the list map to 255). With a ``foreground_value``
    that value is the one class which the image is labelled with, 0 is background, and all else is ignored.
    """

    name: str
    split: str
    root: Path
    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    mask_values: np.ndarray = field(repr=False, compare=False)
    foreground_value: int | None = None

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
        return sample.load_image()

    def image_size(self, sample: Sample) -> tuple[int, int]:
        """(height, width) of the upright photograph without decoding its pixels. InputError if it cannot be read."""
        return sample.image_size()

    def load_mask(self, sample: Sample) -> np.ndarray:
        """Ground truth (H, W) uint8 in 0..C, 255 where it is to be ignored. InputError if missing or unreadable."""
        if sample.mask_path is None:
            raise InputError(f"image {sample.id} of {self.name}/{self.split} has no mask")
        return self.class_values(sample)[sample.stored_mask()]

    def class_values(self, sample: Sample) -> np.ndarray:
        """Stored pixel value -> class index in the mask of a sample, uint8 (256,).

        InputError for an image of several classes in masks with a ``foreground_value``.
        """
        if self.foreground_value is None:
            return self.mask_values
        if len(sample.classes) > 1:
            names = ", ".join(self.class_names[c - 1] for c in sample.classes)
            raise InputError(
                f"`foreground_value` {self.foreground_value}: image {sample.id} is labelled {names}; a mask of one "
                "value goes with a single class an image"
            )
        table = self.mask_values.copy()
        table[self.foreground_value] = sample.classes[0] if sample.classes else IGNORE
        return table

    def check_labelled(self) -> None:
        """InputError if no image shows a class of the list: there is nothing to learn from its labels."""
        if not any(sample.classes for sample in self.samples):
            raise InputError(
                f"data set {self.name}/{self.split}: no image shows any of the classes {', '.join(self.class_names)}"
            )

    def check_maskable(self) -> None:
        """InputError if the data set has more classes than a mask can show."""
        if self.num_classes >= IGNORE:
            raise InputError(
                f"data set {self.name}: expected at most {IGNORE - 1} classes in masks, got {self.num_classes}; name "
                "the ones to be segmented under classes in its YAML"
            )

    def labels(self) -> np.ndarray:
        """Image-level labels (N, C) float32 of 0 and 1, in the order of the samples."""
        table = np.zeros((len(self.samples), self.num_classes), np.float32)
        for row, sample in enumerate(self.samples):
            table[row, [c - 1 for c in sample.classes]] = 1
        return table


def evenly_spread(items: Sequence[T], count: int | None) -> tuple[T, ...]:
    """`count` of the items, evenly spread, the first and the last among them; all if None or if fewer."""
    if count is None or count >= len(items):
        return tuple(items)
    return tuple(items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int))
