"""Seeds to confident labels, from which the affinity network learns (Athanasiadis et al. 2021, section 3.3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from affinity.settings import CRFConfig
from wsss.data import BACKGROUND, IGNORE, Sample
from wsss.entries import ALPHAS, READING_ALPHA
from wsss.errors import InputError
from wsss.metrics import alpha_background
from wsss.parallel import map_parallel
from wsss.settings import Config
from wsss.store import Seed, read_seed, write_mask


class LabelsConfig(Config):
    """How seeds become confident labels."""

    alpha_low: float = Field(4, gt=0)
    """exponent of the strong background: what is foreground even so is confident foreground; with --from refined, whose
    scores are to be read with alpha 1 as seeds are with 8, an eighth of it is taken"""
    alpha_high: float = Field(32, gt=0)
    """exponent of the weak background: what is background even so is confident background; likewise"""
    crf: CRFConfig = CRFConfig()

    @model_validator(mode="after")
    def _ordered(self) -> LabelsConfig:
        if self.alpha_low > self.alpha_high:
            raise ValueError(f"alpha_low {self.alpha_low}: expected at most alpha_high, {self.alpha_high}")
        return self

    def for_refined(self) -> LabelsConfig:
        """These settings for walked scores, which reach the scale of seeds at alpha 8 with alpha 1."""
        scale = READING_ALPHA["refined"] / ALPHAS[0]
        return self.model_copy(update={"alpha_low": self.alpha_low * scale, "alpha_high": self.alpha_high * scale})


def confident_labels(
    image: np.ndarray, scores: np.ndarray, classes: np.ndarray, config: LabelsConfig = LabelsConfig()
) -> np.ndarray:
    """Confident foreground and background of one image.

    M_bg = (1 - max_c M_c)^alpha is *large* where alpha is *low*. So a pixel that the CRF gives to a class
    although alpha is low is confidently that class; a pixel that it leaves to the background although alpha is
    high is confidently background; everything else is neutral. Where both hold (the CRF may do that at a pixel
    here and there) the background wins, as in AffinityNet's `VOC12AffDataset`.

    Args:
        image: (H, W, 3) uint8, RGB.
        scores: (K, H, W) in [0, 1], the seed at the size of the image.
        classes: (K,) class indices in 1..C. With K = 0, an image that shows no class of the list, every pixel is
            confident background: its image-level label says exactly that.

    Returns:
        (H, W) uint8: 0 background, class index, 255 neutral.
    """
    if len(classes) == 0:
        return np.full(image.shape[:2], BACKGROUND, np.uint8)
    from affinity.crf import DenseCRF  # which loads PyTorch

    alphas = (config.alpha_low, config.alpha_high)
    both = [np.concatenate([alpha_background(scores, alpha)[None], scores]) for alpha in alphas]
    values = np.array([BACKGROUND, *classes], np.uint8)
    label, cautious = values[DenseCRF(image, config.crf)(np.stack(both)).argmax(axis=1)]
    label[label == BACKGROUND] = IGNORE
    label[cautious == BACKGROUND] = BACKGROUND
    return label


@dataclass(frozen=True)
class LabelCounts:
    """What the labels of a set of images hold: `images`, those without any class, and pixels of each kind."""

    images: int
    images_without_classes: int
    background: int
    foreground: int
    neutral: int

    def __add__(self, other: LabelCounts) -> LabelCounts:
        """The counts of both sets of images."""
        return LabelCounts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def line(self) -> str:
        """The shares in one line."""
        total = max(1, self.background + self.foreground + self.neutral)
        shares = {kind: 100 * getattr(self, kind) / total for kind in ("background", "foreground", "neutral")}
        return ", ".join(f"{kind} {share:.1f} %" for kind, share in shares.items())


def label_images(
    samples: Sequence[Sample], seeds: Path, folder: Path, config: LabelsConfig = LabelsConfig(), *, workers: int = 1
) -> LabelCounts:
    """Write ``<folder>/<id>.png`` for every sample from ``<seeds>/<id>.npz``, in `workers` processes.

    Raises InputError naming the file if an image or a seed cannot be read or the two do not fit.
    """
    job = partial(_label_image, seeds=seeds, folder=folder, config=config)
    counts = np.zeros(4, np.int64)
    for count in map_parallel(job, samples, workers=workers, description="affinity labels"):
        counts += count
    return LabelCounts(len(samples), *counts.tolist())


def _label_image(sample: Sample, seeds: Path, folder: Path, config: LabelsConfig) -> np.ndarray:
    """Label one image; counts (without classes, background, foreground, neutral)."""
    seed = read_seed(seeds, sample.id)
    image = np.asarray(sample.load_image())
    check_seed(sample, image, seed)
    label = confident_labels(image, seed.upsample(), seed.classes, config)
    write_mask(folder, sample.id, label, sample.made_of)
    background, neutral = (label == BACKGROUND).sum(), (label == IGNORE).sum()
    return np.array([len(seed.classes) == 0, background, label.size - background - neutral, neutral], np.int64)


def check_seed(sample: Sample, image: np.ndarray, seed: Seed) -> None:
    """InputError if a seed was made from an image of another size, or when the image had other labels."""
    if tuple(seed.classes.tolist()) != sample.classes:
        raise InputError(
            f"seed of image {sample.id} shows the classes {seed.classes.tolist()}, its labels are "
            f"{list(sample.classes)}: the labels have changed; make the seeds again"
        )
    if image.shape[:2] != seed.size:
        sizes = " and ".join(f"{width} x {height}" for height, width in (seed.size, image.shape[:2]))
        raise InputError(
            f"seed of image {sample.id} and {sample.image_path} differ in size: {sizes}; make the seeds again"
        )
