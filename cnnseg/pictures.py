"""The evolution of heat-maps and segmentations over a training: figures 2 and 3 of Yu et al. (2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cnnseg.history import read_history
from cnnseg.settings import STAGE
from cnnseg.snapshots import SNAPSHOTS, read_snapshot
from wsss.data import Dataset, Sample
from wsss.errors import InputError, did_you_mean
from wsss.overlay import fit_width, mask_overlay, signed_picture
from wsss.progress import track
from wsss.report.colours import IGNORED, class_palette, with_names
from wsss.report.gallery import check_page, write_gallery
from wsss.report.pictures import ImageBlock, Picture, image_iou, jpeg, png

WIDTH = 224
PERCENTILE = 99.5
"""Of |relevance|: what the full colours of a signed heat-map stand for. A few pixels have many times more."""

_LINES = (
    "Heat-maps of the classes that each image shows. The first column is the network before its first step: relevance "
    f"with its sign, blue below 0, white 0, red above; full colours at percentile {PERCENTILE:g} of its absolute "
    "value, each map on its own scale. All later columns: probability of the class at each pixel, that is after "
    "softmax over all classes and background, white 0, red 1; heat-maps are first scaled to the size of the training's "
    "crops, where each pixel had a larger share of the relevance, or a smaller one.",
    "Segmentations: the class of the highest score at each pixel; the network is not told which classes an image "
    "shows. IoU: mean over background and the classes in the ground truth or the segmentation, at native size.",
)


@dataclass(frozen=True)
class Shown:
    """The columns: steps, ascending, and the mIoU on the validation split at each (per cent), where it is known."""

    steps: tuple[int, ...]
    miou: Mapping[int, float]
    best: int | None
    """The step of the highest mIoU of the whole training; None if no mIoU is known."""


def write_evolution(
    run: Path,
    dataset: Dataset,
    out: Path,
    *,
    images: Sequence[str] | None = None,
    columns: int = 6,
    width: int = WIDTH,
    command: str = "",
) -> int:
    """Write a self-contained HTML page about the snapshots of a training; returns the number of images.

    Args:
        run: holds ``network/snapshots/<step>/<id>.npz`` and ``network/history.jsonl``.
        dataset: the split of the images.
        images: their ids; None: all of the split that have snapshots.
        columns: how many steps, see `choose_steps`.
        width: of each picture, in pixels.

    Raises:
        InputError: no snapshots, none of this split, damaged ones, another number of classes, or a bad option.
    """
    check_page(out)
    if columns < 2:
        raise InputError(f"`columns` {columns}: expected at least 2, the first step and the last")
    folder = run / STAGE / SNAPSHOTS
    steps = sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal() and path.is_dir())
    if not steps:
        raise InputError(
            f"{folder}: no snapshots; `cnnseg train-unrolled --snapshots ID ...` keeps those of some images"
        )
    shown = choose_steps(steps, _mious(run / STAGE), columns)
    samples = _choose_samples(folder, shown.steps, dataset, images)
    palette = class_palette(dataset, [c for sample in samples for c in sample.classes])
    blocks = [draw_block(sample, dataset, folder, shown.steps, width, palette) for sample in track(samples, "draw")]
    best = [] if shown.best is None else [f"Highest mIoU of the training: step {shown.best}."]
    figures = [f"{shown.miou[step]:.1f}" if step in shown.miou else "" for step in shown.steps]
    write_gallery(
        out,
        dataset,
        blocks,
        [f"step {step}" for step in shown.steps],
        title=f"Evolution of {run.resolve().name}",
        lines=[*_LINES, *best],
        table=[["step", *map(str, shown.steps)], ["mIoU on the validation split, %", *figures]] if shown.miou else [],
        ramps=[
            ("relevance below 0", "linear-gradient(to right, #00f, #fff, #f00)", "above 0"),
            ("probability 0", "linear-gradient(to right, #fff, #f00)", "1"),
        ],
        width=width,
        palette=palette,
        command=command,
    )
    return len(blocks)


def choose_steps(steps: Sequence[int], miou: Mapping[int, float], count: int) -> Shown:
    """At most `count` of the steps: the first, and others evenly spread over log(step) up to that of the highest mIoU.

    Without any mIoU, or where the first step is the best, up to the last step. Ties of mIoU go to the earlier step.

    >>> choose_steps(range(0, 9000, 1000), {1000: 20.0, 4000: 41.5, 8000: 40.0}, 4).steps
    (0, 1000, 2000, 4000)
    """
    steps = sorted(steps)
    best = min(miou, key=lambda step: (-miou[step], step)) if miou else None
    end = best if best is not None and best > steps[0] else steps[-1]
    later = [step for step in steps[1:] if step <= end]
    if len(later) >= count:
        chosen = {later[-1]}
        for target in np.geomspace(later[0], later[-1], count - 1)[:-1]:
            free = [step for step in later if step not in chosen]
            chosen.add(min(free, key=lambda step: (abs(np.log(step / target)), step)))
        later = sorted(chosen)
    return Shown((steps[0], *later), miou, best)


def draw_block(
    sample: Sample,
    dataset: Dataset,
    folder: Path,
    steps: Sequence[int],
    width: int = WIDTH,
    palette: np.ndarray | None = None,
) -> ImageBlock:
    """All pictures of one image: a row of segmentations, and a row of heat-maps for each class that it shows."""
    palette = class_palette(dataset, sample.classes) if palette is None else palette
    photograph = np.asarray(dataset.load_image(sample))
    small = fit_width(photograph, width)
    truth = dataset.load_mask(sample) if sample.mask_path is not None else None
    shown_truth = None
    if truth is not None:
        if clash := sample.size_clash(photograph.shape[:2], truth.shape):
            raise InputError(clash)
        shown_truth = jpeg(_painted(small, truth, palette, dataset), f"Ground truth of image {sample.id}")
    masks: list[Picture] = []
    heats: dict[int, list[Picture]] = {c: [] for c in sample.classes}
    for step in steps:
        path = folder / str(step) / f"{sample.id}.npz"
        what = f"of image {sample.id} at step {step}"
        if not path.is_file():
            for row in (masks, *heats.values()):
                row.append(Picture(None, f"No picture {what}", "not made"))
            continue
        maps, strength = read_snapshot(path, dataset.num_classes + 1)
        mask = segmentation(maps, photograph.shape[:2])
        iou = np.nan if truth is None else 100 * image_iou(mask, truth, dataset.num_classes + 1, path)
        caption = f"IoU {iou:.1f}" if np.isfinite(iou) else ""
        masks.append(
            jpeg(
                _painted(small, mask, palette, dataset),
                f"Segmentation {what}{', ' if caption else ''}{caption}",
                caption,
            )
        )
        probability = softmax(maps * strength) if step > 0 else None
        for c, row in heats.items():
            name = dataset.class_names[c - 1]
            if probability is None:
                drawn, scale = draw_signed(maps[c], small.shape[:2])
                caption = f"full colours at {scale:.2g}"
                row.append(png(drawn, f"Signed heat-map of {name} {what}, {caption}", caption))
            else:
                drawn = signed_picture(resized(probability[c], small.shape[:2]), 1)
                row.append(png(drawn, f"Probability of {name} {what}"))
    names = tuple(dataset.class_names[c - 1] for c in sample.classes)
    alt = f"Photograph {sample.id}, {', '.join(names) or 'no class of the list'}"
    rows = [("segmentation", tuple(masks))]
    rows += [(f"heat-map of {dataset.class_names[c - 1]}", tuple(row)) for c, row in heats.items()]
    return ImageBlock(sample.id, names, jpeg(small, alt), shown_truth, tuple(rows))


def softmax(maps: np.ndarray) -> np.ndarray:
    """Over the first axis."""
    powers = np.exp(maps - maps.max(0))
    return powers / powers.sum(0)


def segmentation(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Class of the highest score, uint8 (H, W): scores (K, h, w) enlarged to `size` bilinearly."""
    return np.stack([_linear(scores, size) for scores in maps]).argmax(0).astype(np.uint8)


