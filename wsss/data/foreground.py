"""Images of one object each, with masks: what the segmentation test of an explanation is measured on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from wsss.data.folder import image_files
from wsss.data.sample import BACKGROUND, IGNORE, Dataset, Sample
from wsss.errors import InputError
from wsss.words import agreeing, counted


def foreground_set(dataset: Dataset, classes: Sequence[str] | None = None) -> Dataset:
    """The samples that have a mask and show exactly one class, in their order.

    Args:
        dataset: any data set; its class indices stay as they are.
        classes: names of the classes to keep, all unless given. An image that shows one of them beside any other class
            of the data set is left out.

    Raises InputError for an unknown class name, or where no sample is left.
    """
    wanted = set(range(1, dataset.num_classes + 1))
    if classes is not None:
        wanted = {dataset.class_index(name) for name in classes}
    samples = tuple(s for s in dataset if s.mask_path is not None and len(s.classes) == 1 and s.classes[0] in wanted)
    if not samples:
        which = f"of the classes {', '.join(classes)}" if classes is not None else "of any class"
        masks = sum(sample.mask_path is not None for sample in dataset)
        raise InputError(
            f"data set {dataset.name}/{dataset.split}: no image with a mask shows one class only, {which} "
            f"({counted(len(dataset), 'image')}, {masks} with a mask)"
        )
    return replace(dataset, samples=samples)


def foreground_truth(mask: np.ndarray, class_index: int) -> np.ndarray:
    """What a map of one class is judged against.

    >>> foreground_truth(np.array([[0, 7, 3, 255]]), 7)
    array([[  0,   1, 255, 255]], dtype=uint8)

    Args:
        mask: (H, W) as `Dataset.load_mask` gives it, class indices and 255.
        class_index: index of the class, 1 or more.

    Returns:
        uint8 (H, W): 0 background, 1 that class, 255 ignored, also where the mask shows another class.
    """
    truth = np.full(mask.shape, IGNORE, np.uint8)
    truth[mask == BACKGROUND] = 0
    truth[mask == class_index] = 1
    return truth


def check_foreground(dataset: Dataset, samples: Sequence[Sample] | None = None) -> None:
    """Raise unless the masks show something: of masks that show no class at all, every figure would be a perfect one.

    Reads masks until one shows a class: one, as a rule.

    Args:
        samples: images of the data set whose masks are to be used, all unless given; those without a mask or without a
            class do not count.

    Raises:
        InputError: what the masks hold instead, and what would tell it as foreground; or a mask that cannot be read.
    """
    masked = [s for s in (dataset.samples if samples is None else samples) if s.mask_path is not None and s.classes]
    values: set[int] = set()
    for sample in masked:
        stored, classes = np.unique(sample.stored_mask()), dataset.class_values(sample)
        if set(classes[stored].tolist()) - {BACKGROUND, IGNORE}:
            return
        values |= set(stored.tolist())
    if not masked:
        return
    found, others = " and ".join(map(str, sorted(values)[:8])), values - {BACKGROUND}
    ignored = ", and 255 is ignored" if IGNORE in values and dataset.foreground_value is None else ""
    hint = f"; where {max(others)} is the object, give `foreground_value` {max(others)}" if others else ""
    raise InputError(
        f"data set {dataset.name}/{dataset.split}: no mask shows a class: "
        f"{counted(len(masked), 'mask')} {agreeing(len(masked), 'holds', 'hold')} {found} alone{ignored}{hint}"
    )


def paired_folders(images: Path, masks: Path, foreground_value: int | None = None) -> Dataset:
    """A folder of images and a folder of masks of the same names, as a data set with the single class "object".

    Args:
        images: folder of jpg, jpeg, png, bmp or webp files.
        masks: folder of palette or grey-scale PNGs ``<name of the image without suffix>.png``: 0 background, 255
            ignored, any other value foreground.
        foreground_value: the pixel value that is foreground, 255 too; 0 is background, and all others are ignored.

    Returns:
        Name: that of the folder of images; split "all"; in the order of the names.

    Raises InputError naming an image without mask, a mask without image, or two images of one name.
    """
    images, masks = Path(images), Path(masks)
    check_foreground_value(foreground_value)
    if not masks.is_dir():
        raise InputError(f"folder {masks}: no such folder (masks)")
    photographs = image_files(images)
    found = {name[:-4]: masks / name for name in sorted(os.listdir(masks)) if _is_mask(name)}
    for stem, paths in photographs.items():
        if len(paths) > 1:
            raise InputError(f"image {paths[0]}: {paths[1].name} has the same name; one image for each mask")
        if stem not in found:
            raise InputError(f"image {paths[0]}: no mask {masks / stem}.png")
    for stem, path in found.items():
        if stem not in photographs:
            raise InputError(f"mask {path}: no image of that name in {images}")
    table = np.full(256, 1 if foreground_value is None else IGNORE, np.uint8)
    table[BACKGROUND], table[IGNORE] = BACKGROUND, IGNORE
    if foreground_value is not None:
        table[foreground_value] = 1
    return Dataset(
        name=images.resolve().name,
        split="all",
        root=images,
        class_names=("object",),
        samples=tuple(Sample(stem, paths[0], (1,), found[stem]) for stem, paths in sorted(photographs.items())),
        mask_values=table,
        foreground_value=foreground_value,
    )


def check_foreground_value(value: int | None) -> None:
    """InputError if a value is given that no pixel of a foreground can have."""
    if value is not None and not 1 <= value <= IGNORE:
        raise InputError(f"`foreground_value` {value}: expected a pixel value from 1 to {IGNORE}; 0 is background")


def _is_mask(name: str) -> bool:
    return name.lower().endswith(".png") and not name.startswith(".")
