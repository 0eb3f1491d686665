"""The pictures of a report: which images, and each stage of each run drawn on them, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.data import IGNORE, Dataset, Sample, evenly_spread
from wsss.entries import READING_ALPHA, STAGES, stage_file
from wsss.errors import InputError, did_you_mean
from wsss.metrics import ConfusionMatrix, seed_to_mask
from wsss.overlay import contour_overlay, fit_width, heat_overlay, label_picture, mask_overlay
from wsss.parallel import map_parallel
from wsss.report.colours import IGNORED, class_palette, with_names
from wsss.report.tables import STAGE_TITLES
from wsss.store import read_mask, read_seed

WIDTH = 320
EDGE = (20, 24, 30)
SEED_OPACITY = 0.65
"""Seeds are 1 all over their object: at the usual opacity it would not be seen."""

LARGEST = 640
"""Pixels, of the pictures of a page: of usual ones, and of those of a page that has few, which may be enlarged."""

QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """One cell of the report: the picture as data URI (None: there is none), what it shows, a line beneath."""

    uri: str | None
    alt: str
    caption: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class ImageBlock:
    """The pictures of one image: photograph and ground truth once, then one row a run, a cell for each stage."""

    id: str
    classes: tuple[str, ...]
    photograph: Picture
    truth: Picture | None
    rows: tuple[tuple[str, tuple[Picture, ...]], ...]


@dataclass(frozen=True)
class Choice:
    """The images to show and how they were chosen."""

    samples: tuple[Sample, ...]
    how: str


def choose_images(
    dataset: Dataset,
    runs: dict[str, Path],
    *,
    ids: Sequence[str] | None = None,
    count: int = 8,
    workers: int = 1,
) -> Choice:
    """Which images to show: the named ones; else spread over the ranks of mask IoU; else spread over the split.

    Deterministic. The IoU of an image is the mean over its classes, and over the runs that have a mask of it.
    """
    if ids:
        known = {sample.id: sample for sample in dataset}
        for image_id in ids:
            if image_id not in known:
                near = did_you_mean(image_id, known) if len(known) <= 20 else "see the data set's list of images"
                raise InputError(f"`images` {image_id}: not in split {dataset.split} of {dataset.name}; {near}")
        return Choice(tuple(known[image_id] for image_id in dict.fromkeys(ids)), "named with --images")
    shown = [
        s for s in dataset if any(stage_file(run, stage, s.id).is_file() for run in runs.values() for stage in STAGES)
    ]
    if not shown:
        raise InputError(
            f"{', '.join(map(str, runs.values()))}: no files of split {dataset.split} of {dataset.name} to show; "
            "make the seeds of this split first"
        )
    folders = tuple(run / "masks" for run in runs.values())
    ranked = [s for s in shown if s.mask_path and any((f / f"{s.id}.png").is_file() for f in folders)]
    if not ranked:
        return Choice(evenly_spread(shown, count), "spread evenly over the split")
    score = _MaskIoU(folders, replace(dataset, samples=()))
    values = list(map_parallel(score, ranked, workers=workers, description="choose images"))
    order = sorted(range(len(ranked)), key=lambda i: (values[i], ranked[i].id))
    chosen = evenly_spread([ranked[i] for i in order], count)
    return Choice(chosen, "at evenly spaced ranks of the masks' IoU, from the worst image to the best")


@dataclass(frozen=True)
class _MaskIoU:
    """Mean IoU of one image's masks; picklable."""

    folders: tuple[Path, ...]
    dataset: Dataset

    def __call__(self, sample: Sample) -> float:
        truth = self.dataset.load_mask(sample)
        _check_size(sample, truth, sample.image_size())
        found = [folder for folder in self.folders if (folder / f"{sample.id}.png").is_file()]
        scores = [
            image_iou(read_mask(f, sample.id), truth, self.dataset.num_classes + 1, f / f"{sample.id}.png")
            for f in found
        ]
        return float(np.mean(np.nan_to_num(scores)))  # all pixels ignored: counts as the worst


def image_iou(mask: np.ndarray, truth: np.ndarray, num_classes: int, path: Path) -> float:
    """Mean IoU over the classes of one image, in [0, 1]; NaN if all is ignored. InputError naming `path`."""
    matrix = ConfusionMatrix(num_classes)
    try:
        matrix.update(mask, truth)
    except ValueError as error:
        raise InputError(f"{path}: {error}; delete it and run the command that makes it again") from None
    return matrix.miou


