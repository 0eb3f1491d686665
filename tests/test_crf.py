"""The dense CRF against the published code, and against mean-field inference by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from skimage import data

from affinity.crf import DenseCRF
from affinity.settings import CRFConfig


def picture(height: int = 24, width: int = 31) -> tuple[np.ndarray, np.ndarray]:
    """Two-coloured noise and scores (2, H, W) that are unsure beside the border between the colours."""
    rng = np.random.default_rng(5)
    image = np.full((height, width, 3), 60, np.uint8)
    image[:, width // 2 :] = 180
    image = image + rng.integers(0, 8, image.shape).astype(np.uint8)
    right = np.clip(np.linspace(-0.2, 1.2, width), 0.02, 0.98) * np.ones((height, 1))
    return image, np.stack([1 - right, right]).astype(np.float32)


def published(image: np.ndarray, scores: np.ndarray, config: CRFConfig) -> np.ndarray:
    """The published code as AffinityNet's `crf_inference` calls it, an object for every score map."""
    densecrf = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed, nor to be had on 3.13")
    from pydensecrf.utils import unary_from_softmax

    height, width = image.shape[:2]
    crf = densecrf.DenseCRF2D(width, height, len(scores))
    crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(scores)))
    crf.addPairwiseGaussian(sxy=config.smooth_sigma, compat=config.smooth_weight)
    crf.addPairwiseBilateral(
        sxy=config.colour_sigma_xy, srgb=config.colour_sigma_rgb, rgbim=np.copy(image), compat=config.colour_weight
    )
    return np.array(crf.inference(config.iterations)).reshape(scores.shape)


def photograph() -> tuple[np.ndarray, np.ndarray]:
    """An astronaut, and scores (3, H, W) of her as blurred as seeds are."""
    image = np.array(Image.fromarray(data.astronaut()).resize((150, 140)))
    y, x = np.mgrid[:140, :150]
    person = np.exp(-(((y - 60) / 45) ** 2) - ((x - 65) / 40) ** 2)
    flag = 0.8 * np.exp(-(((y - 60) / 60) ** 2) - ((x - 10) / 30) ** 2)
    return image, np.stack([np.full_like(person, 0.3), person, flag]).astype(np.float32)


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


@pytest.mark.parametrize("make", [picture, photograph])
@pytest.mark.parametrize("config", [CRFConfig(), CRFConfig(smooth_sigma=1, colour_sigma_xy=30, colour_weight=4)])
def test_gives_what_the_published_code_gives(
    make: Callable[[], tuple[np.ndarray, np.ndarray]], config: CRFConfig
) -> None:
    image, scores = make()
    found, expected = DenseCRF(image, config)(scores), published(image, scores, config)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert (found.argmax(0) == expected.argmax(0)).mean() >= 0.999
    assert (found.argmax(0) != scores.argmax(0)).mean() > 0.01  # there was something to do


def test_score_maps_together_are_as_one_by_one() -> None:
    image, scores = photograph()
    crf, several = DenseCRF(image), np.stack([scores, scores**2, scores[[1, 0, 2]]])
    together = crf(several)
    assert together.shape == several.shape and not np.array_equal(together[0], together[1])
    for one, found in zip(several, together, strict=True):
        np.testing.assert_allclose(crf(one), found, atol=1e-6)


def test_agrees_with_mean_field_by_hand() -> None:
    """A permutohedral lattice is an approximation; weak weights keep it comparable."""
    image, scores = picture()
    config = CRFConfig(iterations=5, smooth_weight=0.5, colour_weight=1.0, colour_sigma_xy=10)
    found, expected = DenseCRF(image, config)(scores), mean_field(image, scores, config)
    assert np.abs(found - expected).max() < 0.05
    # Far nearer to the oracle than the scores are, so the agreement is not that of doing nothing.
    assert np.abs(found - expected).mean() < 0.2 * np.abs(scores - expected).mean()


def test_labels_snap_to_the_colours() -> None:
    image, scores = picture()
    label = DenseCRF(image)(scores).argmax(axis=0)
    expected = np.zeros(label.shape, int)
    expected[:, label.shape[1] // 2 :] = 1
    assert (label == expected).mean() > 0.98 > (scores.argmax(axis=0) == expected).mean() - 0.02


def test_probabilities_and_layouts() -> None:
    image, scores = picture()
    crf = DenseCRF(np.asfortranarray(image))
    found = crf(np.asfortranarray(scores.astype(np.float64)))
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(found, DenseCRF(image)(scores), atol=1e-9)  # the logarithm was float64
    read_only = image.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(DenseCRF(read_only)(scores), DenseCRF(image)(scores))


def test_swapping_labels_swaps_the_result() -> None:
    image, scores = picture()
    crf = DenseCRF(image)
    np.testing.assert_allclose(crf(scores[::-1].copy()), crf(scores)[::-1], atol=1e-6)


def test_zero_and_one_scores_are_clipped() -> None:
    image, scores = picture()
    hard = (scores > 0.5).astype(np.float32)
    assert np.isfinite(DenseCRF(image)(hard)).all()


def test_one_label_is_certain() -> None:
    image, _ = picture()
    found = DenseCRF(image)(np.zeros((1, *image.shape[:2])))
    assert found.shape == (1, *image.shape[:2]) and (found == 1).all()


def test_weights_of_zero_leave_the_normalised_scores() -> None:
    image, scores = picture()
    crf = DenseCRF(image, CRFConfig(smooth_weight=0, colour_weight=0))
    np.testing.assert_allclose(crf(scores), scores / scores.sum(axis=0), atol=1e-5)


def test_faults_are_told() -> None:
    image, scores = picture()
    crf = DenseCRF(image)
    with pytest.raises(ValueError, match="expected uint8"):
        DenseCRF(image.astype(float))
    for wrong in (scores[0], scores[:, 1:], scores[:0]):
        with pytest.raises(ValueError, match=r"scores: expected \(\.\.\., L, 24, 31\), got"):
            crf(wrong)
    with pytest.raises(ValueError, match="expected finite values"):
        crf(np.full_like(scores, np.nan))
