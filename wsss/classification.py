"""Scores of a multi-label classifier."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from wsss.extras import extra


@dataclass(frozen=True)
class ClassificationScores:
    """Scores of a multi-label classifier, each in [0, 1].

    A class without a positive image has no average precision, and no F1 unless it was predicted: NaN, left out of the
    means.
    """

    f1: np.ndarray = field(repr=False)  # (C,)
    average_precision: np.ndarray = field(repr=False)  # (C,)
    macro_f1: float
    mean_average_precision: float
    threshold: float


def classification_scores(
    probabilities: np.ndarray, labels: np.ndarray, threshold: float = 0.5
) -> ClassificationScores:
    """Macro and per-class F1 at a threshold, and average precision, by scikit-learn.

    Args:
        probabilities: (N, C) in [0, 1]; labels: (N, C) of 0 and 1.
        threshold: a class is predicted where its probability is >= threshold.
    """
    with extra("wsss"):
        from sklearn.metrics import average_precision_score, f1_score  # a second to import: only here

    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    if probabilities.shape != labels.shape or labels.ndim != 2 or not len(labels):
        raise ValueError(
            f"probabilities and labels: expected (N, C), N >= 1, got {probabilities.shape} and {labels.shape}"
        )
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities: expected finite values, got NaN or infinity")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels: expected 0 or 1")
    truth, guess = labels.astype(int), (probabilities >= threshold).astype(int)
    columns = range(truth.shape[1])
    f1 = np.array([f1_score(truth[:, c], guess[:, c], zero_division=np.nan) for c in columns])
    precision = np.array(
        [average_precision_score(truth[:, c], probabilities[:, c]) if truth[:, c].any() else np.nan for c in columns]
    )
    return ClassificationScores(f1, precision, _mean(f1), _mean(precision), threshold)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
