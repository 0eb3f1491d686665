"""The dense CRF: the reused object against fresh ones, and against mean-field inference by hand."""

from __future__ import annotations

import numpy as np
import pytest

from affinity.crf import CRFConfig, DenseCRF


def picture(height: int = 24, width: int = 31) -> tuple[np.ndarray, np.ndarray]:
    """Two-coloured noise and scores (2, H, W) that are unsure beside the border between the colours."""
    rng = np.random.default_rng(5)
    image = np.full((height, width, 3), 60, np.uint8)
    image[:, width // 2 :] = 180
    image = image + rng.integers(0, 8, image.shape).astype(np.uint8)
    right = np.clip(np.linspace(-0.2, 1.2, width), 0.02, 0.98) * np.ones((height, 1))
    return image, np.stack([1 - right, right]).astype(np.float32)


def fresh(image: np.ndarray, scores: np.ndarray, config: CRFConfig) -> np.ndarray:
    """The library as AffinityNet's `crf_inference` calls it, an object for every score map."""
    from pydensecrf.densecrf import DenseCRF2D
    from pydensecrf.utils import unary_from_softmax

    height, width = image.shape[:2]
    crf = DenseCRF2D(width, height, len(scores))
    crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(scores)))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=np.copy(image), compat=10)
    return np.array(crf.inference(config.iterations)).reshape(scores.shape)


def mean_field(image: np.ndarray, scores: np.ndarray, config: CRFConfig) -> np.ndarray:
    """Kraehenbuehl and Koltun, algorithm 1, with explicit (HW x HW) kernels, symmetrically normalised, float64."""
    height, width = image.shape[:2]
    place = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2).astype(float)
    colour = image.reshape(-1, 3).astype(float)

    def kernel(*parts: np.ndarray) -> np.ndarray:
        features = np.concatenate(parts, axis=1)
        matrix = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(-1))
        norm = 1 / np.sqrt(matrix.sum(axis=1))
        return norm[:, None] * matrix * norm

    def softmax(energy: np.ndarray) -> np.ndarray:
        exponential = np.exp(-(energy - energy.min(axis=0)))
        return exponential / exponential.sum(axis=0)

    message = config.smooth_weight * kernel(place / config.smooth_sigma)
    message += config.colour_weight * kernel(place / config.colour_sigma_xy, colour / config.colour_sigma_rgb)
    unary = -np.log(np.clip(scores.astype(float), config.clip, 1)).reshape(len(scores), -1)
    belief = softmax(unary)
    for _ in range(config.iterations):
        belief = softmax(unary - belief @ message)
    return belief.reshape(scores.shape)


def test_one_object_serves_two_score_maps_exactly() -> None:
    image, scores = picture()
    others = np.ascontiguousarray(scores[::-1] ** 2)
    config = CRFConfig()
    crf = DenseCRF(image, 2)
    for given in (scores, others, scores):
        np.testing.assert_array_equal(crf(given), fresh(image, given, config))
    assert not np.array_equal(crf(scores), crf(others))


def test_agrees_with_mean_field_by_hand() -> None:
    """The library filters on a permutohedral lattice, an approximation; weak weights keep it comparable."""
    image, scores = picture()
    config = CRFConfig(iterations=5, smooth_weight=0.5, colour_weight=1.0, colour_sigma_xy=10)
    found, expected = DenseCRF(image, 2, config)(scores), mean_field(image, scores, config)
    assert np.abs(found - expected).max() < 0.05
    # Far nearer to the oracle than the scores are, so the agreement is not that of doing nothing.
    assert np.abs(found - expected).mean() < 0.2 * np.abs(scores - expected).mean()


def test_labels_snap_to_the_colours() -> None:
    image, scores = picture()
    label = DenseCRF(image, 2)(scores).argmax(axis=0)
    expected = np.zeros(label.shape, int)
    expected[:, label.shape[1] // 2 :] = 1
    assert (label == expected).mean() > 0.98 > (scores.argmax(axis=0) == expected).mean() - 0.02


def test_probabilities_and_layouts() -> None:
    image, scores = picture()
    crf = DenseCRF(np.asfortranarray(image), 2)
    found = crf(np.asfortranarray(scores.astype(np.float64)))
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(found, DenseCRF(image, 2)(scores), atol=1e-9)  # the logarithm was float64
    read_only = image.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(DenseCRF(read_only, 2)(scores), DenseCRF(image, 2)(scores))


def test_swapping_labels_swaps_the_result() -> None:
    image, scores = picture()
    crf = DenseCRF(image, 2)
    np.testing.assert_allclose(crf(scores[::-1].copy()), crf(scores)[::-1], atol=1e-6)


def test_zero_and_one_scores_are_clipped() -> None:
    image, scores = picture()
    hard = (scores > 0.5).astype(np.float32)
    assert np.isfinite(DenseCRF(image, 2)(hard)).all()


def test_one_label_is_certain() -> None:
    image, _ = picture()
    found = DenseCRF(image, 1)(np.zeros((1, *image.shape[:2])))
    assert found.shape == (1, *image.shape[:2]) and (found == 1).all()


def test_weights_of_zero_leave_the_normalised_scores() -> None:
    image, scores = picture()
    crf = DenseCRF(image, 2, CRFConfig(smooth_weight=0, colour_weight=0))
    np.testing.assert_allclose(crf(scores), scores / scores.sum(axis=0), atol=1e-5)


def test_faults_are_told() -> None:
    image, scores = picture()
    with pytest.raises(ValueError, match="expected uint8"):
        DenseCRF(image.astype(float), 2)
    with pytest.raises(ValueError, match="scores have shape"):
        DenseCRF(image, 3)(scores)
    with pytest.raises(ValueError, match="not finite"):
        DenseCRF(image, 2)(np.full_like(scores, np.nan))
    with pytest.raises(ValueError, match="at least one"):
        DenseCRF(image, 0)
