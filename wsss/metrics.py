"""Numbers: confusion matrix and mIoU, the background rules of seeds, multi-label classification scores.

All scores are fractions in [0, 1]; the files and tables above show them in per cent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from wsss.data.sample import IGNORE

ORACLE_THRESHOLDS: tuple[float, ...] = tuple(
    float(t) for t in np.round(np.concatenate([np.arange(0.01, 0.1, 0.005), np.arange(0.1, 0.901, 0.01)]), 4)
)
"""Grid on which the oracle threshold is looked for: fine at the low end, since relevance is peaky."""


class ConfusionMatrix:
    """Counts of pixels by true class (rows) and predicted class (columns), streamed image by image.

    One matrix over a whole data set gives the mIoU of docs/protocols.md (background included, 255 ignored).

    >>> matrix = ConfusionMatrix(2)
    >>> matrix.update(np.array([[0, 1, 1]]), np.array([[0, 1, 255]]))
    >>> matrix.miou
    1.0

    Args:
        num_classes_with_background: C + 1, at most 255.
        counts: integer (C + 1, C + 1) to start from; zeros if None.
    """

    def __init__(self, num_classes_with_background: int, counts: np.ndarray | None = None) -> None:
        if not 1 <= num_classes_with_background <= IGNORE:
            raise ValueError(f"number of classes {num_classes_with_background}: expected 1 to {IGNORE}")
        shape = (num_classes_with_background, num_classes_with_background)
        self.counts = np.zeros(shape, np.int64) if counts is None else np.asarray(counts, np.int64).copy()
        if self.counts.shape != shape:
            raise ValueError(f"counts: expected shape {shape}, got {self.counts.shape}")

    @property
    def num_classes(self) -> int:
        """C + 1, background included."""
        return len(self.counts)

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Add one image.

        Args:
            prediction: integer (H, W), each in 0..C.
            truth: integer (H, W), each in 0..C, or 255 where the pixel does not count.

        Raises:
            ValueError: shapes differ, or a value is out of range.
        """
        prediction, truth = np.asarray(prediction), np.asarray(truth)
        if prediction.shape != truth.shape or prediction.ndim != 2:
            raise ValueError(f"prediction is {_size(prediction)}, ground truth is {_size(truth)}")
        _check_labels(prediction, self.num_classes, "prediction", ignore=False)
        _check_labels(truth, self.num_classes, "ground truth", ignore=True)
        kept = truth != IGNORE
        flat = truth[kept].astype(np.int64) * self.num_classes + prediction[kept]
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)

    def add(self, other: ConfusionMatrix | np.ndarray) -> None:
        """Add the counts of another matrix of the same classes (another image, another worker)."""
        counts = other.counts if isinstance(other, ConfusionMatrix) else np.asarray(other)
        if counts.shape != self.counts.shape:
            raise ValueError(f"cannot add counts of shape {counts.shape} to {self.counts.shape}")
        self.counts += counts

    def merge(self, *others: ConfusionMatrix) -> ConfusionMatrix:
        """A new matrix: the sum of this one and the others."""
        total = ConfusionMatrix(self.num_classes, self.counts)
        for other in others:
            total.add(other)
        return total

    @property
    def pixels(self) -> int:
        """Number of pixels counted."""
        return int(self.counts.sum())

    def iou(self) -> np.ndarray:
        """Intersection over union by class, float64 (C + 1,); NaN for a class neither in truth nor in prediction."""
        hits = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - hits
        return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)

    @property
    def miou(self) -> float:
        """Mean of the IoUs that are defined; NaN if nothing was counted."""
        iou = self.iou()
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")

    @property
    def pixel_accuracy(self) -> float:
        """Share of counted pixels that are right; NaN if nothing was counted."""
        return float(np.diag(self.counts).sum() / self.pixels) if self.pixels else float("nan")


def alpha_background(scores: np.ndarray, alpha: float) -> np.ndarray:
    """Background map of a seed by the alpha rule: M_bg = (1 - max_c M_c)^alpha.

    Source: Ahn and Kwak, "Learning pixel-level semantic affinity" (CVPR 2018), section 3.2; docs/protocols.md.

    >>> alpha_background(np.array([[[0.0, 0.5]], [[0.2, 0.75]]]), 2)
    array([[0.64  , 0.0625]])

    Args:
        scores: (K, h, w) in [0, 1]; K may be 0, the background is then 1 everywhere.
        alpha: exponent > 0; the larger, the less background.

    Returns:
        (h, w) in [0, 1], floating dtype of `scores` (at least float32).
    """
    if alpha <= 0:
        raise ValueError(f"alpha {alpha}: expected more than 0")
    strongest = _strongest(scores)
    # bilinear weights sum to 1 only within rounding, and a negative base has no fractional power
    return np.clip(1 - strongest, 0, 1) ** strongest.dtype.type(alpha)


def seed_to_mask(
    scores: np.ndarray, classes: np.ndarray, *, alpha: float | None = None, threshold: float | None = None
) -> np.ndarray:
    """The mask that a seed amounts to: the strongest class, or background by one of two rules.

    With `alpha`: argmax over background ``alpha_background(scores, alpha)`` and classes (a tie is background).
    With `threshold`: background where the strongest score is below it.

    >>> seed_to_mask(np.array([[[0.1, 0.9]], [[0.2, 0.3]]]), np.array([3, 5]), threshold=0.2)
    array([[5, 3]], dtype=uint8)

    Args:
        scores: (K, h, w) in [0, 1].
        classes: (K,) class indices from 1 on, uint8 or uint16.

    Returns:
        (h, w) of the type of `classes` (uint8 if that is none of the two), 0 where background.
    """
    if (alpha is None) == (threshold is None):
        raise ValueError("give either alpha or threshold")
    strongest = _strongest(scores)
    foreground = strongest > alpha_background(scores, alpha) if alpha is not None else strongest >= threshold
    dtype = np.uint16 if np.asarray(classes).dtype == np.uint16 else np.uint8
    return np.where(foreground, _strongest_class(scores, classes), 0).astype(dtype)


