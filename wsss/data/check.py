"""Looking through a data set before hours are spent on it: what the other commands would stumble over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from wsss.data import folder
from wsss.data.config import DataConfig, load_config
from wsss.data.foreground import check_foreground_value
from wsss.data.load import list_splits, load_dataset
from wsss.data.sample import BACKGROUND, IGNORE, Dataset, Sample
from wsss.errors import InputError
from wsss.parallel import map_parallel
from wsss.words import agreeing, counted

_NAMED = 3  # images that a summary line names
_SHOWN = 30  # classes that are counted one by one
LARGE = 25_000_000
"""Pixels from which on a photograph is a large one: seeds do not mind, but labels and masks are made at full size."""


@dataclass(frozen=True)
class SplitReport:
    """Counts of one split. ``per_class``: images by class name; ``unlabelled``: images that show no chosen class."""

    split: str
    images: int
    masks: int
    unlabelled: int
    per_class: dict[str, int]

    @property
    def columns(self) -> dict[str, int]:
        """Images by class; of more classes than fit a table, how many are there and their fewest and most images."""
        if len(self.per_class) <= _SHOWN:
            return self.per_class
        counts = [count for count in self.per_class.values() if count]
        return {"classes": len(counts), "fewest": min(counts, default=0), "most": max(counts, default=0)}


@dataclass(frozen=True)
class CheckReport:
    """What `check_dataset` found. ``problems`` have to be mended, ``notes`` are worth knowing; one line each."""

    name: str
    root: Path
    splits: tuple[SplitReport, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The report as plain lines: counts by split and class, then notes, then problems."""
        found = [f"data set {self.name} in {self.root}"]
        for split in self.splits:
            counts = ", ".join(f"{name} {count}" for name, count in split.columns.items())
            size = f"{counted(split.images, 'image')}, {counted(split.masks, 'mask')}"
            rest = f", none of them {split.unlabelled}" if split.unlabelled else ""
            found.append(f"{split.split}: {size}; images by class: {counts}{rest}")
        found += [f"note: {line}" for line in self.notes]
        found += [f"problem: {line}" for line in self.problems]
        return found


@dataclass(frozen=True)
class _Finding:
    """What one image and its mask show."""

    id: str
    problems: tuple[str, ...] = ()
    shown: tuple[int, ...] | None = None  # class indices in the mask
    only_ignored: bool = False  # a mask of 0 and 255 alone
    turned: bool = False  # a photograph that is stored turned, and has a mask
    large: bool = False


def check_dataset(
    config: str | Path | DataConfig,
    splits: Sequence[str] | None = None,
    root: Path | None = None,
    workers: int = 1,
    foreground_value: int | None = None,
) -> CheckReport:
    """Read every image and mask of the splits (all splits unless given) and collect what is wrong.

    Problems: an image or mask that cannot be read; a listed image without file; an image without a row in the CSV or
    without any label; an unknown label; a pixel value that no class has; a mask of another size than its (upright)
    image; masks of which none shows a class; an image listed twice; and, in the lists ``train``, ``val`` and
    ``trainval`` of a devkit, a missing mask if other images of the list have theirs (these are the lists of images with
    masks; ``train_aug`` may lack some).

    Notes: masks for a part of the images only; masks without image; images of which labels and mask disagree; masks
    that hold 0 and 255 alone; photographs with masks that are stored turned; photographs of more than `LARGE` pixels.

    Raises InputError where nothing can be read at all: no root, no list, no CSV, no images.
    """
    check_foreground_value(foreground_value)
    config = load_config(config).with_foreground(foreground_value)
    where = config.find_root(root)
    problems: list[str] = []
    notes: list[str] = []
    datasets = [load_dataset(config, split, where, problems=problems) for split in splits or list_splits(config, where)]
    samples = dict.fromkeys(sample for dataset in datasets for sample in dataset)
    empty = replace(datasets[0], samples=())  # it travels to the workers with each image
    look = partial(_look, dataset=empty, highest=len(config.stored_names()))
    results = map_parallel(look, list(samples), workers=workers, description="checking images")
    findings = dict(zip(samples, results, strict=True))
    problems += [line for finding in findings.values() for line in finding.problems]
    for dataset in datasets:
        _check_masks(config, dataset, problems, notes)
        _compare_labels(dataset, findings, notes)
    if config.layout == "folder":
        stray = sorted(folder.mask_files(config, where).keys() - folder.image_files(where / config.images).keys())
        if stray:
            notes.append(f"{_some(stray)} in the folder of masks without an image of that name")
    _look_over(config, list(findings.values()), problems, notes)
    reports = tuple(_count(dataset) for dataset in datasets)
    return CheckReport(config.name, where, reports, tuple(dict.fromkeys(problems)), tuple(dict.fromkeys(notes)))