def draw_signed(relevance: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """A signed heat-map (h, w) in blue, white and red at `size`, and the relevance that the full colours stand for."""
    values = resized(relevance, size)
    scale = float(np.percentile(np.abs(values), PERCENTILE)) or float(np.abs(values).max())
    return signed_picture(values, scale), scale


def resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) at `size`: averaged over areas where it shrinks, bilinear where it grows."""
    if values.shape[0] > size[0]:
        return cv2.resize(values, size[::-1], interpolation=cv2.INTER_AREA)
    return _linear(values, size)


def _linear(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)


def _painted(small: np.ndarray, mask: np.ndarray, palette: np.ndarray, dataset: Dataset) -> np.ndarray:
    little = cv2.resize(mask, small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    drawn = mask_overlay(small, little, palette, 0.7, contours=False, neutral=IGNORED)  # may be specks
    return with_names(drawn, little, dataset.class_names)


def _mious(folder: Path) -> dict[int, float]:
    """Step -> mIoU in per cent, of the evaluations that have one."""
    rows = read_history(folder)
    return {row["step"]: row["miou"] for row in rows if row.get("miou") is not None}


def _choose_samples(folder: Path, steps: Sequence[int], dataset: Dataset, images: Sequence[str] | None) -> list[Sample]:
    kept = {path.stem for step in steps for path in (folder / str(step)).glob("*.npz") if path.name[0] != "."}
    mine = {sample.id: sample for sample in dataset if sample.id in kept}
    if not mine:
        raise InputError(
            f"`split` {dataset.split}: none of its images is among the snapshots in {folder}: {', '.join(sorted(kept))}"
        )
    for image_id in images or ():
        if image_id not in mine:
            raise InputError(
                f"`images` {image_id}: no snapshots of it, or not in split {dataset.split} of {dataset.name}; "
                f"{did_you_mean(image_id, mine)}"
            )
    return [mine[image_id] for image_id in dict.fromkeys(images or mine)]
