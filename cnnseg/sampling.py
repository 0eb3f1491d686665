"""Budgets of masks: which training images keep theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from wsss.data import BACKGROUND, IGNORE, Dataset, Sample
from wsss.errors import InputError

UNIFORM_LEVELS = 5
"""Up to so many images of each class are chosen as uniformly over the classes as possible, whatever the budget."""

MIXED_FROM = 25
"""Budgets of at least so many images a class go on by the average of the uniform and the data set's distribution."""


def sample_masks(
    dataset: Dataset, budget: int | None, seed: int = 0, *, rule: Literal["even", "deficit"] = "even"
) -> tuple[Sample, ...]:
    """The images whose masks are used, in the order of the data set; the others keep their image-level labels.

    Yu et al. 2024, section 3: the two small budgets (1 and 5 images a class) are "maximally uniform distributed
    classes", each class at least once; from 25 a class on, "the average of a uniform distribution and the class
    distribution in the training set". The text does not say how (the published code draws for the class that is
    furthest below its share, images of common classes last); here it is done so, on the images that have a mask, by
    their image-level labels:

    1. Levels k = 1, 2, ... each set a quota of images to every class c: k C w_c, with w_c = 1 / C, so k. If the
       budget is at least 25 C, the levels from 6 on have w_c = (1 / C + p_c) / 2, p_c being class c's share of
       all the labels.
    2. While a class that has images left is below its quota of this level, the one with the fewest images in the
       data set takes its turn. Of its images that are left, those count whose other classes go least beyond
       their quotas (sum over classes of the images in excess); one of them is drawn at random.
    3. When no class is below its quota, the next level begins. Images without any class come last, at random.

    That is `rule` "even"; "deficit" is the published code's draw, see `_by_deficit`, whose budgets are not nested.

    So images of several classes are neither sought nor avoided as long as they fit, each class has one image after C
    or fewer draws, and the budgets 1, 5, 25 a class and all are nested: each holds the ones before it.

    Args:
        budget: how many masks; None: all there are; 0: none.
        seed: of the draw. Networks and trainings that are compared have the same.

    Raises:
        InputError: the budget is negative or larger than the number of masks.
    """
    pool = [sample for sample in dataset if sample.mask_path is not None]
    where = f"data set {dataset.name}/{dataset.split}"
    if budget is None:
        budget = len(pool)
    if budget < 0:
        raise InputError(f"`budget` {budget}: expected 0 or more")
    if budget > len(pool):
        raise InputError(f"`budget` {budget}: expected at most {len(pool)}, the images with masks of {where}")
    order = _by_deficit if rule == "deficit" else _order
    chosen = {pool[index].id for index in order(_class_table(dataset, pool), budget, seed)}
    return tuple(sample for sample in pool if sample.id in chosen)


def _class_table(dataset: Dataset, samples: Sequence[Sample]) -> np.ndarray:
    """Which of the images show which classes, bool (N, C)."""
    table = np.zeros((len(samples), dataset.num_classes), bool)
    for row, sample in enumerate(samples):
        table[row, [c - 1 for c in sample.classes]] = True
    return table


def _order(shown: np.ndarray, budget: int, seed: int) -> list[int]:
    """The first `budget` rows of `shown` (N, C) in the order in which they are chosen."""
    count, classes = shown.shape
    in_pool = shown.sum(0)
    even = np.ones(classes)
    share = in_pool / max(1, in_pool.sum())
    later = (even + classes * share) / 2 if budget >= MIXED_FROM * classes else even
    drawn = np.random.default_rng(seed).permutation(count)  # the first that fits in this order is a random one
    left = np.ones(count, bool)
    have = np.zeros(classes, int)
    chosen: list[int] = []
    level = 1
    while len(chosen) < budget:
        rest = drawn[left[drawn]]
        available = shown[rest].any(0)
        if not available.any():
            return chosen + rest[: budget - len(chosen)].tolist()
        quota = level * (even if level <= UNIFORM_LEVELS else later)
        below = available & (have < quota)
        if not below.any():
            level += 1
            continue
        turn = np.flatnonzero(below)[in_pool[below].argmin()]
        candidates = rest[shown[rest, turn]]
        excess = np.maximum(0, have + 1 - np.ceil(quota))
        index = int(candidates[(shown[candidates] @ excess).argmin()])
        left[index] = False
        have += shown[index]
        chosen.append(index)
    return chosen


def _by_deficit(shown: np.ndarray, budget: int, seed: int) -> list[int]:
    """Rows of `shown` (N, C) drawn one after the other for the class that lacks most.

    As Yu et al.'s code draws (``utils/sampling_utils.py``): class c is to have its share w_c, as in
    `sample_masks`, of all labels of the images drawn in the end, of which there are as many as images and one more for
    each further class that an image drawn so far shows. What it lacks, in parts of what all lack, is its chance; that
    of an image the least chance of its classes; and only images of the class that lacks most are drawn from. Where that
    leaves none, the code draws one image fewer; here the class that lacks next most takes the turn, at last anything.
    """
    count, classes = shown.shape
    share = np.full(classes, 1 / classes)
    if budget >= MIXED_FROM * classes:
        share = (share + shown.sum(0) / max(1, shown.sum())) / 2
    generator = np.random.default_rng(seed)
    left = np.ones(count, bool)
    have = np.zeros(classes)
    chosen: list[int] = []
    labels = float(budget)
    while len(chosen) < budget:
        lacking = np.maximum(share * labels - have, 0)
        chance = np.where(shown, lacking, np.inf).min(1, initial=np.inf)
        chance = np.where(left & np.isfinite(chance), chance, 0)
        weights = left.astype(float)
        for turn in np.argsort(-lacking, kind="stable"):
            if (chance * shown[:, turn]).any():
                weights = chance * shown[:, turn]
                break
        index = int(generator.choice(count, p=weights / weights.sum()))
        left[index] = False
        have += shown[index]
        labels += max(0, shown[index].sum() - 1)
        chosen.append(index)
    return chosen


def check_agreement(dataset: Dataset, samples: Sequence[Sample]) -> list[str]:
    """Where image-level labels and mask disagree: a line for each image, in the order of `samples`.

    A class that is in the mask and not among the labels, or among the labels and not in the mask (it may hide where
    the mask is 255). Reads the masks; images without one are passed over.

    Raises InputError if a mask cannot be read, or is of another size than its image.
    """
    lines = []
    for sample in samples:
        if sample.mask_path is None:
            continue
        mask = dataset.load_mask(sample)
        if clash := sample.size_clash(dataset.image_size(sample), mask.shape):
            raise InputError(clash)
        values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()
        in_mask, labelled = set(values) - {BACKGROUND, IGNORE}, set(sample.classes)
        parts = []
        if lacking := in_mask - labelled:
            parts.append(f"the mask shows {_names(dataset, lacking)}, which the labels lack")
        if absent := labelled - in_mask:
            parts.append(f"the labels name {_names(dataset, absent)}, of which the mask shows nothing")
        if parts:
            lines.append(f"image {sample.id} of {dataset.name}/{dataset.split}: {'; '.join(parts)}")
    return lines


def _names(dataset: Dataset, classes: set[int]) -> str:
    return ", ".join(dataset.class_names[c - 1] for c in sorted(classes))
