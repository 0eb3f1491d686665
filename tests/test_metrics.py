"""wsss.metrics against slow re-implementations from the definitions, in float64."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

import wsss.metrics
from wsss.classification import classification_scores
from wsss.metrics import ConfusionMatrix, ThresholdSweep, alpha_background, seed_to_mask


def test_examples_in_docstrings():
    tested = doctest.testmod(wsss.metrics)
    assert tested.attempted >= 4
    assert tested.failed == 0


def random_pair(rng: np.random.Generator, classes: int, shape=(13, 17)) -> tuple[np.ndarray, np.ndarray]:
    truth = rng.integers(0, classes, shape).astype(np.uint8)
    truth[rng.random(shape) < 0.2] = 255
    return rng.integers(0, classes, shape).astype(np.uint8), truth


def slow_iou(pairs: list[tuple[np.ndarray, np.ndarray]], c: int) -> float:
    both = either = 0
    for prediction, truth in pairs:
        for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
            if t == 255:
                continue
            both += p == c and t == c
            either += p == c or t == c
    return both / either if either else float("nan")


def test_confusion_matrix_equals_sets_of_pixels():
    rng = np.random.default_rng(0)
    pairs = [random_pair(rng, 5, (7 + i, 9)) for i in range(4)]
    matrix = ConfusionMatrix(6)  # class 5 never appears
    for prediction, truth in pairs:
        matrix.update(prediction, truth)
    expected = [slow_iou(pairs, c) for c in range(6)]
    np.testing.assert_allclose(matrix.iou(), expected, rtol=1e-12)
    assert np.isnan(matrix.iou()[5])
    assert matrix.miou == pytest.approx(np.mean(expected[:5]), abs=1e-12)
    right = sum(int((p == t)[t != 255].sum()) for p, t in pairs)
    counted = sum(int((t != 255).sum()) for _, t in pairs)
    assert matrix.pixels == counted
    assert matrix.pixel_accuracy == pytest.approx(right / counted, abs=1e-12)


def test_class_predicted_but_never_true_counts_as_zero():
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([[0, 2]]), np.array([[0, 0]]))
    np.testing.assert_array_equal(matrix.iou(), [0.5, np.nan, 0.0])
    assert matrix.miou == 0.25


def test_streamed_in_any_split_is_the_same_sum():
    rng = np.random.default_rng(1)
    pairs = [random_pair(rng, 4) for _ in range(6)]
    whole, first, second = (ConfusionMatrix(4) for _ in range(3))
    for i, pair in enumerate(pairs):
        whole.update(*pair)
        (first if i % 2 else second).update(*pair)
    merged = first.merge(second)
    np.testing.assert_array_equal(merged.counts, whole.counts)
    assert first.pixels < merged.pixels  # merge makes a new matrix
    first.add(second.counts)
    np.testing.assert_array_equal(first.counts, whole.counts)


def test_empty_matrix_is_nan_not_zero():
    matrix = ConfusionMatrix(3)
    matrix.update(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    assert np.isnan(matrix.miou)
    assert np.isnan(matrix.pixel_accuracy)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "prediction is 2 x 3, ground truth is 3 x 2"),
        (np.full((2, 2), 3), np.zeros((2, 2), int), "prediction: expected values in .*, got 3"),
        (np.full((2, 2), 255), np.zeros((2, 2), int), "prediction: expected values in .*, got 255"),
        (np.zeros((2, 2), int), np.full((2, 2), 7), "ground truth: expected values in .*, got 7"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), "prediction: expected integers, got float64"),
    ],
)
def test_confusion_matrix_refuses(prediction, truth, message):
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=message):
        matrix.update(prediction, truth)
    assert matrix.pixels == 0
    with pytest.raises(ValueError, match="cannot add"):
        matrix.add(ConfusionMatrix(4))


def test_alpha_rule_pixel_by_pixel():
    rng = np.random.default_rng(2)
    scores = rng.random((3, 6, 5)).astype(np.float32)
    classes = np.array([2, 7, 9], np.uint8)
    for alpha in (1, 4, 16.5):
        mask = seed_to_mask(scores, classes, alpha=alpha)
        for y in range(6):
            for x in range(5):
                column = scores[:, y, x].astype(np.float64)
                background = (1 - column.max()) ** alpha
                assert alpha_background(scores, alpha)[y, x] == pytest.approx(background, rel=1e-4, abs=1e-7)
                assert mask[y, x] == (classes[column.argmax()] if column.max() > background else 0)
    assert len(np.unique(seed_to_mask(scores, classes, alpha=1))) > 2


def test_alpha_rule_without_classes_and_with_rounding_above_one():
    nothing = np.zeros((0, 3, 4), np.float32)
    np.testing.assert_array_equal(alpha_background(nothing, 4), np.ones((3, 4)))
    np.testing.assert_array_equal(seed_to_mask(nothing, np.zeros(0, np.uint8), alpha=4), np.zeros((3, 4)))
    np.testing.assert_array_equal(seed_to_mask(nothing, np.zeros(0, np.uint8), threshold=0.1), np.zeros((3, 4)))
    assert alpha_background(np.full((1, 1, 1), 1.0000001), 2.5) == 0
    with pytest.raises(ValueError, match="alpha 0"):
        alpha_background(nothing, 0)
    with pytest.raises(ValueError, match="either"):
        seed_to_mask(nothing, np.zeros(0, np.uint8))


def test_one_pass_sweep_equals_a_loop_over_thresholds():
    rng = np.random.default_rng(3)
    grid = (0.05, 0.1, 0.25, 0.5, 0.75)
    sweep, one_by_one = ThresholdSweep(5, grid), [ConfusionMatrix(5) for _ in grid]
    for classes in ([1], [2, 4], [], [1, 2, 3]):
        shape = (8 + len(classes), 11)
        scores = (rng.random((len(classes), *shape)) ** 3).astype(np.float32)
        if classes:
            scores[0, 0, :5] = grid  # exactly on a threshold: foreground
        truth = random_pair(rng, 5, shape)[1]
        sweep.update(scores, np.array(classes, np.uint8), truth)
        for threshold, matrix in zip(grid, one_by_one, strict=True):
            matrix.update(seed_to_mask(scores, np.array(classes, np.uint8), threshold=threshold), truth)
    np.testing.assert_array_equal(sweep.matrices(), [matrix.counts for matrix in one_by_one])
    best, mious = sweep.best(), [matrix.miou for matrix in one_by_one]
    np.testing.assert_allclose(best.miou_by_threshold, mious, rtol=1e-12)
    assert best.threshold == grid[int(np.argmax(mious))]
    assert best.matrix.miou == max(mious)


def test_sweep_parts_from_workers_add_up():
    rng = np.random.default_rng(4)
    whole, parts = ThresholdSweep(4), ThresholdSweep(4)
    for _ in range(3):
        scores, truth = rng.random((2, 9, 9)).astype(np.float32), random_pair(rng, 4, (9, 9))[1]
        whole.update(scores, np.array([1, 3]), truth)
        parts.add(*ThresholdSweep(4).count(scores, np.array([1, 3]), truth))
    np.testing.assert_array_equal(whole.histogram, parts.histogram)
    assert whole.matrices().sum() == len(whole.thresholds) * whole.histogram.sum()
    with pytest.raises(ValueError, match="seed is 4 x 4"):
        whole.update(np.zeros((1, 4, 4)), np.array([1]), np.zeros((5, 4), np.uint8))


def test_classification_scores_from_counts():
    rng = np.random.default_rng(5)
    labels = (rng.random((40, 4)) < 0.4).astype(np.float32)
    labels[:, 3] = 0  # a class without a positive image
    probabilities = np.clip(labels * 0.3 + rng.random((40, 4)) * 0.7, 0, 1)
    probabilities[:, 3] = 0.1
    got = classification_scores(probabilities, labels)
    for c in range(3):
        guess, truth = probabilities[:, c] >= 0.5, labels[:, c] == 1
        hits = (guess & truth).sum()
        assert got.f1[c] == pytest.approx(2 * hits / (guess.sum() + truth.sum()), abs=1e-12)
        order = np.argsort(-probabilities[:, c])
        found = truth[order]
        precision_at = found.cumsum() / np.arange(1, 41)
        assert got.average_precision[c] == pytest.approx(precision_at[found].mean(), abs=1e-12)
    assert np.isnan(got.f1[3])
    assert np.isnan(got.average_precision[3])
    assert got.macro_f1 == pytest.approx(got.f1[:3].mean())
    assert got.mean_average_precision == pytest.approx(got.average_precision[:3].mean())


def test_classification_scores_refuse_nan():
    with pytest.raises(ValueError, match="NaN"):
        classification_scores(np.array([[np.nan]]), np.array([[1]]))
    with pytest.raises(ValueError, match="0 or 1"):
        classification_scores(np.array([[0.5]]), np.array([[2]]))
