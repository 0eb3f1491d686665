"""The maps of the segmentation test: the same best, median and worst images across the runs."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from wsss.colours import PAPER
from wsss.data import Dataset, Sample
from wsss.errors import InputError
from wsss.explanation_tests.figures import foreground, image_ious
from wsss.overlay import fit_width, heat_overlay, mask_overlay
from wsss.report.colours import IGNORED, class_palette, with_names
from wsss.report.explanation import TestRow, TestSection
from wsss.report.pictures import Picture, edged, jpeg

WIDTH = 224


@dataclass(frozen=True)
class MapBlock:
    """The pictures of one image: photograph and ground truth where the data set is at hand, and each run's map."""

    id: str
    place: str
    """ "best, rank 1 of 165", "median, ...", "worst, ..."."""
    classes: tuple[str, ...]
    photograph: Picture | None
    truth: Picture | None
    cells: tuple[tuple[str, Picture], ...]
    """(label of the run, its map)."""


def choose_ranked(ids: Sequence[str], scores: np.ndarray, count: int) -> list[tuple[str, str]]:
    """(id, place) of about a third of `count` images (at least one) each at the top, in the middle, and at the bottom.

    All images where there are no more than that. Ties are ordered by id, so the choice is always the same.
    """
    order = sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i]))
    total, each = len(order), max(1, round(count / 3))
    middle = (total - each) // 2
    groups = {"best": range(each), "median": range(middle, middle + each), "worst": range(total - each, total)}
    if total <= 3 * each:
        groups = {"": range(total)}
    return [
        (ids[order[rank]], f"{group}, rank {rank + 1} of {total}".removeprefix(", "))
        for group, ranks in groups.items()
        for rank in ranks
    ]


def draw_maps(
    section: TestSection, dataset: Dataset | None, *, count: int, images: Sequence[str] | None = None
) -> list[MapBlock]:
    """Draw the maps of a segmentation test, from the best image to the worst by its mIoU, the mean over the runs.

    Args:
        section: its runs; those without results per image, or with other images, are left out.
        dataset: the split, for photographs and ground truth; without it the maps alone are drawn.
        count: how many images to choose.
        images: ids to show instead; those that the test does not have are left out.
    """
    scores: dict[str, dict[str, float]] = {}
    for row in section.rows:
        if row.run in section.results:
            results = section.results[row.run]
            ious = image_ious(results["confusion"]).tolist()
            scores[row.run] = dict(zip(results["ids"].tolist(), ious, strict=True))
    common = sorted(set.intersection(*map(set, scores.values()))) if scores else []
    if images is not None:
        chosen = [(image_id, "") for image_id in dict.fromkeys(images) if image_id in common]
    else:
        means = np.array([np.mean([score[image_id] for score in scores.values()]) for image_id in common])
        chosen = choose_ranked(common, means, count) if common else []
    if not chosen:
        return []
    wanted = {image_id for image_id, _ in chosen}
    shown = [row for row in section.rows if row.run in scores]
    maps = {row.run: read_maps(row.results, wanted) for row in shown}
    samples = {sample.id: sample for sample in dataset if sample.id in wanted} if dataset is not None else {}
    return [_block(image_id, place, shown, maps, scores, dataset, samples.get(image_id)) for image_id, place in chosen]


def read_maps(folder: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    """The maps of some images, id -> (h, w) float32, from the parts of a segmentation test, one part at a time."""
    found: dict = {}
    for path in sorted(folder.glob("part-*.npz")):
        try:
            with np.load(path, allow_pickle=False) as part:
                ids = part["ids"].tolist()
                if not wanted.intersection(ids):
                    continue
                maps = part["maps"]
                found |= {i: maps[k].astype(np.float32) for k, i in enumerate(ids) if i in wanted}
        except (ValueError, KeyError, IndexError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            fault = " ".join(str(error).split())
            raise InputError(
                f"{path}: no maps of a segmentation test, or half-written ({fault}); delete it and run the test again"
            ) from None
    return found


def _block(
    image_id: str,
    place: str,
    rows: Sequence[TestRow],
    maps: dict[str, dict[str, np.ndarray]],
    scores: dict[str, dict[str, float]],
    dataset: Dataset | None,
    sample: Sample | None,
) -> MapBlock:
    photograph = truth = None
    names: tuple[str, ...] = ()
    small = np.full((WIDTH, WIDTH, 3), PAPER, np.uint8)
    if dataset is not None and sample is not None:
        small = fit_width(np.asarray(dataset.load_image(sample)), WIDTH)
        names = tuple(dataset.class_names[c - 1] for c in sample.classes)
        photograph = jpeg(small, f"Photograph {image_id}, {', '.join(names)}")
        if sample.mask_path is not None:
            mask = cv2.resize(dataset.load_mask(sample), small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            drawn = mask_overlay(small, mask, class_palette(dataset, sample.classes), 0.6, neutral=IGNORED)
            truth = jpeg(with_names(drawn, mask, dataset.class_names), f"Ground truth of image {image_id}")
    cells = []
    for row in rows:
        heat = maps[row.run].get(image_id)
        if heat is None or not np.isfinite(heat).all():
            raise InputError(
                f"{row.results}: no finite map of image {image_id}; delete the folder and run the test again"
            )
        caption = f"mIoU {100 * scores[row.run][image_id]:.1f}"
        alt = f"Map of {row.label} on image {image_id}, {caption}"
        cells.append((row.label, jpeg(_drawn(small, heat), alt, caption)))
    return MapBlock(image_id, place, names, photograph, truth, tuple(cells))


def _drawn(small: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A map as heat, with the outline of its foreground: what lies above its mean."""
    full = cv2.resize(heat, small.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    low, high = float(full.min()), float(full.max())
    scaled = (full - low) / (high - low) if high > low else np.zeros_like(full)
    return edged(heat_overlay(small, scaled), foreground(full).astype(np.uint8))