@dataclass(frozen=True)
class OracleThreshold:
    """The fixed threshold with the highest mIoU on the set it was chosen on: an oracle, since that reads the masks."""

    threshold: float
    matrix: ConfusionMatrix
    miou_by_threshold: np.ndarray = field(repr=False)
    """float64 (T,), one for each threshold of the grid."""


class ThresholdSweep:
    """Confusion matrices of a grid of fixed thresholds from one pass over the images.

    An image adds a histogram over (bin of the strongest score, strongest class, true class); cumulative sums over the
    bins then give the matrix of every threshold. Nothing is looped over thresholds while images stream by.

    Args:
        num_classes_with_background: C + 1.
        thresholds: strictly increasing; a pixel is foreground where its strongest score is >= threshold.
    """

    def __init__(self, num_classes_with_background: int, thresholds: Sequence[float] = ORACLE_THRESHOLDS) -> None:
        self.thresholds = np.asarray(thresholds, np.float32)
        if not len(self.thresholds) or (np.diff(self.thresholds) <= 0).any():
            raise ValueError("thresholds: expected at least one, strictly increasing")
        self.num_classes = num_classes_with_background
        # bin b holds the pixels that exactly b thresholds leave in the foreground
        self.histogram = np.zeros((len(self.thresholds) + 1, self.num_classes, self.num_classes), np.int64)

    def count(self, scores: np.ndarray, classes: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The histogram of one image, (T + 1, K, C + 1) int64, and the K classes it belongs to: what a worker returns.

        Args:
            scores: (K, H, W) at the ground truth's size; classes: (K,) in 1..C; truth: (H, W), 255 ignored.
        """
        if truth.shape != scores.shape[1:]:
            raise ValueError(f"seed is {_size(scores)}, ground truth is {_size(truth)}")
        _check_labels(truth, self.num_classes, "ground truth", ignore=True)
        kept = truth != IGNORE
        if len(classes) == 0:
            bins = winner = np.zeros(int(kept.sum()), np.int64)
            classes = np.zeros(1, np.uint8)  # class 0 in bin 0: background for every threshold
        else:
            bins = np.searchsorted(self.thresholds, scores.max(0)[kept].astype(np.float32), side="right")
            winner = scores.argmax(0)[kept]
        shape = (len(self.thresholds) + 1, len(classes), self.num_classes)
        flat = (bins * shape[1] + winner) * shape[2] + truth[kept]
        return np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape), np.asarray(classes)

    def add(self, histogram: np.ndarray, classes: np.ndarray) -> None:
        """Add what :meth:`count` returned."""
        self.histogram[:, classes] += histogram

    def update(self, scores: np.ndarray, classes: np.ndarray, truth: np.ndarray) -> None:
        """Add one image; arguments as for :meth:`count`."""
        self.add(*self.count(scores, classes, truth))

    def matrices(self) -> np.ndarray:
        """Counts (T, C + 1 true, C + 1 predicted) int64, one confusion matrix for each threshold."""
        below = self.histogram.cumsum(0)[:-1]  # pixels of bins <= i are background under threshold i
        above = self.histogram.sum(0) - below
        matrices = above.transpose(0, 2, 1).copy()
        matrices[:, :, 0] += below.sum(1)
        return matrices

    def best(self) -> OracleThreshold:
        """The threshold of highest mIoU (the lowest of equals)."""
        matrices = [ConfusionMatrix(self.num_classes, counts) for counts in self.matrices()]
        mious = np.array([matrix.miou for matrix in matrices])
        if np.isnan(mious).all():
            raise ValueError("no pixel was counted")
        index = int(np.nanargmax(mious))
        return OracleThreshold(round(float(self.thresholds[index]), 4), matrices[index], mious)


def _strongest(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores)
    if scores.ndim != 3:
        raise ValueError(f"scores: expected (K, h, w), got {scores.shape}")
    dtype = np.result_type(scores.dtype, np.float32)
    return scores.max(0).astype(dtype) if len(scores) else np.zeros(scores.shape[1:], dtype)


def _strongest_class(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    if len(classes) != len(scores):
        raise ValueError(f"expected a map for each of {len(classes)} classes, got {len(scores)}")
    return np.asarray(classes)[scores.argmax(0)] if len(classes) else np.zeros(scores.shape[1:], np.uint8)


def _check_labels(labels: np.ndarray, num_classes: int, name: str, *, ignore: bool) -> None:
    if labels.dtype.kind not in "ui":
        raise ValueError(f"{name}: expected integers, got {labels.dtype}")
    wrong = (labels < 0) | (labels >= num_classes)
    if ignore:
        wrong &= labels != IGNORE
    if wrong.any():
        allowed = f"0..{num_classes - 1}" + (f" or {IGNORE}" if ignore else "")
        raise ValueError(f"{name}: expected values in {allowed}, got {int(labels[wrong][0])}")


def _size(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape[-2:])) if array.ndim in (2, 3) else f"of shape {array.shape}"
