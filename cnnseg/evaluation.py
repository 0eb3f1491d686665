"""What a network says about whole images: masks, mIoU, classification scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cnnseg.models import Network
from cnnseg.segmentation.settings import ViewsConfig
from cnnseg.views import check_finite, likely_outputs, look, resized
from wsss.classification import ClassificationScores, classification_scores
from wsss.data import BACKGROUND, IGNORE, Dataset, Sample, check_foreground
from wsss.errors import InputError
from wsss.metrics import ConfusionMatrix
from wsss.progress import track
from wsss.store import write_mask

PAPER_SIDE = 256

PROTOCOLS = {
    "voc": "one confusion matrix over all images at native size, background included, 255 ignored",
    "paper": "Yu et al.'s own rule: the largest square in the middle of each image, "
    f"resized to {PAPER_SIDE} x {PAPER_SIDE}, 255 counted as background; labels are the classes in that square",
}
"""Rule of evaluation -> what is printed with its figures."""


@dataclass(frozen=True)
class Prediction:
    """What a network says of an image: mask (H, W) uint8 in 0..C, class probabilities (C,) float32; None if unsaid.

    ``pixels``, where they were asked for: probabilities of background and classes at each pixel, float32 (C + 1, H, W).
    """

    sample: Sample
    mask: np.ndarray | None
    probabilities: np.ndarray | None
    pixels: np.ndarray | None = None


@dataclass(frozen=True)
class Evaluation:
    """Figures of a network on some images; None for what it does not do, or what there is no ground truth for."""

    images: int
    matrix: ConfusionMatrix | None
    scores: ClassificationScores | None

    @property
    def miou(self) -> float | None:
        """In per cent; None if undefined."""
        return None if self.matrix is None else percent(self.matrix.miou)

    @property
    def macro_f1(self) -> float | None:
        """In per cent; None if undefined."""
        return None if self.scores is None else percent(self.scores.macro_f1)

    @property
    def mean_average_precision(self) -> float | None:
        """In per cent; None if undefined."""
        return None if self.scores is None else percent(self.scores.mean_average_precision)


def check_classes(network: Network, dataset: Dataset) -> None:
    """InputError if the outputs of a network are not the classes of a data set, in its order."""
    if network.class_names != dataset.class_names:
        theirs, ours = ", ".join(network.class_names), ", ".join(dataset.class_names)
        raise InputError(f"network made for other classes: {theirs}; data set {dataset.name} has: {ours}")


@torch.inference_mode()
def predict(
    network: Network,
    dataset: Dataset,
    samples: Sequence[Sample],
    *,
    size: int | None = None,
    centre: int | None = None,
    masks: bool = True,
    device: str = "cpu",
    batch_size: int = 4,
    precision: str = "float32",
    views: ViewsConfig = ViewsConfig(),
    labels_given: bool = False,
    pixels: bool = False,
) -> Iterator[Prediction]:
    """Run whole images through a network; those of equal size together, so not in the order given.

    Args:
        samples: images of `dataset`.
        size: the network sees each image resized to an area of `size`^2, in its own proportions; its maps are
            enlarged to native size (bilinear) before the strongest is taken. None: native size.
        centre: the largest square in the middle, resized to that side, is treated as the image.
        masks: False: class probabilities alone, without the cost of a decoder.
        precision: "float32" or "bfloat16", see `wsss.precision.autocast`.
        views: sizes and mirror images over which the probabilities of pixels are averaged, and the gate of classes.
        labels_given: a pixel can only be background or a class that its image is labelled with.
        pixels: the probabilities of pixels are wanted too; with labels given, among background and those classes.

    Raises:
        InputError: an image cannot be read, or a network that gives NaN or infinite values.
    """
    network.module.to(device).eval()
    for group, native, seen in _groups(dataset, samples, size, centre, batch_size):
        pictures = [_picture(dataset.load_image(sample), centre) for sample in group]
        logits, maps = look(network, pictures, seen, views, masks=masks, device=device, precision=precision)
        for index, sample in enumerate(group):
            mask = probabilities = of_pixels = None
            if masks and maps is not None:
                found = None if logits is None else logits[index]
                told = [BACKGROUND, *sample.classes] if labels_given else None
                allowed = told or likely_outputs(network, found, views.gate)
                scores = _allowed(check_finite(maps[index : index + 1], sample.id), allowed)
                mask = resized(scores, native)[0].argmax(0).to(torch.uint8).cpu().numpy()
                if pixels:
                    likely = scores if views.several else (scores.float() * network.strength(seen)).softmax(1)
                    likely = resized(likely.clamp(min=0), native)[0]
                    of_pixels = (likely / likely.sum(0)).cpu().numpy()
            if logits is not None:
                probabilities = check_finite(logits[index, 1:].float(), sample.id).sigmoid().cpu().numpy()
            yield Prediction(sample, mask, probabilities, of_pixels)


def evaluate_network(
    network: Network,
    dataset: Dataset,
    samples: Sequence[Sample] | None = None,
    *,
    protocol: str = "voc",
    masks: bool = True,
    description: str | None = None,
    **how: Any,
) -> Evaluation:
    """mIoU and classification scores, by one pass over the images; nothing is written.

    Args:
        samples: images of `dataset`, those without a mask do not count for mIoU; all if None.
        protocol: of ``PROTOCOLS``.
        masks: False: classification scores alone, without the cost of a decoder.
        description: of the progress that is shown; None: none is, as where a training shows its own.
        how: `size`, `device`, `batch_size`, `precision`, `views` and `labels_given` of :func:`predict`.
    """
    check_classes(network, dataset)
    samples = dataset.samples if samples is None else samples
    paper = protocol == "paper"
    has_truth = any(sample.mask_path is not None for sample in samples)
    wanted = masks and network.module.segments and has_truth
    if wanted:
        check_foreground(dataset, samples)
    matrix = ConfusionMatrix(dataset.num_classes + 1) if wanted else None
    rows: dict[str, np.ndarray] = {}
    shown: dict[str, tuple[int, ...]] = {}
    found = predict(network, dataset, samples, centre=PAPER_SIDE if paper else None, masks=matrix is not None, **how)
    if description is not None:
        found = track(found, description, total=len(samples))
    for one in found:
        if one.probabilities is not None:
            rows[one.sample.id] = one.probabilities
        if one.sample.mask_path is None or (matrix is None and not paper):
            continue
        truth = dataset.load_mask(one.sample)
        if clash := one.sample.size_clash(dataset.image_size(one.sample), truth.shape):
            raise InputError(clash)
        try:
            if paper:
                truth = _paper_truth(truth)
                shown[one.sample.id] = tuple(c for c in range(1, dataset.num_classes + 1) if (truth == c).any())
            if matrix is not None and one.mask is not None:
                matrix.update(one.mask, truth)
        except ValueError as error:
            raise InputError(f"{one.sample.mask_path}: {error}") from None
    labelled = [replace(sample, classes=shown.get(sample.id, sample.classes)) for sample in samples]
    return Evaluation(len(samples), matrix, _scores(dataset, labelled, rows))


def predict_masks(
    network: Network, dataset: Dataset, folder: Path, todo: Sequence[Sample], **how: Any
) -> ClassificationScores | None:
    """Write ``<folder>/<id>.png`` of the images in `todo`, each as soon as it is made.

    Args:
        how: `size`, `device`, `batch_size`, `precision`, `views` and `labels_given` of :func:`predict`.

    Returns:
        Classification scores over all images of `dataset` (those whose mask is there are classified only); None if
        the network does not classify.
    """
    check_classes(network, dataset)
    wanted = {sample.id for sample in todo}
    rows: dict[str, np.ndarray] = {}
    parts = [(True, list(todo))]
    if network.module.classifies:
        parts.append((False, [sample for sample in dataset if sample.id not in wanted]))
    for masks, samples in parts:
        found = predict(network, dataset, samples, masks=masks, **how)
        verb = "masks of" if masks else "classify"
        for one in track(found, f"{verb} {dataset.split}", total=len(samples)):
            if one.mask is not None:
                write_mask(folder, one.sample.id, one.mask, one.sample.made_of)
            if one.probabilities is not None:
                rows[one.sample.id] = one.probabilities
    return _scores(dataset, dataset.samples, rows)


def seen_size(native: tuple[int, int], size: int | None) -> tuple[int, int]:
    """(height, width) at which a network sees an image of `native` size: an area of about `size`^2; None: native."""
    factor = 1.0 if size is None else size / math.sqrt(native[0] * native[1])
    return max(1, round(native[0] * factor)), max(1, round(native[1] * factor))


def percent(value: float) -> float | None:
    """A fraction in per cent, None if it is undefined."""
    return round(100 * float(value), 4) if math.isfinite(value) else None


def _scores(dataset: Dataset, samples: Sequence[Sample], rows: dict[str, np.ndarray]) -> ClassificationScores | None:
    if not rows:
        return None
    labels = replace(dataset, samples=tuple(samples)).labels()
    return classification_scores(np.stack([rows[sample.id] for sample in samples]), labels)


def _groups(
    dataset: Dataset, samples: Sequence[Sample], size: int | None, centre: int | None, batch_size: int
) -> Iterator[tuple[list[Sample], tuple[int, int], tuple[int, int]]]:
    """Images of one size, that size, and the size at which the network sees them; both (height, width)."""
    by_size: dict[tuple[int, int], list[Sample]] = {}
    for sample in samples:
        native = dataset.image_size(sample) if centre is None else (centre, centre)
        by_size.setdefault(native, []).append(sample)
    for (height, width), group in by_size.items():
        seen = seen_size((height, width), size)
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size], (height, width), seen


def _paper_truth(truth: np.ndarray) -> np.ndarray:
    return _centre(np.where(truth == IGNORE, BACKGROUND, truth).astype(np.uint8), PAPER_SIDE, cv2.INTER_NEAREST)


def _picture(image: Image.Image, centre: int | None) -> Image.Image:
    return image if centre is None else Image.fromarray(_centre(np.asarray(image), centre, cv2.INTER_LINEAR))


def _centre(pixels: np.ndarray, side: int, interpolation: int) -> np.ndarray:
    """The largest square in the middle of (H, W, ...), as the paper's code (albumentations) cuts and resizes it."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    return cv2.resize(pixels[top : top + short, left : left + short], (side, side), interpolation=interpolation)


def _allowed(maps: Tensor, outputs: Sequence[int] | None) -> Tensor:
    """Maps (1, C + 1, h, w) with all but these outputs so low that they win nowhere; None: as they are."""
    if outputs is None:
        return maps
    low = torch.full_like(maps, torch.finfo(maps.dtype).min)
    low[:, list(outputs)] = maps[:, list(outputs)]
    return low