def draw_block(
    sample: Sample,
    dataset: Dataset,
    runs: dict[str, Path],
    stages: Sequence[str],
    *,
    alpha: float,
    width: int = WIDTH,
    palette: np.ndarray | None = None,
) -> ImageBlock:
    """Read and draw everything about one image.

    Args:
        runs: name -> folder. stages: which to draw, in order.
        alpha: of the alpha rule, for the contour on a seed.
        width: of the pictures, in pixels.
        palette: colours of the classes, uint8 (256, 3); those of `class_palette` unless given.
    """
    palette = class_palette(dataset, sample.classes) if palette is None else palette
    photograph = np.asarray(dataset.load_image(sample))
    size = photograph.shape[:2]
    small = fit_width(photograph, width)
    names = tuple(dataset.class_names[c - 1] for c in sample.classes)
    truth = dataset.load_mask(sample) if sample.mask_path else None
    shown_truth = None
    if truth is not None:
        _check_size(sample, truth, size)
        little = fit_width(truth, width, nearest=True)
        drawn = with_names(mask_overlay(small, little, palette, 0.6, neutral=IGNORED), little, dataset.class_names)
        shown_truth = jpeg(drawn, f"Ground truth of image {sample.id}: {_named(truth, dataset)}")
    draw = _Drawing(sample, dataset, small, size, truth, alpha, palette)
    rows = tuple((name, tuple(draw.cell(name, run, stage) for stage in stages)) for name, run in runs.items())
    alt = f"Photograph {sample.id}, labelled {', '.join(names) or 'with no class of the list'}"
    return ImageBlock(sample.id, names, jpeg(small, alt), shown_truth, rows)


@dataclass(frozen=True)
class _Drawing:
    sample: Sample
    dataset: Dataset
    small: np.ndarray
    size: tuple[int, int]
    truth: np.ndarray | None
    alpha: float
    palette: np.ndarray

    def cell(self, name: str, run: Path, stage: str) -> Picture:
        title = STAGE_TITLES[stage]
        path = stage_file(run, stage, self.sample.id)
        if not path.is_file():
            return Picture(None, f"{name} has no {title} of image {self.sample.id}", "not made")
        what = f"{name}, {title} of image {self.sample.id}"
        if STAGES[stage] == "seeds":
            return self._seed(what, path, READING_ALPHA.get(stage, self.alpha))
        mask = read_mask(path.parent, self.sample.id)
        _check_size(self.sample, mask, self.size, f"mask {path}")
        little = fit_width(mask, self.small.shape[1], nearest=True)
        if STAGES[stage] == "affinity_labels":
            neutral = 100 * float((mask == IGNORE).mean())
            alt = f"{what}: {_named(mask, self.dataset)}, {neutral:.0f} % neutral"
            drawn = with_names(label_picture(little, self.palette), little, self.dataset.class_names)
            return png(drawn, alt, f"{neutral:.0f} % neutral")
        caption = ""
        if self.truth is not None:
            iou = image_iou(mask, self.truth, self.dataset.num_classes + 1, path)
            caption = f"IoU {100 * iou:.1f}" if np.isfinite(iou) else ""
        alt = f"{what}: {_named(mask, self.dataset)}" + (f", {caption}" if caption else "")
        drawn = with_names(mask_overlay(self.small, little, self.palette), little, self.dataset.class_names)
        return jpeg(drawn, alt, caption)

    def _seed(self, what: str, path: Path, alpha: float) -> Picture:
        seed = read_seed(path.parent, self.sample.id)
        if tuple(seed.size) != self.size:
            raise InputError(
                f"{path}: made for an image of {seed.size}, {self.sample.id} is {self.size}; make it again"
            )
        scores = seed.upsample(self.small.shape[:2])
        heat = scores.max(0) if len(scores) else np.zeros(self.small.shape[:2], np.float32)
        mask = seed_to_mask(scores, seed.classes, alpha=alpha)
        drawn = edged(heat_overlay(self.small, heat.clip(0, 1), SEED_OPACITY), mask)
        drawn = with_names(drawn, mask, self.dataset.class_names)
        caption = f"{100 * float((mask > 0).mean()):.0f} % foreground at alpha {alpha:g}"
        return jpeg(drawn, f"{what}: heat map, {_named(mask, self.dataset)} by the alpha rule, {caption}", caption)


def edged(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with thin dark edges about the regions of a mask (H, W), which leave the heat beneath as it is."""
    regions = np.unique(mask, return_inverse=True)[1].reshape(mask.shape).astype(np.uint8)  # few of perhaps 1,000
    if mask.max() == 0:
        return picture
    regions += mask.min() > 0
    return contour_overlay(picture, regions, np.full((256, 3), EDGE, np.uint8), rim=None)


def _named(mask: np.ndarray, dataset: Dataset) -> str:
    """The classes in a mask with their share of the pixels, for alternative texts."""
    values, counts = np.unique(mask, return_counts=True)
    parts = [
        f"{dataset.class_names[v - 1]} {100 * n / mask.size:.0f} %"
        for v, n in zip(values.tolist(), counts.tolist(), strict=True)
        if 1 <= v <= dataset.num_classes
    ]
    return ", ".join(parts) or "background only"


def _check_size(sample: Sample, mask: np.ndarray, size: tuple[int, int], name: str | None = None) -> None:
    if clash := sample.size_clash(size, mask.shape, name):
        raise InputError(clash)


def jpeg(picture: np.ndarray, alt: str, caption: str = "") -> Picture:
    """For photographs and what is drawn on them."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return _embed(buffer, "jpeg", picture, alt, caption)


def png(picture: np.ndarray, alt: str, caption: str = "") -> Picture:
    """For plain colours: they compress better so, and keep their edges."""
    buffer = io.BytesIO()
    Image.fromarray(picture).quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return _embed(buffer, "png", picture, alt, caption)


def _embed(buffer: io.BytesIO, kind: str, picture: np.ndarray, alt: str, caption: str) -> Picture:
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(uri, alt, caption, picture.shape[1], picture.shape[0])
