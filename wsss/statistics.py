"""Statistics of the tests of explanations: perturbation AUC, average precision of a map, bootstrap intervals."""

from __future__ import annotations

import numpy as np

from wsss.data.sample import IGNORE
from wsss.extras import extra

FRACTIONS: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of an image's pixels that the perturbation test removes, the clean image first."""

_CHUNK_BYTES = 16_000_000  # of resampling counts held at once


def perturbation_auc(accuracies: np.ndarray) -> np.ndarray:
    """Area under the accuracy of images that lose more and more of their pixels.

    Trapezoid rule over the fractions 0 to 0.9, times 100, not divided by 0.9: from 0 to 90 (docs/protocols.md;
    Chefer et al., CVPR 2021, table 2).

    >>> round(float(perturbation_auc(np.ones(10))), 6)
    90.0

    Args:
        accuracies: (..., 10), the accuracy in [0, 1] at each of `FRACTIONS`; of a single image, 0 or 1 (bool too).

    Returns:
        float64 (...), one area a curve. The area of a mean curve is the mean of the areas.
    """
    accuracies = np.asarray(accuracies, np.float64)
    if accuracies.ndim == 0 or accuracies.shape[-1] != len(FRACTIONS):
        raise ValueError(f"accuracies: expected {len(FRACTIONS)} fractions on the last axis, got {accuracies.shape}")
    if not ((accuracies >= 0) & (accuracies <= 1)).all():  # catches NaN as well
        raise ValueError("accuracies: expected values in [0, 1]")
    return 100 * np.trapezoid(accuracies, FRACTIONS, axis=-1)


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Average precision of one map, read as two score maps: 1 - map for background, map for foreground.

    The scores [1 - map, map] and the truths [background, foreground] are concatenated to one ranking (docs/protocols.md
    section 2; Chefer et al., CVPR 2021, table 3). The mean of it over images is the mAP. 1 - map is taken in the
    floating dtype of `scores`, as rounding decides about ties.

    >>> average_precision(np.array([[0.9, 0.2]]), np.array([[1, 0]]))
    1.0

    Args:
        scores: (H, W) in [0, 1].
        truth: (H, W), 0 background, 1 foreground, 255 ignored.

    Returns:
        The average precision in [0, 1]; NaN where every pixel is ignored.
    """
    with extra("wsss"):
        from sklearn.metrics import average_precision_score  # a second to import: only here

    scores, truth = np.asarray(scores), np.asarray(truth)
    if scores.shape != truth.shape or scores.ndim != 2:
        raise ValueError(f"scores and truth: expected (H, W), got {scores.shape} and {truth.shape}")
    if not np.isin(truth, (0, 1, IGNORE)).all():
        raise ValueError("truth: expected 0, 1 or 255")
    kept = truth != IGNORE
    if not kept.any():
        return float("nan")
    foreground, chosen = truth[kept] == 1, scores[kept]
    if not ((chosen >= 0) & (chosen <= 1)).all():
        raise ValueError("scores: expected values in [0, 1]")
    return float(
        average_precision_score(np.concatenate([~foreground, foreground]), np.concatenate([1 - chosen, chosen]))
    )


def bootstrap_means(columns: np.ndarray, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Means of rows drawn with replacement, all columns by the same draws.

    Each resample draws n of the n rows (Efron's bootstrap over images). Means of sums over a whole set (pixel counts)
    are sums but for the factor n, so ratios of columns are the ratios of that resample. The draws depend on n, `seed`
    and the number of the resample alone: two calls with as many rows see the same resamples.

    Args:
        columns: (n, k) finite numbers or bools, n >= 1, one row an image.
        resamples: R, at least 1.

    Returns:
        float64 (R, k). Memory beside that is bounded whatever n and R are, at least one row of counts.
    """
    columns = np.asarray(columns, np.float64)
    if columns.ndim != 2 or not len(columns):
        raise ValueError(f"columns: expected (n, k) with n >= 1, got {columns.shape}")
    if resamples < 1:
        raise ValueError(f"resamples {resamples}: expected at least 1")
    if not np.isfinite(columns).all():
        raise ValueError("columns: expected finite values, got NaN or infinity")
    rows = len(columns)
    chunk = min(resamples, max(1, _CHUNK_BYTES // (8 * rows)))
    counts = np.empty((chunk, rows))
    means = np.empty((resamples, columns.shape[1]))
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, chunk):
        due = min(chunk, resamples - start)
        for count in counts[:due]:  # how often each row was drawn: much cheaper than to sample a multinomial
            count[:] = np.bincount(generator.integers(rows, size=rows), minlength=rows)
        means[start : start + due] = counts[:due] @ columns / rows
    return means


def interval(values: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of bootstrap values.

    Args:
        values: (R, ...), one row a resample; NaN (a figure that a resample leaves undefined) is passed over.
        level: share of the resamples inside, in (0, 1).

    Returns:
        (low, high), each (...): the (1 - level) / 2 and (1 + level) / 2 quantiles.
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level}: expected a value between 0 and 1")
    values = np.asarray(values, np.float64)
    if values.ndim == 0 or not len(values):
        raise ValueError(f"values: expected (R, ...) with R >= 1, got {values.shape}")
    bounds = ((1 - level) / 2, (1 + level) / 2)
    defined = ~np.isnan(values)
    if defined.all():
        low, high = np.quantile(values, bounds, axis=0)
        return low, high
    never = ~defined.any(axis=0)  # nanquantile would warn about them
    low, high = np.nanquantile(np.where(never, 0, values), bounds, axis=0)
    return np.where(never, np.nan, low), np.where(never, np.nan, high)