def _look(sample: Sample, dataset: Dataset, highest: int) -> _Finding:
    """Decode an image and its mask. `highest` is the last pixel value that has a class."""
    problems: list[str] = []
    size = None
    try:
        image = dataset.load_image(sample)
        size = (image.height, image.width)
        if size != dataset.image_size(sample):
            problems.append(f"image {sample.image_path}: {size} decoded, {dataset.image_size(sample)} in its header")
    except InputError as error:
        problems.append(str(error))
    large = size is not None and size[0] * size[1] > LARGE
    if sample.mask_path is None:
        return _Finding(sample.id, tuple(problems), large=large)
    try:
        mask, table = sample.stored_mask(), dataset.class_values(sample)
    except InputError as error:
        return _Finding(sample.id, (*problems, str(error)), large=large)
    if size is not None and (clash := sample.size_clash(size, mask.shape)):
        problems.append(clash)
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    known = {*range(highest + 1), IGNORE} if dataset.foreground_value is None else {0, dataset.foreground_value, IGNORE}
    unknown = sorted(set(values.tolist()) - known)
    if unknown:
        listed = ", ".join(map(str, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
        due = f"1 to {highest}, 0" if dataset.foreground_value is None else f"{dataset.foreground_value}, 0"
        problems.append(f"mask {sample.mask_path}: pixel values {listed} that no class has ({due} and 255)")
    shown = set(table[values].tolist()) - {BACKGROUND, IGNORE}
    only_ignored = bool(sample.classes) and not shown and IGNORE in values and set(values.tolist()) <= {0, IGNORE}
    turned = size is not None and sample.orientation > 1
    return _Finding(sample.id, tuple(problems), tuple(sorted(shown)), only_ignored, turned, large)


def _look_over(config: DataConfig, findings: list[_Finding], problems: list[str], notes: list[str]) -> None:
    """What the masks and photographs show together."""
    hollow = [finding.id for finding in findings if finding.only_ignored]
    if hollow:
        values = ", ".join(f"{value} {name}" for value, name in enumerate(config.stored_names()[:20], start=1))
        line = f"masks of 0 and 255 alone, and 255 is ignored (classes are {values}): {_some(hollow)}"
        if any(finding.shown for finding in findings):
            notes.append(line)
        else:
            problems.append(f"{line}; no mask shows a class: where 255 is the object, give `foreground_value` 255")
    turned = [finding.id for finding in findings if finding.turned]
    if turned:
        notes.append(
            f"photographs with masks are stored turned (EXIF orientation) and read upright: {_some(turned)}; their "
            "masks have to be of the upright photograph"
        )
    large = [finding.id for finding in findings if finding.large]
    if large:
        notes.append(
            f"photographs of more than {LARGE // 10**6} million pixels: {_some(large)}; labels and masks are made at "
            "full size, so shrink them before"
        )


def _check_masks(config: DataConfig, dataset: Dataset, problems: list[str], notes: list[str]) -> None:
    missing = [sample.id for sample in dataset if sample.mask_path is None]
    if not missing or len(missing) == len(dataset):
        return
    if config.layout == "voc" and dataset.split in ("train", "val", "trainval"):
        problems += [f"{dataset.split}: image {image_id} has no mask" for image_id in missing]
    else:
        notes.append(
            f"{dataset.split}: {len(missing)} of {len(dataset)} images {agreeing(len(missing), 'has', 'have')} no mask"
        )


def _compare_labels(dataset: Dataset, findings: dict[Sample, _Finding], notes: list[str]) -> None:
    differ = []
    for sample in dataset:
        shown = findings[sample].shown
        if shown is not None and set(shown) != set(sample.classes):
            differ.append(sample.id)
    if differ:
        notes.append(f"{dataset.split}: labels and mask name different classes in {_some(differ)}")


def _count(dataset: Dataset) -> SplitReport:
    shown = [c - 1 for sample in dataset for c in sample.classes]
    totals = np.bincount(np.array(shown, int), minlength=dataset.num_classes).tolist()
    return SplitReport(
        split=dataset.split,
        images=len(dataset),
        masks=sum(sample.mask_path is not None for sample in dataset),
        unlabelled=sum(not sample.classes for sample in dataset),
        per_class=dict(zip(dataset.class_names, totals, strict=True)),
    )


def _some(names: list[str]) -> str:
    """``3 (a, b, c)`` or ``9 (a, b, c, ...)``."""
    return f"{len(names)} ({', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''})"
